//! Which hosts serve an archive, on this machine. Recipes and locks never name a host: what a
//! mirror serves is believed for its hash or its archive's signature alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use url::Url;

use super::apt_sources::{self, AptSources};
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

/// An archive of a recipe that nothing on this machine says a mirror of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no mirror of the recipe's archive {archive} is known; looked at:\n    {}\n  \
     name one with --mirror {archive}={url}, or in the configuration{}:\n    [mirrors]\n    \
     {archive} = [\"{url}\"]",
    looked.join("\n    "),
    config.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default()
)]
pub struct NoMirror {
    archive: ArchiveName,
    /// Each place and what it has.
    looked: Vec<String>,
    /// The address to name: a guess, else `URL`.
    url: String,
    config: Option<PathBuf>,
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
    host: AptSources,
    /// The configuration file, whether it is there or not.
    config: Option<PathBuf>,
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
            mirrors.config = Some(path.clone());
        }
        if let Some(dir) = &settings.apt_dir {
            mirrors.host = apt_sources::read(dir);
        }
        Ok(mirrors)
    }

    /// Base URLs of the archive `name`, in the order to try them; empty if none is known.
    #[must_use]
    pub fn for_archive(&self, name: &ArchiveName) -> Vec<Url> {
        if let Some(urls) = self.archives.get(name) {
            return urls.clone();
        }
        let named = |url: &&Url| last_part(url) == name.as_str();
        self.host.uris.iter().filter(named).cloned().collect()
    }

    /// Says of an archive that has no mirror here what was looked at and what to do.
    #[must_use]
    pub fn none_of(&self, archive: &ArchiveName) -> NoMirror {
        let names: Vec<&str> = self.archives.keys().map(ArchiveName::as_str).collect();
        let names = if names.is_empty() { "no archive".to_owned() } else { names.join(", ") };
        let config = self.config.as_ref().map(|path| {
            let gone = if path.exists() { "" } else { " (which is not there)" };
            format!(", {}{gone}", path.display())
        });
        let mut looked =
            vec![format!("--mirror, {VARIABLE}{}: {names}", config.unwrap_or_default())];
        let AptSources { dir, uris, passed_over } = &self.host;
        if !dir.as_os_str().is_empty() {
            let found: Vec<&str> = uris.iter().map(Url::as_str).collect();
            let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
            let dir = dir.display();
            looked.push(format!("sources of apt in {dir} that end in /{archive}: it has {found}"));
            looked.extend(passed_over.iter().map(|entry| format!("passed over: {entry}")));
        }
        // Who serves debian often serves debian-security beside it.
        let beside = uris.iter().find(|url| archive.as_str().starts_with(last_part(url)));
        let url = beside.and_then(|url| url.as_str().trim_end_matches('/').rsplit_once('/'));
        let url = url.map_or_else(|| "URL".to_owned(), |(base, _)| format!("{base}/{archive}"));
        NoMirror { archive: archive.clone(), looked, url, config: self.config.clone() }
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

/// What stands behind the last slash of an address.
fn last_part(url: &Url) -> &str {
    url.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default()
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
    fn an_archive_without_a_mirror_says_what_was_looked_at_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.toml");
        let line = "deb http://h/linux/debian trixie main\ndeb cdrom:[X] trixie main\n";
        std::fs::write(dir.path().join("sources.list"), line).unwrap();
        let settings = MirrorSettings {
            flags: vec!["other=http://o".to_owned()],
            config: Some(config.clone()),
            apt_dir: Some(dir.path().to_owned()),
            ..MirrorSettings::default()
        };
        let mirrors = Mirrors::discover(&settings).unwrap();
        let text = mirrors.none_of(&"debian-security".parse().unwrap()).to_string();
        let (dir, config) = (dir.path().display(), config.display());
        let expected = format!(
            "no mirror of the recipe's archive debian-security is known; looked at:\n    \
             --mirror, CASEMATE_MIRRORS, {config} (which is not there): other\n    \
             sources of apt in {dir} that end in /debian-security: it has \
             http://h/linux/debian\n    \
             passed over: cdrom:[X] in {dir}/sources.list: no http, https or file address\n  \
             name one with --mirror debian-security=http://h/linux/debian-security, or in the \
             configuration {config}:\n    [mirrors]\n    \
             debian-security = [\"http://h/linux/debian-security\"]"
        );
        assert_eq!(text, expected);
        // What it says to write is taken.
        let lines = text.split_once("[mirrors]").unwrap().1;
        std::fs::write(settings.config.as_ref().unwrap(), format!("[mirrors]{lines}")).unwrap();
        let mirrors = Mirrors::discover(&settings).unwrap();
        assert_eq!(urls(&mirrors, "debian-security"), ["http://h/linux/debian-security"]);
        let none = Mirrors::default().none_of(&"nvidia".parse().unwrap()).to_string();
        assert!(none.contains("--mirror nvidia=URL"), "{none}");
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
