//! Which hosts serve an archive, on this machine. Recipes and locks never name a host: what a
//! mirror serves is believed for its hash or its archive's signature alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use url::Url;

use super::apt_sources;
use crate::recipe::{self, ArchiveName, Place};

/// The name under which stores of files by hash are given: `store=URL`.
const STORE: &str = "store";

/// The name under which mirrors of crates are given: `crates=URL`.
const CRATES: &str = "crates";

/// The environment variable that names mirrors: `debian=URL debian-security=URL store=URL`.
pub const VARIABLE: &str = "CASEMATE_MIRRORS";

/// Why the machine's mirrors could not be learnt.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// A setting is not `NAME=URL`.
    #[error(
        "{origin}: {text:?} names no mirror: expected NAME=URL, NAME being an archive of the \
         recipe, \"store\" or \"crates\", the URL http, https or file"
    )]
    Setting {
        /// Where it stands: an option, a variable.
        origin: String,
        /// The refused text.
        text: String,
    },
    /// The configuration file could not be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration file is malformed.
    #[error("{}:{place}: {message}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Line, column and field.
        place: Place,
        /// What is wrong there.
        message: String,
    },
}

/// What a machine says about mirrors, not yet read.
#[derive(Debug, Clone, Default)]
pub struct MirrorSettings {
    /// Values of `--mirror`, each `NAME=URL`.
    pub flags: Vec<String>,
    /// Value of [`VARIABLE`], settings parted by blanks.
    pub variable: Option<String>,
    /// The configuration file, which need not exist.
    pub config: Option<PathBuf>,
    /// The folder of apt's sources, `/etc/apt`, asked for archives that nothing else names.
    pub apt_dir: Option<PathBuf>,
}

/// Base URLs of archives, of stores by hash and of crates, each in the order they are tried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirrors {
    archives: BTreeMap<ArchiveName, Vec<Url>>,
    stores: Vec<Url>,
    crates: Vec<Url>,
    /// From apt's sources: used for archives that are not in `archives`.
    host: Vec<Url>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    mirrors: BTreeMap<String, Vec<String>>,
}

impl Mirrors {
    /// Reads all settings. Those of options come first, then the variable's, then the file's;
    /// apt's sources serve archives that none of these name.
    ///
    /// # Errors
    ///
    /// If a setting is malformed or a file that exists cannot be read.
    pub fn discover(settings: &MirrorSettings) -> Result<Self, MirrorError> {
        let mut mirrors = Self::default();
        for flag in &settings.flags {
            mirrors.set("--mirror", flag)?;
        }
        for text in settings.variable.as_deref().unwrap_or_default().split_whitespace() {
            mirrors.set(VARIABLE, text)?;
        }
        if let Some(path) = &settings.config {
            mirrors.add_config(path)?;
        }
        if let Some(dir) = &settings.apt_dir {
            mirrors.host = apt_sources::uris(dir);
        }
        Ok(mirrors)
    }

    /// Base URLs of the archive `name`, in the order to try them; empty if none is known.
    #[must_use]
    pub fn for_archive(&self, name: &ArchiveName) -> Vec<Url> {
        if let Some(urls) = self.archives.get(name) {
            return urls.clone();
        }
        let last =
            |url: &Url| url.path().trim_end_matches('/').rsplit('/').next() == Some(name.as_str());
        self.host.iter().filter(|url| last(url)).cloned().collect()
    }

    /// Base URLs below which files are found by their SHA-256 in hex.
    #[must_use]
    pub fn stores(&self) -> &[Url] {
        &self.stores
    }

    /// Base URLs below which crates are found as `NAME/NAME-VERSION.crate`.
    #[must_use]
    pub fn crates(&self) -> &[Url] {
        &self.crates
    }

    /// Adds the setting `text`, `NAME=URL`, which `origin` made.
    ///
    /// # Errors
    ///
    /// If it is malformed.
    pub fn set(&mut self, origin: &str, text: &str) -> Result<(), MirrorError> {
        let bad = || MirrorError::Setting { origin: origin.to_owned(), text: text.to_owned() };
        let (name, url) = text.split_once('=').ok_or_else(bad)?;
        let url = base_url(url).ok_or_else(bad)?;
        match name {
            STORE => self.stores.push(url),
            CRATES => self.crates.push(url),
            _ => {
                let name: ArchiveName = name.parse().map_err(|_| bad())?;
                self.archives.entry(name).or_default().push(url);
            }
        }
        Ok(())
    }

    fn add_config(&mut self, path: &Path) -> Result<(), MirrorError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(MirrorError::Read { path: path.to_owned(), source }),
        };
        let config: Config = toml::from_str(&text).map_err(|error| MirrorError::Config {
            path: path.to_owned(),
            place: recipe::of_error(&text, &error),
            message: error.message().to_owned(),
        })?;
        for (name, urls) in &config.mirrors {
            for (index, url) in urls.iter().enumerate() {
                self.set("", &format!("{name}={url}")).map_err(|_| MirrorError::Config {
                    path: path.to_owned(),
                    place: recipe::of_steps(
                        &text,
                        &["mirrors".into(), name.as_str().into(), index.into()],
                    ),
                    message: format!("{url:?} is no http, https or file URL of an archive"),
                })?;
            }
        }
        Ok(())
    }
}

/// Reads a URL that paths can be put below.
pub(super) fn base_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let known = matches!(url.scheme(), "http" | "https" | "file");
    (known && url.query().is_none() && url.fragment().is_none()).then_some(url)
}

/// The URL of `path` below `base`.
#[must_use]
pub fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(mirrors: &Mirrors, name: &str) -> Vec<String> {
        mirrors.for_archive(&name.parse().unwrap()).iter().map(Url::to_string).collect()
    }

    #[test]
    fn options_come_before_the_variable_the_file_and_apt() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.toml");
        std::fs::write(&config, "[mirrors]\ndebian = [\"http://c/debian\"]\n").unwrap();
        std::fs::write(
            dir.path().join("sources.list"),
            "deb http://h/debian trixie main\ndeb http://h/debian-security trixie-security main\n",
        )
        .unwrap();
        let mut settings = MirrorSettings {
            flags: vec!["debian=http://f/debian/".to_owned(), "store=file:///srv/in".to_owned()],
            variable: Some(" debian=https://v/d  crates=http://v/c ".to_owned()),
            config: Some(config.clone()),
            apt_dir: Some(dir.path().to_owned()),
        };
        let mirrors = Mirrors::discover(&settings).unwrap();
        let expected = ["http://f/debian/", "https://v/d", "http://c/debian"];
        assert_eq!(urls(&mirrors, "debian"), expected);
        assert_eq!(urls(&mirrors, "debian-security"), ["http://h/debian-security"]);
        assert_eq!(urls(&mirrors, "other"), [""; 0]);
        assert_eq!(mirrors.stores()[0].as_str(), "file:///srv/in");
        assert_eq!(mirrors.crates()[0].as_str(), "http://v/c");
        settings.flags.clear();
        settings.variable = None;
        std::fs::remove_file(config).unwrap();
        let mirrors = Mirrors::discover(&settings).unwrap();
        assert_eq!(urls(&mirrors, "debian"), ["http://h/debian"]);
    }

    #[test]
    fn malformed_settings_are_named() {
        for text in ["debian", "debian=", "=http://x", "debian=ftp://x/debian", "D=http://x"] {
            let settings =
                MirrorSettings { flags: vec![text.to_owned()], ..MirrorSettings::default() };
            let error = Mirrors::discover(&settings).unwrap_err().to_string();
            assert!(error.starts_with("--mirror: ") && error.contains(text), "{error}");
        }
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.toml");
        for (text, expected) in [
            (
                "[mirrors]\ndebian = [\n\"http://a\",\n\"x\"]\n",
                "config.toml:4:1: mirrors.debian[1]: ",
            ),
            ("[mirror]\n", "config.toml:1:2: mirror: unknown field"),
        ] {
            std::fs::write(&config, text).unwrap();
            let settings =
                MirrorSettings { config: Some(config.clone()), ..MirrorSettings::default() };
            let error = Mirrors::discover(&settings).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}\nlacks {expected}");
        }
    }

    #[test]
    fn paths_are_put_below_a_base() {
        let base = base_url("http://h:1/a/debian/").unwrap();
        assert_eq!(
            below(&base, "pool/x_1%3a2.deb").as_str(),
            "http://h:1/a/debian/pool/x_1%3a2.deb"
        );
        assert_eq!(below(&base_url("http://h").unwrap(), "x").as_str(), "http://h/x");
        assert!(base_url("http://h/?x").is_none());
    }
}
