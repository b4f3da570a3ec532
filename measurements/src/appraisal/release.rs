//! Which of the verifier's releases runs, and is it one that the policy accepts?

use crate::launch::{CpuModel, GuestFeatures, Shape, VcpuCount, Vmm};
use crate::manifest::ReferenceValue;
use crate::platform::Platform;
use crate::report::Report;

use super::basis::Basis;
use super::known::KnownRelease;
use super::policy::{Policy, Releases, UnlistedShapes};
use super::release_rules::ReleaseRule;
use super::rules::Expiry;
use super::verdict::{CheckName, Recorder, platform_text};

/// A release whose table or law gives a launch digest.
struct Fit<'a> {
    release: &'a KnownRelease,
    shape: Shape,
    listed: bool,
}

/// Judges, recording every check; the release that the launch digest is of, else the one that the
/// report is held to in its place.
pub(super) fn judge<'a>(
    releases: &'a [KnownRelease],
    policy: &Policy,
    basis: &Basis<'_>,
    platform: Platform,
    report: &Report,
    recorder: &mut Recorder<'_>,
) -> Option<&'a KnownRelease> {
    let accepted = |known: &KnownRelease| accepts(policy, known, platform);
    let fit = find(releases, report, accepted);
    let nearest = || releases.iter().find(|known| accepted(known)).or(releases.first());
    let known = fit.as_ref().map(|fit| fit.release).or_else(nearest);
    let Some(known) = known else {
        recorder.record(CheckName::Release, false, &"a release", &"the verifier holds none");
        return None;
    };
    recorder.release = Some((known.release().clone(), *known.sha256()));
    judge_name(policy, known, basis, recorder);
    let (expected, found) = (platform_text(platform), platform_text(known.release().platform));
    recorder.equal(CheckName::ReleasePlatform, &expected, &found);
    let rows = known.manifest().reference_values.len();
    let agree = format!("{rows} launch digests agree");
    recorder.record(CheckName::Manifest, true, &"artifacts, law and table that agree", &agree);
    judge_measurement(releases, policy, report, fit.as_ref(), recorder);
    Some(known)
}

/// The rules of the policy that name a release; `None` where it takes each one as given.
fn rules<'a>(policy: &'a Policy, known: &KnownRelease) -> Option<Vec<&'a ReleaseRule>> {
    match &policy.releases {
        Releases::AsGiven => None,
        Releases::Listed(rules) => {
            Some(rules.iter().filter(|rule| rule.names(known.release())).collect())
        }
    }
}

fn accepts(policy: &Policy, known: &KnownRelease, platform: Platform) -> bool {
    let revoked = |revoked: &super::Revoked| revoked.covers(known.release(), known.sha256());
    known.release().platform == platform
        && !policy.revoked.iter().any(revoked)
        && rules(policy, known).is_none_or(|rules| {
            rules.iter().any(|rule| rule.manifest_sha256.accepts(known.sha256()).unwrap_or(true))
        })
}

/// The release with the digest: an accepted one first, by the table before by the law.
fn find<'a>(
    releases: &'a [KnownRelease],
    report: &Report,
    accepted: impl Fn(&KnownRelease) -> bool,
) -> Option<Fit<'a>> {
    let found = report.measurement();
    let listed = |release: &'a KnownRelease| {
        let row = release.manifest().find_measurement(&found).map(ReferenceValue::shape);
        row.map(|shape| Fit { release, shape, listed: true })
    };
    let by_law = |release: &'a KnownRelease| {
        let shapes: Vec<Shape> = unlisted_shapes().collect();
        let digests = release.manifest().law.matrix(&shapes);
        let mut fitting = shapes.into_iter().zip(digests).filter(|(_, digest)| *digest == found);
        fitting.next().map(|(shape, _)| Fit { release, shape, listed: false })
    };
    let first = |fits: Vec<Fit<'a>>| {
        let at = fits.iter().position(|fit| accepted(fit.release)).unwrap_or(0);
        fits.into_iter().nth(at)
    };
    first(releases.iter().filter_map(listed).collect())
        .or_else(|| first(releases.iter().filter_map(by_law).collect()))
}

/// Shapes that a report may be of although the table does not list them: stock QEMU with every
/// CPU signature, by the model that names it first.
fn unlisted_shapes() -> impl Iterator<Item = Shape> {
    CpuModel::distinct().flat_map(|cpu_model| {
        (1..=u64::from(VcpuCount::MAX)).filter_map(|count| VcpuCount::new(count).ok()).map(
            move |vcpus| Shape {
                vmm: Vmm::Qemu,
                cpu_model,
                guest_features: GuestFeatures::SNP_ACTIVE,
                vcpus,
            },
        )
    })
}

fn judge_name(
    policy: &Policy,
    known: &KnownRelease,
    basis: &Basis<'_>,
    recorder: &mut Recorder<'_>,
) {
    let (name, hash) = (CheckName::Release, known.sha256());
    let found = format!("{} {}", known.release().name, known.release().version);
    let covering = policy.revoked.iter().find(|revoked| revoked.covers(known.release(), hash));
    let revoked =
        covering.map_or("not revoked".to_owned(), |revoked| format!("revoked: {revoked}"));
    recorder.record(CheckName::ReleaseRevoked, covering.is_none(), &"not revoked", &revoked);
    let Some(rules) = rules(policy, known) else {
        recorder.record(name, true, &"one that the verifier was given", &found);
        recorder.judged(CheckName::ReleaseManifest, None, &"any", hash);
        recorder.judged(CheckName::ReleaseExpiry, None, &Expiry::Never, &basis.now());
        return;
    };
    let expected = policy.accepted_releases();
    if !recorder.record(name, !rules.is_empty(), &expected, &found) {
        return;
    }
    // Of several rules for one release the first that accepts it counts, else the first.
    let holds = |rule: &&&ReleaseRule| {
        rule.manifest_sha256.accepts(hash) != Some(false)
            && rule.expires.holds_at(basis.now()) != Some(false)
    };
    if let Some(rule) = rules.iter().find(holds).or(rules.first()) {
        recorder.expect(CheckName::ReleaseManifest, &rule.manifest_sha256, hash);
        let holds = rule.expires.holds_at(basis.now());
        recorder.judged(CheckName::ReleaseExpiry, holds, &rule.expires, &basis.now());
    }
}

fn judge_measurement(
    releases: &[KnownRelease],
    policy: &Policy,
    report: &Report,
    fit: Option<&Fit<'_>>,
    recorder: &mut Recorder<'_>,
) {
    let found = report.measurement();
    let listed: usize = releases.iter().map(|one| one.manifest().reference_values.len()).sum();
    let expected = format!("one of the {listed} listed");
    let name = CheckName::Measurement;
    let Some(Fit { release, shape, listed }) = fit else {
        let one =
            |known: &KnownRelease| format!("{} {}", known.release().name, known.release().version);
        let text = match releases {
            [_] => format!("{found}, which is no launch of this release"),
            all => {
                let names: Vec<String> = all.iter().map(one).collect();
                format!("{found}, which is no launch of any of {}", names.join(", "))
            }
        };
        recorder.record(name, false, &expected, &text);
        return;
    };
    recorder.shape = Some(*shape);
    let of = match releases {
        [_] => String::new(),
        _ => format!(" of {} {}", release.release().name, release.release().version),
    };
    if *listed {
        recorder.record(name, true, &expected, &format!("{found} ({shape}){of}"));
    } else {
        let accepted = policy.shapes.unlisted == UnlistedShapes::AcceptByLaw;
        let text = format!("{found} ({shape}){of}, by the law, not in the table");
        recorder.record(name, accepted, &expected, &text);
        recorder.resourced(name, super::Source::Policy("shapes.unlisted"));
    }
    let shapes = &policy.shapes;
    let accepted = shapes.vcpus.accepts_by(|range| range.contains(shape.vcpus));
    recorder.judged(CheckName::Vcpus, accepted, &shapes.vcpus, &shape.vcpus);
    // The digest holds the signature, which several models share.
    let signature = shape.cpu_model.signature();
    let accepted = shapes.cpu_models.accepts_by(|model| model.signature() == signature);
    recorder.judged(CheckName::CpuModel, accepted, &shapes.cpu_models, &shape.cpu_model);
}
