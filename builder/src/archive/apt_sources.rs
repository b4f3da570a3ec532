//! The URIs that a Debian machine's own apt takes packages from. Only hosts are learnt here,
//! nothing about trust; what cannot be read is passed over.

use std::path::Path;

use url::Url;

use super::mirrors::base_url;
use crate::deb::paragraphs;

/// The URIs of all enabled sources below `dir` (`/etc/apt`), each once, in the order of apt.
pub(super) fn uris(dir: &Path) -> Vec<Url> {
    let mut files = vec![dir.join("sources.list")];
    let parts = std::fs::read_dir(dir.join("sources.list.d"));
    let mut more: Vec<_> =
        parts.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    more.sort();
    files.append(&mut more);
    let mut uris: Vec<Url> = Vec::new();
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let found = match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => one_line(&text),
            Some("sources") => deb822(&text),
            _ => continue,
        };
        for url in found.iter().filter_map(|text| base_url(text)) {
            if !uris.contains(&url) {
                uris.push(url);
            }
        }
    }
    uris
}

/// `deb [options] URI suite component...`
fn one_line(text: &str) -> Vec<String> {
    let uri = |line: &str| {
        let rest = line.split('#').next()?.trim().strip_prefix("deb")?;
        let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        rest.split_whitespace().next().map(str::to_owned)
    };
    text.lines().filter_map(uri).collect()
}

/// Stanzas of `Types`, `URIs`, `Suites`, `Enabled`.
fn deb822(text: &str) -> Vec<String> {
    // A comment within a stanza is no field; an empty one would part it.
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let text = lines.join("\n");
    let mut found = Vec::new();
    for stanza in paragraphs(&text) {
        let binary =
            stanza.field("Types").is_some_and(|types| types.split_whitespace().any(|t| t == "deb"));
        let enabled = stanza.field("Enabled").is_none_or(|value| {
            !matches!(value.to_ascii_lowercase().as_str(), "no" | "false" | "0" | "off")
        });
        if binary && enabled {
            let uris = stanza.field("URIs").unwrap_or_default();
            found.extend(uris.split_whitespace().map(str::to_owned));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let parts = dir.path().join("sources.list.d");
        std::fs::create_dir(&parts).unwrap();
        let write = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
        write(
            &dir.path().join("sources.list"),
            "# deb http://no/debian x main\ndeb [arch=amd64 signed-by=/k] http://a/debian x main\n\
             deb-src http://no/src x main\ndeb\thttp://b/debian/ x main # note\ndeb cdrom:[X] x\n",
        );
        write(
            &parts.join("debian.sources"),
            "Types: deb deb-src\n# http://no\nURIs: http://c/debian\n http://a/debian\nSuites: x\n\n\
             Types: deb\nURIs: http://no/off\nEnabled: no\n\nTypes: deb-src\nURIs: http://no/s\n",
        );
        write(&parts.join("old.list.save"), "deb http://no/save x main\n");
        let found: Vec<_> = uris(dir.path()).iter().map(Url::to_string).collect();
        assert_eq!(found, ["http://a/debian", "http://b/debian/", "http://c/debian"]);
        assert!(uris(Path::new("/no/such/folder")).is_empty());
    }
}
