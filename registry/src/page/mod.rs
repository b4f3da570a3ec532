//! The transparency page: what was released, as a static site that anyone can keep and serve.
//!
//! A page says what a release directory says of itself: its digests by shape, its packages, what
//! changed since the release before, package by package, and which signature files lie beside it.
//! With a signers file it says who of them signed, and the reader's browser verifies again what keys
//! signed, with the WebAssembly module also certificates, logs and timestamps; with an index it says
//! what is current and what is revoked. Whoever serves a page can
//! serve another, so each names the commands that rest on nobody. It loads nothing from anywhere.

mod changes;
mod html;
mod listed;
mod module;
mod release;

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use casemate_measurements::manifest::artifact;
use casemate_measurements::platform::Platform;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use changes::{Change, changes};
use html::{Html, page};
pub use module::{Module, ModuleError};
pub use release::{PageError, Release, SignatureFile};
use serde_json::{Value, json};

use crate::attestation::{MANIFEST_PREDICATE, PAYLOAD_TYPE, STATEMENT_TYPE};
use crate::index::IndexFile;
use crate::verify::{Judgement, Policy, unjudged};

/// Name of the page that lists all releases.
const INDEX: &str = "index.html";

/// An index that was judged.
#[derive(Debug)]
pub struct ListedIndex<'a> {
    /// The index.
    pub file: &'a IndexFile,
    /// Who signed it.
    pub judgement: Judgement,
}

/// What a site is about.
#[derive(Debug)]
pub struct Site<'a> {
    /// The releases, the earlier ones of a name first.
    pub releases: &'a [Release],
    /// Whom the reader is told about, the same by whom the releases were judged.
    pub policy: Option<&'a Policy>,
    /// What is current.
    pub index: Option<ListedIndex<'a>>,
    /// What browsers verify signatures with; without it, what keys signed by their own means.
    pub module: Option<&'a Module>,
}

/// Renders a site: its files by name. Releases of one name are compared in the order given.
#[must_use]
pub fn render(site: &Site<'_>) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut list = Html::default();
    list.element("h1", "Releases");
    list.element("p", "Each page says what a release says of itself, and how to verify that.");
    listed::releases(&mut list, site);
    listed::index(&mut list, site);
    listed::revoked(&mut list, site);
    for (index, release) in site.releases.iter().enumerate() {
        let same = |other: &&Release| other.manifest.release.name == release.manifest.release.name;
        let before = site.releases[..index].iter().rev().find(same);
        files
            .insert(file_name(index, release), page(&title(release), &body(site, release, before)));
    }
    files.insert(INDEX.to_owned(), page("Releases", &list));
    files
}

/// Writes a site into `out`, the list last, so that it never names a page that is not there.
///
/// # Errors
/// When a file cannot be written.
pub fn write(out: &Path, files: &BTreeMap<String, String>) -> Result<(), PageError> {
    let (list, pages): (Vec<_>, Vec<_>) = files.iter().partition(|(name, _)| *name == INDEX);
    for (name, text) in pages.into_iter().chain(list) {
        let path = out.join(name);
        let write = || -> io::Result<()> {
            std::fs::create_dir_all(out)?;
            let mut file = tempfile::NamedTempFile::new_in(out)?;
            file.write_all(text.as_bytes())?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            file.as_file().set_permissions(mode)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(|source| PageError::Write { path: PathBuf::from(&path), source })?;
    }
    Ok(())
}

fn title(release: &Release) -> String {
    format!("{} {}", release.manifest.release.name, release.manifest.release.version)
}

/// A manifest's names have no character that means something in a path or an address.
fn file_name(index: usize, release: &Release) -> String {
    let named = &release.manifest.release;
    format!("{}-{}-{index}.html", named.name, named.version)
}

fn platform(release: &Release) -> &'static str {
    platform_of(release.manifest.release.platform)
}

fn platform_of(platform: Platform) -> &'static str {
    match platform {
        Platform::Snp => "AMD SEV-SNP",
        Platform::Simulated => "SIMULATED, proves nothing",
    }
}

fn body(site: &Site<'_>, release: &Release, before: Option<&Release>) -> Html {
    let mut html = Html::default();
    html.open("p", &[]);
    html.link(INDEX, "All releases");
    html.close("p");
    html.element("h1", &title(release));
    if release.manifest.release.platform == Platform::Simulated {
        html.warning("This release is for the SIMULATED platform: its VMs prove nothing.");
    }
    let named = &release.manifest.release;
    let objection = site.index.as_ref().and_then(|listed| {
        let index = listed.file.index();
        index.objection(&named.name, &named.version, &release.manifest_sha256)
    });
    if let Some(objection) = objection {
        html.warning(&format!("Not to be used: {objection}."));
    }
    html.open("table", &[]);
    html.fact("Platform", platform(release));
    if let Some(state) = listed::state(site, release) {
        html.fact("In the index", &state);
    }
    html.fact("SHA-256 of manifest.json", &release.manifest_sha256.to_string());
    html.fact("Recipe", &release.manifest.inputs.recipe_sha256.to_string());
    html.fact("Lock", &release.manifest.inputs.lock_sha256.to_string());
    html.fact("Guest policy", &release.manifest.guest_policy.to_string());
    html.close("table");
    verify(&mut html, release);
    signatures(&mut html, site, release);
    differences(&mut html, release, before);
    artifacts(&mut html, release);
    digests(&mut html, release);
    packages(&mut html, release);
    html
}

fn verify(html: &mut Html, release: &Release) {
    html.element("h2", "Verify it yourself");
    let named = &release.manifest.release;
    let dir = format!("{}-{}", named.name, named.version);
    html.element(
        "p",
        "The first command fetches a release and holds every byte to its digest; REF is where its \
         publisher keeps it. The others hold the digests below to the files, and say who signed.",
    );
    html.lines(&[
        format!("casemate release pull REF {dir}"),
        format!("sha256sum {dir}/manifest.json   # {}", release.manifest_sha256),
        format!("casemate measure verify {dir}"),
        format!("casemate release verify {dir} --signers POLICY"),
    ]);
}

fn signatures(html: &mut Html, site: &Site<'_>, release: &Release) {
    html.element("h2", "Signatures");
    if release.signatures.is_empty() {
        html.element("p", "There are none: nobody vouches for this release here.");
        return;
    }
    if let (Some(policy), Some(judgement)) = (site.policy, &release.judgement) {
        let sentence = listed::sentence(judgement);
        let lacks = unjudged(policy).map(|lacks| format!("; {lacks}")).unwrap_or_default();
        html.element("p", &format!("Judged when this page was made: {sentence}{lacks}."));
        html.open("table", &[]);
        html.row("th", &["Signer", "SHA-256 of the public key"]);
        let elsewhere = match site.module {
            Some(_) => "by identity or log",
            None => "by identity or log: not verified by this page",
        };
        for signer in policy.signers() {
            let key = signer.plain_key().map(|key| key.sha256().to_string());
            let key = key.unwrap_or_else(|| elsewhere.to_owned());
            html.row("td", &[signer.name(), &key]);
        }
        html.close("table");
        html.verified_here(&verification(policy, release, site.module), site.module);
    }
    html.element("p", "What the files say of themselves:");
    html.open("table", &[]);
    html.row("th", &["File", "Signs", "Key or certificate", "SHA-256 of the file"]);
    for file in &release.signatures {
        html.row("td", &[&file.path, &file.predicate, &file.signer, &file.sha256.to_string()]);
    }
    html.close("table");
}

/// What a browser needs to verify a release's signatures.
fn verification(policy: &Policy, release: &Release, module: Option<&Module>) -> Value {
    let signers = policy.signers().iter().filter_map(|signer| {
        let key = signer.plain_key()?;
        let spki = STANDARD.encode(key.spki());
        Some(json!({ "name": signer.name(), "curve": key.curve(), "spki": spki }))
    });
    let bundles = release.bundles.iter().filter_map(|(path, bytes)| {
        let text = std::str::from_utf8(bytes).ok()?;
        Some(json!({ "path": path, "text": text }))
    });
    json!({
        "manifest": STANDARD.encode(&release.manifest_bytes),
        "manifest_sha256": release.manifest_sha256,
        "payload_type": PAYLOAD_TYPE,
        "statement_type": STATEMENT_TYPE,
        "predicate_type": MANIFEST_PREDICATE,
        "lacks": unjudged(policy),
        "policy": module.map(|_| policy.source()),
        "threshold": policy.threshold(),
        "signers": signers.collect::<Vec<_>>(),
        "bundles": bundles.collect::<Vec<_>>(),
    })
}

fn differences(html: &mut Html, release: &Release, before: Option<&Release>) {
    let Some(before) = before else { return };
    html.element("h2", &format!("Changes since {}", title(before)));
    let changed = changes(&before.packages, &release.packages);
    if changed.is_empty() {
        html.element("p", "No package changed.");
    } else {
        html.open("table", &[]);
        html.row("th", &["Package", "Before", "Now"]);
        for (name, change) in &changed {
            match change {
                Change::Added(now) => html.row("td", &[name, "", now]),
                Change::Removed(was) => html.row("td", &[name, was, ""]),
                Change::Moved(was, now) => html.row("td", &[name, was, now]),
            }
        }
        html.close("table");
    }
    let (old, new) = (&before.manifest, &release.manifest);
    let files: Vec<&str> = artifact::ALL
        .into_iter()
        .filter(|name| {
            let hash = |artifacts: &BTreeMap<String, _>| -> Option<_> {
                artifacts
                    .get(*name)
                    .map(|file: &casemate_measurements::manifest::Artifact| file.sha256)
            };
            hash(&old.artifacts) != hash(&new.artifacts)
        })
        .collect();
    let files = if files.is_empty() { "none".to_owned() } else { files.join(", ") };
    html.element("p", &format!("Files that changed: {files}."));
}

fn artifacts(html: &mut Html, release: &Release) {
    html.element("h2", "Files");
    html.open("table", &[]);
    html.row("th", &["File", "Bytes", "SHA-256"]);
    for (name, file) in &release.manifest.artifacts {
        html.row("td", &[name, &file.size.to_string(), &file.sha256.to_string()]);
    }
    html.close("table");
}

fn digests(html: &mut Html, release: &Release) {
    html.element("h2", "Launch digests");
    let mut groups: BTreeMap<String, Vec<(u16, String)>> = BTreeMap::new();
    for row in &release.manifest.reference_values {
        let group =
            format!("{}, {}, guest features {}", row.vmm, row.cpu_model, row.guest_features);
        let digest = (row.vcpus.get(), row.measurement.to_string());
        groups.entry(group).or_default().push(digest);
    }
    for (group, rows) in groups {
        html.open("details", &[]);
        html.element("summary", &format!("{group}: {} digests", rows.len()));
        html.open("table", &[]);
        html.row("th", &["vCPUs", "MEASUREMENT"]);
        for (vcpus, digest) in rows {
            html.open("tr", &[]);
            html.element("td", &vcpus.to_string());
            html.classed("td", "digest", &digest);
            html.close("tr");
        }
        html.close("table");
        html.close("details");
    }
}

fn packages(html: &mut Html, release: &Release) {
    html.element("h2", "Bill of materials");
    html.open("details", &[]);
    html.element("summary", &format!("{} packages, as sbom.json has them", release.packages.len()));
    html.open("table", &[]);
    html.row("th", &["Package", "Version"]);
    for (name, versions) in &release.packages {
        html.row("td", &[name, &versions.join(", ")]);
    }
    html.close("table");
    html.close("details");
}

#[cfg(test)]
mod tests;
