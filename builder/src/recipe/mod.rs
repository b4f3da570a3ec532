//! The recipe: what an image is, as its author wrote it in `image.toml`.
//!
//! Everything is parsed into validated types here, for the lock, the fetch and the build. What a
//! recipe cannot say: the host of a mirror, a hash of a package, a script to run.

mod check;
mod extend;
mod launch;
mod locate;
mod name;
mod path;
mod sections;
mod stage;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;
use serde::{Deserialize, Serialize};

use extend::{Extension, Origin};
pub use launch::{Id, IdBlock, RecipePolicy};
pub use locate::{Place, Step, of_error, of_steps};
pub use name::{
    AccountName, Architecture, ArchiveName, Component, CrateName, Fingerprint, ImageName,
    ImageVersion, ModuleName, PackageName, PackageSpec, Suite, UnitName, Version, WordError,
};
pub(crate) use name::{from_text, word};
pub use path::{GuestPath, Mode, Owner, PathPattern};
pub use sections::{
    Archive, Cmdline, Comment, Concat, Exclude, FileFix, Firmware, Group, Guest, HexU64, Home,
    Install, Kernel, Link, Linked, Measure, Programs, Shell, SubIds, Target, Tools, Units, User,
    VcpuCounts,
};

pub use stage::{
    Destination, FileName, LocalPath, OwnFile, Stage, StageFile, StageInput, StageName,
    StageOutput, StageSource,
};

/// The schema this code reads and writes.
pub const SCHEMA: u32 = 1;

/// The file name of a recipe in its folder.
pub const FILE_NAME: &str = "image.toml";

/// The folder beside a recipe whose files are copied over the root file system last.
pub const OVERLAY: &str = "rootfs";

/// Why a recipe could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file could not be read.
    #[error("cannot read the recipe {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is not a recipe.
    #[error("{}:{place}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, column and field.
        place: Place,
        /// What is wrong there.
        message: String,
    },
    /// Recipes extend each other in a circle, or more deeply than anyone can follow.
    #[error("{}: more than {DEEPEST} recipes extend each other: is there a circle?", path.display())]
    Circle {
        /// The file.
        path: PathBuf,
    },
}

/// How many recipes may extend each other.
const DEEPEST: usize = 8;

/// A validated recipe.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Folders and texts: of the first recipe, of the one that extends it, and so on.
    layers: Vec<(PathBuf, String)>,
    image: Image,
    /// The folder of the recipe that names the programs' workspace.
    programs_dir: PathBuf,
}

/// The contents of `image.toml`. Only [`Recipe`] makes one, after the checks across fields.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Image {
    /// The format's version: [`SCHEMA`].
    pub schema: u32,
    /// The image's name.
    pub name: ImageName,
    /// The version of the release that this recipe makes.
    pub version: ImageVersion,
    /// The modification time of every file of the image, in seconds since 1970.
    pub epoch: u32,
    /// The archives that packages come from, by name.
    pub archive: BTreeMap<ArchiveName, Archive>,
    /// The packages of the root file system.
    pub guest: Guest,
    /// The packages whose programs run while building.
    pub tools: Tools,
    /// The firmware that the guest boots with.
    pub firmware: Firmware,
    /// The kernel, its command line and its modules.
    pub kernel: Kernel,
    /// Our own programs, compiled with the tools.
    pub programs: Programs,
    /// What is made from sources.
    #[serde(default, rename = "stage")]
    pub stages: Vec<Stage>,
    /// Users, each with a pinned number.
    #[serde(default, rename = "user")]
    pub users: Vec<User>,
    /// Groups without a user of their name.
    #[serde(default, rename = "group")]
    pub groups: Vec<Group>,
    /// Symbolic links to make, over packaged ones.
    #[serde(default, rename = "link")]
    pub links: Vec<Link>,
    /// Modes and owners of packaged files to change.
    #[serde(default, rename = "file")]
    pub files: Vec<FileFix>,
    /// Files to write as the sorted concatenation of others.
    #[serde(default, rename = "concat")]
    pub concats: Vec<Concat>,
    /// What systemd starts.
    pub units: Units,
    /// The shapes whose launch digests the manifest lists.
    pub measure: Measure,
    /// What the ID blocks of its VMs state.
    #[serde(default)]
    pub id_block: Option<IdBlock>,
}

impl std::ops::Deref for Recipe {
    type Target = Image;

    fn deref(&self) -> &Image {
        &self.image
    }
}

impl Recipe {
    /// Reads and checks `dir/image.toml`.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is no recipe, or contradicts itself; with line and field.
    pub fn load(dir: &Path) -> Result<Self, RecipeError> {
        Self::parse_at(dir, &read(dir)?, 1)
    }

    /// Checks `text` as the recipe of the folder `dir`, which is not read; a recipe that it
    /// extends is.
    ///
    /// # Errors
    ///
    /// As [`Recipe::load`].
    pub fn parse(dir: &Path, text: &str) -> Result<Self, RecipeError> {
        Self::parse_at(dir, text, 1)
    }

    fn parse_at(dir: &Path, text: &str, depth: usize) -> Result<Self, RecipeError> {
        let path = dir.join(FILE_NAME);
        let invalid = |place, message| RecipeError::Invalid { path: path.clone(), place, message };
        let malformed =
            |e: toml::de::Error| invalid(locate::of_error(text, &e), e.message().to_owned());
        let fault =
            |fault: check::Fault| invalid(locate::of_steps(text, &fault.steps), fault.message);
        // What is no TOML at all is told by either branch.
        let extends = toml::from_str::<toml::Table>(text).is_ok_and(|t| t.contains_key("extends"));
        if !extends {
            let mut image: Image = toml::from_str(text).map_err(malformed)?;
            for stage in &mut image.stages {
                stage.found_in(dir);
            }
            check::check(&image).map_err(fault)?;
            let layers = vec![(dir.to_owned(), text.to_owned())];
            return Ok(Self { layers, image, programs_dir: dir.to_owned() });
        }
        let extension: Extension = toml::from_str(text).map_err(malformed)?;
        if depth >= DEEPEST {
            return Err(RecipeError::Circle { path });
        }
        let base_dir = dir.join(&extension.extends);
        let Self { mut layers, mut image, programs_dir } =
            Self::parse_at(&base_dir, &read(&base_dir)?, depth + 1)?;
        extension.reduce(&mut image).map_err(fault)?;
        let origin = Origin::new(&image, &extension);
        extension.add(&mut image, dir).map_err(fault)?;
        check::check(&image).map_err(|found| {
            let own = origin.own_steps(&found.steps);
            let message = match own {
                Some(_) => found.message,
                None => format!("{} (of the recipe that this one extends)", found.message),
            };
            fault(check::Fault { steps: own.unwrap_or_default(), message })
        })?;
        layers.push((dir.to_owned(), text.to_owned()));
        Ok(Self { layers, image, programs_dir })
    }

    /// The recipe's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.layers.last().map_or(Path::new(""), |(dir, _)| dir)
    }

    /// The folders of the recipes that it extends: the one that it names first.
    pub fn bases(&self) -> impl Iterator<Item = &Path> {
        self.layers.iter().rev().skip(1).map(|(dir, _)| dir.as_path())
    }

    /// One of the build's inputs: SHA-256 of the text, and of a recipe that extends others, of
    /// the list of the SHA-256 of all texts, the first recipe's first.
    #[must_use]
    pub fn sha256(&self) -> Sha256Hash {
        if let [(_, text)] = self.layers.as_slice() {
            return Sha256Hash::of(text.as_bytes());
        }
        let hashes = self.layers.iter().map(|(_, text)| Sha256Hash::of(text.as_bytes()));
        let lines: Vec<String> = hashes.map(|hash| format!("{hash}\n")).collect();
        Sha256Hash::of(format!("casemate-recipes-v1\n{}", lines.concat()).as_bytes())
    }

    /// The folders that are copied over the root file system last, one over the other; they
    /// need not exist.
    #[must_use]
    pub fn overlay_dirs(&self) -> Vec<PathBuf> {
        self.layers.iter().map(|(dir, _)| dir.join(OVERLAY)).collect()
    }

    /// The Cargo workspace that our programs are compiled from.
    #[must_use]
    pub fn programs_source(&self) -> PathBuf {
        self.programs_dir.join(&self.image.programs.source)
    }

    /// The hash of all that a lock depends on: archives, package requests and exclusions, not
    /// their reasons. A lock made for another one is out of date.
    #[must_use]
    pub fn request_hash(&self) -> Sha256Hash {
        Sha256Hash::of(self.request_text().as_bytes())
    }

    fn request_text(&self) -> String {
        let mut text = String::from("casemate-lock-request-v1\n");
        let mut line = |kind: &str, words: &[&str]| {
            text.push_str(kind);
            for word in words {
                text.push(' ');
                text.push_str(word);
            }
            text.push('\n');
        };
        for (name, archive) in &self.image.archive {
            line("archive", &[name.as_str()]);
            for suite in &archive.suites {
                line("suite", &[suite.as_str()]);
            }
            for suite in &archive.on_request {
                line("on-request", &[suite.as_str()]);
            }
            if archive.flat {
                line("flat", &[]);
            }
            for component in &archive.components {
                line("component", &[component.as_str()]);
            }
            for key in &archive.keys {
                line("key", &[key.as_str()]);
            }
        }
        for spec in &self.image.guest.packages {
            line("guest", &[&spec.to_string()]);
        }
        for exclude in &self.image.guest.exclude {
            line("guest-exclude", &[exclude.package.as_str()]);
        }
        for spec in &self.image.tools.packages {
            line("tools", &[&spec.to_string()]);
        }
        for exclude in &self.image.tools.exclude {
            line("tools-exclude", &[exclude.package.as_str()]);
        }
        if let Some(package) = &self.image.firmware.package {
            line("firmware", &[&package.to_string()]);
        }
        if let Some(package) = &self.image.kernel.package {
            line("kernel", &[&package.to_string()]);
        }
        for stage in &self.image.stages {
            line("stage", &[stage.name.as_str()]);
            for spec in &stage.packages {
                line("stage-package", &[&spec.to_string()]);
            }
            for exclude in &stage.exclude {
                line("stage-exclude", &[exclude.package.as_str()]);
            }
            for source in &stage.sources {
                let upstream = if source.upstream { "upstream" } else { "whole" };
                line("stage-source", &[&source.package.to_string(), upstream]);
            }
        }
        text
    }
}

fn read(dir: &Path) -> Result<String, RecipeError> {
    let path = dir.join(FILE_NAME);
    std::fs::read_to_string(&path).map_err(|source| RecipeError::Read { path, source })
}

#[cfg(test)]
mod tests;
