//! What an index says, on the page that lists releases and on each release's own.

use std::collections::BTreeSet;

use super::html::Html;
use super::{Release, Site, file_name, platform, platform_of, title};
use crate::index::Index;
use crate::verify::Judgement;

/// Who signed, in a sentence.
pub(super) fn sentence(judgement: &Judgement) -> String {
    let Judgement { signers, threshold, of, .. } = judgement;
    let who = if signers.is_empty() { "nobody".to_owned() } else { signers.join(", ") };
    format!("{who}: {} of {of} signers, {threshold} needed", signers.len())
}

/// What the index says of itself.
pub(super) fn index(html: &mut Html, site: &Site<'_>) {
    let Some(listed) = &site.index else { return };
    let index = listed.file.index();
    html.element("h2", &format!("Index {}", index.name));
    html.open("table", &[]);
    html.fact("Version", &index.version.to_string());
    html.fact("Issued", &index.issued.to_string());
    html.fact("Expires", &index.expires.to_string());
    html.fact("SHA-256", &listed.file.sha256().to_string());
    html.fact("Signed by, when this page was made", &sentence(&listed.judgement));
    for (name, minimum) in &index.minimum {
        html.fact(&format!("Minimum version of {name}"), minimum);
    }
    html.close("table");
    html.element("p", "A copy of an index ages. Readers take the newest by:");
    html.lines(&["casemate release list INDEX --signers SIGNERS".to_owned()]);
}

/// The table of releases: first those of the index, then others that have a page.
pub(super) fn releases(html: &mut Html, site: &Site<'_>) {
    html.open("table", &[]);
    html.row(
        "th",
        &["Release", "Platform", "State", "Digests", "Signed by", "SHA-256 of manifest.json"],
    );
    for (at, release) in site.releases.iter().enumerate() {
        html.open("tr", &[]);
        html.open("td", &[]);
        html.link(&file_name(at, release), &title(release));
        html.close("td");
        html.element("td", platform(release));
        html.element("td", &state(site, release).unwrap_or_default());
        html.element("td", &release.manifest.reference_values.len().to_string());
        html.element("td", &signed_by(release));
        html.code("td", &release.manifest_sha256.to_string());
        html.close("tr");
    }
    let here: BTreeSet<_> = site.releases.iter().map(|release| release.manifest_sha256).collect();
    let entries = site.index.iter().flat_map(|listed| &listed.file.index().releases);
    for entry in entries.filter(|entry| !here.contains(&entry.manifest_sha256)) {
        let name = format!("{} {}", entry.name, entry.version);
        let index = site.index.as_ref().map(|listed| listed.file.index());
        let state =
            index.map(|index| state_in(index, &entry.name, &entry.version, &entry.manifest_sha256));
        html.open("tr", &[]);
        html.element("td", &name);
        html.element("td", platform_of(entry.platform));
        html.element("td", &state.unwrap_or_default());
        html.element("td", "not on this site");
        html.element("td", "");
        html.code("td", &entry.manifest_sha256.to_string());
        html.close("tr");
    }
    html.close("table");
}

/// What was revoked.
pub(super) fn revoked(html: &mut Html, site: &Site<'_>) {
    let Some(listed) = &site.index else { return };
    let revoked = &listed.file.index().revoked;
    if revoked.is_empty() {
        return;
    }
    html.element("h2", "Revoked");
    html.open("table", &[]);
    html.row("th", &["SHA-256 of manifest.json", "Since", "Reason"]);
    for one in revoked {
        let (hash, since) = (one.manifest_sha256.to_string(), one.since.to_string());
        html.row("td", &[&hash, &since, &one.reason]);
    }
    html.close("table");
}

/// What the index says of a release; `None` without an index.
pub(super) fn state(site: &Site<'_>, release: &Release) -> Option<String> {
    let (index, named) = (site.index.as_ref()?.file.index(), &release.manifest.release);
    Some(state_in(index, &named.name, &named.version, &release.manifest_sha256))
}

fn state_in(
    index: &Index,
    name: &str,
    version: &str,
    manifest: &casemate_measurements::hash::Sha256Hash,
) -> String {
    if let Some(objection) = index.objection(name, version, manifest) {
        return objection;
    }
    let entry = index.releases.iter().find(|entry| entry.manifest_sha256 == *manifest);
    let channels: Vec<&str> =
        entry.iter().flat_map(|entry| &entry.channels).map(String::as_str).collect();
    if channels.is_empty() { "listed".to_owned() } else { channels.join(", ") }
}

fn signed_by(release: &Release) -> String {
    match &release.judgement {
        Some(judgement) => sentence(judgement),
        None => format!("not judged, {} signature files", release.signatures.len()),
    }
}
