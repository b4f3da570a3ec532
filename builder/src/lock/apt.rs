//! apt's solver in a private root: it sees only indices that were verified, and the packages
//! that are to be taken for installed. Its answer is names and versions, nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;

use crate::archive::VerifiedSuite;
use crate::deb::paragraphs;
use crate::process::{Process, ProcessError};

/// The priority of suites that packages come from on request only: below that of an installed
/// package (100) and of other suites (500), so that none comes from there by itself.
const ON_REQUEST: u32 = 50;

/// The priority of a version that is held: above all others, downgrades included.
const HELD: u32 = 1001;

/// Why apt's solver gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AptError {
    /// Its private root could not be made.
    #[error("cannot write apt's private root at {}", path.display())]
    Root {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// apt could not be run, or could not read the indices.
    #[error("apt could not be used (Debian's package apt has it)")]
    Run(#[source] ProcessError),
    /// There is no solution.
    #[error("apt finds no solution for {what}:\n{output}")]
    Unsolvable {
        /// What was asked for.
        what: String,
        /// apt's explanation.
        output: String,
    },
    /// apt's answer was not understood.
    #[error("apt's answer was not understood: {line:?}")]
    Answer {
        /// The line.
        line: String,
    },
}

/// A package that apt would install.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Chosen {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) architecture: String,
}

/// A question for the solver.
#[derive(Debug, Default)]
pub(super) struct Question {
    /// What it is about, for people.
    pub(super) what: String,
    /// Packages to install, as `name`, `name/suite` or `name=version`.
    pub(super) wanted: Vec<String>,
    /// Stanzas of packages that are taken for installed.
    pub(super) installed: Vec<String>,
    /// Versions that win over all others, by name.
    pub(super) held: BTreeMap<String, String>,
}

/// apt's private root.
#[derive(Debug)]
pub(super) struct Apt {
    root: tempfile::TempDir,
    on_request: Vec<String>,
}

impl Apt {
    /// Makes the root, whose sources are `suites` and the stanzas `extra`, both without the
    /// packages `hidden`.
    pub(super) fn new(
        suites: &[&VerifiedSuite],
        extra: &str,
        hidden: &BTreeSet<&str>,
    ) -> Result<Self, AptError> {
        let root = tempfile::Builder::new()
            .prefix("casemate-apt-")
            .tempdir()
            .map_err(|source| AptError::Root { path: std::env::temp_dir(), source })?;
        let apt = Self {
            on_request: suites
                .iter()
                .filter(|suite| suite.on_request)
                .map(|suite| suite.name.to_string())
                .collect(),
            root,
        };
        for dir in ["state/lists/partial", "cache/archives/partial", "etc", "log"] {
            let path = apt.path(dir);
            std::fs::create_dir_all(&path).map_err(|source| AptError::Root { path, source })?;
        }
        let mut sources = String::new();
        for suite in suites {
            apt.add_source(suite.name.as_str(), &without(&suite.packages, hidden), &mut sources)?;
        }
        if !extra.is_empty() {
            apt.add_source("casemate-locked", &without(extra, hidden), &mut sources)?;
        }
        apt.write("etc/sources.list", &sources)?;
        apt.write("etc/apt.conf", &apt.config())?;
        apt.write("status", "")?;
        apt.write("etc/preferences", "")?;
        apt.command("apt-get").args(["-qq", "update"]).run().map_err(AptError::Run)?;
        Ok(apt)
    }

    /// A flat repository of the stanzas `packages`, whose Release file vouches for just these.
    fn add_source(&self, name: &str, packages: &str, sources: &mut String) -> Result<(), AptError> {
        let dir = self.path(&format!("repo/{name}"));
        std::fs::create_dir_all(&dir)
            .map_err(|source| AptError::Root { path: dir.clone(), source })?;
        self.write(&format!("repo/{name}/Packages"), packages)?;
        let hash = Sha256Hash::of(packages.as_bytes());
        let release = format!(
            "Suite: {name}\nCodename: {name}\nDate: Thu, 01 Jan 1970 00:00:00 UTC\n\
             Architectures: amd64 all\nSHA256:\n {hash} {} Packages\n",
            packages.len()
        );
        self.write(&format!("repo/{name}/Release"), &release)?;
        // Trusted: it is a local copy of what was verified.
        // Writing to a String cannot fail, so the result is dropped.
        let _ = writeln!(sources, "deb [trusted=yes] file:{} ./", dir.display());
        Ok(())
    }

    /// Asks `question`; the answer is sorted.
    pub(super) fn ask(&self, question: &Question) -> Result<Vec<Chosen>, AptError> {
        self.write("status", &question.installed.join("\n"))?;
        self.write("etc/preferences", &self.preferences(&question.held))?;
        let output = self
            .command("apt-get")
            .args(["-s", "-y", "--no-install-recommends", "--allow-downgrades", "install", "--"])
            .args(&question.wanted)
            .any_status()
            .run()
            .map_err(AptError::Run)?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let text = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
            let lines: Vec<String> = text
                .lines()
                .filter(|line| !line.starts_with("NOTE:") && !line.trim().is_empty())
                .map(|line| format!("    {line}"))
                .collect();
            let (what, output) = (question.what.clone(), lines.join("\n"));
            return Err(AptError::Unsolvable { what, output });
        }
        let mut chosen = text
            .lines()
            .filter(|line| line.starts_with("Inst "))
            .map(|line| parse_line(line).ok_or_else(|| AptError::Answer { line: line.to_owned() }))
            .collect::<Result<Vec<_>, _>>()?;
        chosen.sort();
        Ok(chosen)
    }

    fn preferences(&self, held: &BTreeMap<String, String>) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail, so the results are dropped.
        for suite in &self.on_request {
            let _ =
                write!(text, "Package: *\nPin: release n={suite}\nPin-Priority: {ON_REQUEST}\n\n");
        }
        if !held.is_empty() {
            let _ = write!(
                text,
                "Package: *\nPin: release n=casemate-locked\nPin-Priority: {ON_REQUEST}\n\n"
            );
        }
        for (name, version) in held {
            let _ =
                write!(text, "Package: {name}\nPin: version {version}\nPin-Priority: {HELD}\n\n");
        }
        text
    }

    fn config(&self) -> String {
        let root = self.root.path().display();
        format!(
            "APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
             APT::Install-Recommends \"false\";\nAPT::Install-Suggests \"false\";\n\
             APT::Sandbox::User \"\";\nAPT::Solver \"internal\";\nAPT::Get::AllowUnauthenticated \"false\";\n\
             Acquire::Languages \"none\";\nAcquire::ForceHash \"SHA256\";\n\
             Acquire::Check-Date \"false\";\nDebug::NoLocking \"true\";\n\
             Dir::State \"{root}/state\";\nDir::State::status \"{root}/status\";\n\
             Dir::Cache \"{root}/cache\";\nDir::Log \"{root}/log\";\nDir::Etc \"{root}/etc\";\n\
             Dir::Etc::sourcelist \"{root}/etc/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Etc::main \"/dev/null\";\nDir::Etc::parts \"/dev/null\";\n\
             Dir::Etc::preferences \"{root}/etc/preferences\";\n\
             Dir::Etc::preferencesparts \"/dev/null\";\nDir::Etc::trusted \"/dev/null\";\n\
             Dir::Etc::trustedparts \"/dev/null\";\n"
        )
    }

    fn command(&self, program: &str) -> Process {
        Process::new(program)
            .env("APT_CONFIG", self.path("etc/apt.conf"))
            .env("DEBIAN_FRONTEND", "noninteractive")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), AptError> {
        let path: &Path = &self.path(name);
        std::fs::write(path, text)
            .map_err(|source| AptError::Root { path: path.to_owned(), source })
    }
}

/// `packages` without the stanzas of the packages `hidden`.
fn without(packages: &str, hidden: &BTreeSet<&str>) -> String {
    let mut text = String::with_capacity(packages.len());
    for stanza in paragraphs(packages) {
        if !stanza.field("Package").is_some_and(|name| hidden.contains(name)) {
            text.push_str(stanza.text());
            text.push_str("\n\n");
        }
    }
    text
}

/// `Inst libc6 [2.41-1] (2.41-2 Debian:13/stable [amd64])`; the first brackets are there if
/// another version counts as installed.
fn parse_line(line: &str) -> Option<Chosen> {
    let rest = line.strip_prefix("Inst ")?;
    let (name, rest) = rest.split_once(' ')?;
    let (_, rest) = rest.split_once('(')?;
    let (version, rest) = rest.split_once(' ')?;
    let (inner, _) = rest.split_once(')')?;
    let architecture = inner.rsplit_once('[')?.1.strip_suffix(']')?;
    Some(Chosen {
        name: name.to_owned(),
        version: version.to_owned(),
        architecture: architecture.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let read =
            |line| parse_line(line).map(|c| format!("{} {} {}", c.name, c.version, c.architecture));
        for (line, expected) in [
            ("Inst dash (0.5.12-12 trixie [amd64])", "dash 0.5.12-12 amd64"),
            ("Inst libc6 [2.41-1] (2.41-2 trixie [amd64])", "libc6 2.41-2 amd64"),
            ("Inst a (1:2~x Debian:13.1/stable, Debian:a/b [all]) []", "a 1:2~x all"),
        ] {
            assert_eq!(read(line).unwrap(), expected);
        }
        assert_eq!(read("Inst x"), None);
        assert_eq!(read("Inst x (1 y)"), None);
    }
}
