//! `[[stage]]`: what is made from sources with tools of its own, and where it goes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use casemate_measurements::hash::Sha256Hash;
use serde::{Deserialize, Serialize};

use super::name::{from_text, plain, word};
use super::{Exclude, GuestPath, Mode, PackageSpec, WordError};

word!(
    /// The name of a stage.
    StageName, "a stage name", "lower-case letters, digits and '-'",
    |text| !text.is_empty() && plain(text, "-")
);
word!(
    /// The name of a file that a stage reads or writes, without a folder.
    FileName, "a file name", "letters, digits and . + - _ ~, a letter or digit first",
    |text| text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || ".+-_~".contains(c))
);
word!(
    /// A file of the recipe's folder.
    LocalPath, "a path in the recipe's folder",
    "relative, of letters, digits, '/' and . + - _ ~, without empty parts or '..'",
    |text| text.len() <= 1024
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "/.+-_~".contains(c))
        && text.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
);

/// A file of the folder of the recipe that names it, which need not be the one that is built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "LocalPath", into = "LocalPath")]
pub struct OwnFile {
    path: LocalPath,
    dir: PathBuf,
}

impl OwnFile {
    /// The path in the recipe's folder.
    #[must_use]
    pub const fn path(&self) -> &LocalPath {
        &self.path
    }

    /// The name that the command sees it by: the path without its folders.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.as_str().rsplit('/').next().unwrap_or_default()
    }

    /// Where it lies.
    #[must_use]
    pub fn location(&self) -> PathBuf {
        self.dir.join(self.path.as_str())
    }

    pub(super) fn found_in(&mut self, dir: &Path) {
        dir.clone_into(&mut self.dir);
    }
}

impl From<LocalPath> for OwnFile {
    fn from(path: LocalPath) -> Self {
        Self { path, dir: PathBuf::new() }
    }
}

impl From<OwnFile> for LocalPath {
    fn from(file: OwnFile) -> Self {
        file.path
    }
}

/// A stage: inputs by hash, a command without network, outputs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// The name.
    pub name: StageName,
    /// Packages whose files the command sees as its root, with what they need.
    pub packages: Vec<PackageSpec>,
    /// Packages left out of these.
    #[serde(default)]
    pub exclude: Vec<Exclude>,
    /// Debian source packages, unpacked.
    #[serde(default, rename = "source")]
    pub sources: Vec<StageSource>,
    /// Further files, each by its hash.
    #[serde(default, rename = "file")]
    pub files: Vec<StageFile>,
    /// Patches of the recipe's folder, for the command to apply.
    #[serde(default)]
    pub patches: Vec<OwnFile>,
    /// Further files of the recipe's folder, which the command sees below `/work/own`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<OwnFile>,
    /// Outputs of stages before it.
    #[serde(default, rename = "input", skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<StageInput>,
    /// What `sh -eu` runs before `command`, in the same shell: what differs between images that
    /// share the rest.
    #[serde(default)]
    pub prepare: String,
    /// What `sh -eu` runs.
    pub command: String,
    /// What the command makes.
    #[serde(rename = "output")]
    pub outputs: Vec<StageOutput>,
}

impl Stage {
    /// Says which folder the files that it names are in.
    pub(super) fn found_in(&mut self, dir: &Path) {
        self.patches.iter_mut().chain(&mut self.own).for_each(|file| file.found_in(dir));
    }

    /// What is run, whole.
    #[must_use]
    pub fn script(&self) -> String {
        match self.prepare.as_str() {
            "" => self.command.clone(),
            prepare => format!("{}\n{}", prepare.trim_end_matches('\n'), self.command),
        }
    }

    /// Does it make kernel modules?
    #[must_use]
    pub fn makes_modules(&self) -> bool {
        self.outputs.iter().any(|output| output.to == Destination::Module)
    }

    /// The file that becomes `what`, if there is one.
    #[must_use]
    pub fn output_to(&self, what: &Destination) -> Option<&FileName> {
        self.outputs.iter().find(|output| output.to == *what).map(|output| &output.file)
    }
}

/// `[[stage.source]]`: a source package of the archives.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageSource {
    /// The request, whose name is that of the source package.
    pub package: PackageSpec,
    /// Take the upstream archives alone, without Debian's files and patches.
    #[serde(default)]
    pub upstream: bool,
}

/// `[[stage.file]]`: a file from a store of files by hash.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageFile {
    /// What the command sees it as, below `/work/files`.
    pub name: FileName,
    /// Its SHA-256.
    pub sha256: Sha256Hash,
}

/// `[[stage.input]]`: an output of a stage before it, which the command sees below `/work/input`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageInput {
    /// The stage that makes it.
    pub stage: StageName,
    /// The file that it makes.
    pub file: FileName,
}

/// `[[stage.output]]`: a file that the command leaves in `/work/out`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageOutput {
    /// The file's name.
    pub file: FileName,
    /// What becomes of it.
    pub to: Destination,
    /// Its mode in the root file system, 0644 if nothing is said.
    #[serde(default)]
    pub mode: Option<Mode>,
}

/// What becomes of an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum Destination {
    /// A module of the image's kernel.
    Module,
    /// The firmware.
    Firmware,
    /// The kernel.
    Kernel,
    /// Nothing of the image: other stages take it as input.
    Stage,
    /// A file of the root file system.
    Guest(GuestPath),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module => f.pad("module"),
            Self::Firmware => f.pad("firmware"),
            Self::Kernel => f.pad("kernel"),
            Self::Stage => f.pad("stage"),
            Self::Guest(path) => f.pad(path.as_str()),
        }
    }
}

impl FromStr for Destination {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        match text {
            "module" => Ok(Self::Module),
            "firmware" => Ok(Self::Firmware),
            "kernel" => Ok(Self::Kernel),
            "stage" => Ok(Self::Stage),
            _ => text.parse().map(Self::Guest).map_err(|_| {
                WordError::new(
                    text,
                    "a destination of an output",
                    "\"module\", \"firmware\", \"kernel\", \"stage\" or an absolute path inside the \
                     guest",
                )
            }),
        }
    }
}

impl From<Destination> for String {
    fn from(value: Destination) -> Self {
        value.to_string()
    }
}

impl<'de> Deserialize<'de> for Destination {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from_text(from)
    }
}
