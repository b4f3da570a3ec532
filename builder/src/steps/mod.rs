//! What is done to the merged packages instead of their maintainer scripts: declared in the
//! recipe, done here, nothing else.
//!
//! Each step is a function of the tree and the recipe, so the result depends on neither this
//! machine nor the order of packages.

mod accounts;
mod derived;
mod drop;
mod kernel;
mod libraries;
mod overlay;
mod place;
mod units;

use std::path::PathBuf;

use crate::initrd::modules::ModuleError;
use crate::merge::MergeError;
use crate::namespace::NamespaceError;

pub use accounts::{Accounts, check_owners, make_homes};
pub use derived::{Durability, derived};
pub use drop::drop_paths;
pub use kernel::{Kernel, depmod, kernel, release, release_of_image, version_magic};
pub use libraries::{MissingLibrary, check_libraries, missing_libraries};
pub use overlay::{Overlay, read_overlay};
pub use place::{concatenate, fix_files, link, machine_id};
pub use units::enable_units;

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The tree does not allow it.
    #[error(transparent)]
    Tree(#[from] MergeError),
    /// A module cannot be chosen.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// A program of the tool closure failed.
    #[error(transparent)]
    Program(#[from] NamespaceError),
    /// Something on this machine could not be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The overlay holds something that git does not.
    #[error("{} cannot be in an overlay: it holds files, links and directories only", path.display())]
    Overlay {
        /// The path.
        path: PathBuf,
    },
    /// Two overlays do not lie one over the other.
    #[error("{} is a directory here and none in the extended recipe's overlay, or the other way", path.display())]
    OverlayKind {
        /// The path.
        path: PathBuf,
    },
    /// An overlay holds what the build writes itself.
    #[error("{} would be written over by the build: {instead}", path.display())]
    OverlayWritten {
        /// The path.
        path: PathBuf,
        /// How the recipe says what shall be in it.
        instead: &'static str,
    },
    /// A step wrote over what an overlay holds.
    #[error(
        "/{path} of the overlay (rootfs/) is written over by a list of the recipe, such as `mask` or \
         `enable` of [units]: leave one of both out"
    )]
    OverlayLost {
        /// The path.
        path: String,
    },
    /// A line of an account file is malformed.
    #[error("/{file}: {line:?} is no account: expected {expected}")]
    AccountLine {
        /// The file.
        file: String,
        /// The line.
        line: String,
        /// What was expected.
        expected: &'static str,
    },
    /// Two accounts share a name or number.
    #[error("{kind} {name} has number {id}, and so has {other}")]
    AccountTwice {
        /// User or group.
        kind: &'static str,
        /// The name.
        name: String,
        /// The number.
        id: u32,
        /// Who has it too.
        other: String,
    },
    /// A package wants an account that the recipe does not pin.
    #[error(
        "/{file} asks for the {kind} {name:?}, which the recipe does not pin\nhint: add [[{kind}]] \
         name = {name:?} with a number, or drop the file"
    )]
    Unpinned {
        /// Which file asks.
        file: String,
        /// User or group.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A package wants an account under another number than the pinned one.
    #[error("/{file} has {kind} {name:?} with number {found}, pinned is {pinned}")]
    OtherNumber {
        /// Which file asks.
        file: String,
        /// User or group.
        kind: &'static str,
        /// The name.
        name: String,
        /// The number found.
        found: u32,
        /// The pinned number.
        pinned: u32,
    },
    /// A unit cannot be enabled.
    #[error("cannot enable {unit}: {why}")]
    Unit {
        /// The unit.
        unit: String,
        /// Why.
        why: String,
    },
    /// A pattern of the recipe matches nothing.
    #[error("{what}: the pattern {pattern:?} matches nothing")]
    Unmatched {
        /// The step.
        what: &'static str,
        /// The pattern.
        pattern: String,
    },
    /// Programs would not start.
    #[error(
        "libraries are missing:\n    {}\nhint: ask for the package that has them in [guest] packages, \
         or drop the files that need them",
        missing.join("\n    ")
    )]
    Libraries {
        /// A line for each.
        missing: Vec<String>,
    },
    /// The kernel packages do not hold exactly one kernel.
    #[error("expected one kernel in the kernel packages, found {found:?}")]
    Kernels {
        /// The kernels found.
        found: Vec<String>,
    },
}

#[cfg(test)]
mod tests;
