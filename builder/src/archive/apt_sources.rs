//! The URIs that a Debian machine's own apt takes packages from. Only hosts are learnt here,
//! nothing about trust; what cannot be used is passed over, and named where it is missed.

use std::path::{Path, PathBuf};

use url::Url;

use super::mirrors::base_url;
use crate::deb::paragraphs;

/// What apt's sources say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AptSources {
    /// The folder that they were read from, `/etc/apt`.
    pub(super) dir: PathBuf,
    /// The URIs of all enabled ones, each once, in the order of apt.
    pub(super) uris: Vec<Url>,
    /// Entries that cannot be used, each with its file and why.
    pub(super) passed_over: Vec<String>,
}

/// Reads the sources below `dir`.
pub(super) fn read(dir: &Path) -> AptSources {
    let mut files = vec![dir.join("sources.list")];
    let parts = std::fs::read_dir(dir.join("sources.list.d"));
    let mut more: Vec<_> =
        parts.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    more.sort();
    files.append(&mut more);
    let mut sources = AptSources { dir: dir.to_owned(), ..AptSources::default() };
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let found = match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => one_line(&text),
            Some("sources") => deb822(&text),
            _ => continue,
        };
        for text in &found {
            sources.add(text, &file);
        }
    }
    sources
}

impl AptSources {
    /// Takes the URI `text` of `file`, or those of the list that it names.
    fn add(&mut self, text: &str, file: &Path) {
        if let Some(list) = text.strip_prefix("mirror+file:") {
            let list = list.strip_prefix("//").unwrap_or(list);
            match std::fs::read_to_string(list) {
                Ok(mirrors) => {
                    // A priority may follow the URI.
                    let uris = mirrors.lines().filter_map(|line| line.split_whitespace().next());
                    uris.filter(|uri| !uri.starts_with('#')).for_each(|uri| self.push(uri, file));
                }
                Err(error) => {
                    self.passed_over.push(format!("{text} in {}: {list}: {error}", file.display()));
                }
            }
        } else {
            self.push(text, file);
        }
    }

    fn push(&mut self, text: &str, file: &Path) {
        match base_url(text) {
            Some(url) if self.uris.contains(&url) => {}
            Some(url) => self.uris.push(url),
            None => {
                let why = "no http, https or file address";
                self.passed_over.push(format!("{text} in {}: {why}", file.display()));
            }
        }
    }
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
        let sources = read(dir.path());
        let found: Vec<_> = sources.uris.iter().map(Url::to_string).collect();
        assert_eq!(found, ["http://a/debian", "http://b/debian/", "http://c/debian"]);
        let [passed_over] = &sources.passed_over[..] else { panic!("{sources:?}") };
        assert!(passed_over.starts_with("cdrom:[X] in "), "{passed_over}");
        assert!(read(Path::new("/no/such/folder")).uris.is_empty());
    }

    #[test]
    fn a_list_of_mirrors_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("debian.list.txt");
        std::fs::write(&list, "# ours\nhttp://a/debian\tpriority:1\n\nhttps://b/debian\n").unwrap();
        let lines = format!(
            "deb mirror+file://{} x main\ndeb mirror+file:/no/such/list x main\n\
             deb mirror+http://c/list x main\n",
            list.display()
        );
        std::fs::write(dir.path().join("sources.list"), lines).unwrap();
        let sources = read(dir.path());
        let found: Vec<_> = sources.uris.iter().map(Url::to_string).collect();
        assert_eq!(found, ["http://a/debian", "https://b/debian"]);
        let [missing, network] = &sources.passed_over[..] else { panic!("{sources:?}") };
        assert!(missing.contains("/no/such/list: No such file"), "{missing}");
        assert!(network.starts_with("mirror+http://c/list in "), "{network}");
    }
}
