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
    pub patches: Vec<LocalPath>,
    /// What `sh -eu` runs before `command`, in the same shell: what differs between images that
    /// share the rest.
    #[serde(default)]
    pub prepare: String,
    /// What `sh -eu` runs.
    pub command: String,
    /// What the command makes.
    #[serde(rename = "output")]
    pub outputs: Vec<StageOutput>,
    /// The folder that `patches` are in: that of the recipe which declares the stage.
    #[serde(skip)]
    pub(super) dir: PathBuf,
}

impl Stage {
    /// The folder that [`Stage::patches`] are relative to.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
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

    /// The file that becomes the firmware, if there is one.
    #[must_use]
    pub fn firmware(&self) -> Option<&FileName> {
        let found = self.outputs.iter().find(|output| output.to == Destination::Firmware);
        found.map(|output| &output.file)
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
    /// A file of the root file system.
    Guest(GuestPath),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module => f.pad("module"),
            Self::Firmware => f.pad("firmware"),
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
            _ => text.parse().map(Self::Guest).map_err(|_| {
                WordError::new(
                    text,
                    "a destination of an output",
                    "\"module\", \"firmware\" or an absolute path inside the guest",
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
