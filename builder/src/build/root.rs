//! What goes into the root file system and the initrd.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;

use super::stages::Made;
use super::tools::merged;
use super::{BuildError, BuildOptions, Sources};
use crate::fetch::Cache;
use crate::initrd::cpio::{Archive, Node};
use crate::lock::Closure;
use crate::merge::Tree;
use crate::programs::{self, Workspace};
use crate::progress::Progress;
use crate::recipe::{CrateName, GuestPath};
use crate::sbom::{Licences, licences_of};
use crate::steps::{self, Accounts, Kernel, StepError};

/// What is taken out of packages.
#[derive(Debug)]
pub(super) struct Parts {
    guest: Tree,
    kernel_packages: Tree,
    kernel: Kernel,
    /// The kernel's file.
    pub(super) kernel_image: Vec<u8>,
    /// The firmware's file.
    pub(super) firmware: Vec<u8>,
    /// Files that stages made.
    files: Vec<(GuestPath, u32, Vec<u8>)>,
}

fn relative(path: &GuestPath) -> &str {
    path.as_str().trim_start_matches('/')
}

impl Parts {
    /// Unpacks guest and firmware, and takes the kernel out of its merged packages.
    pub(super) fn read(
        sources: &Sources,
        kernel_packages: Tree,
        made: Made,
        options: &BuildOptions,
        progress: &dyn Progress,
    ) -> Result<Self, BuildError> {
        let recipe = &sources.recipe;
        let firmware = match (made.firmware, &recipe.firmware.path) {
            (Some(made), _) => made,
            (None, path) => {
                let packages = sources.lock.closure(&Closure::Firmware).collect::<Vec<_>>();
                let tree = merged(&packages, options, progress)?;
                let path = path.as_ref().map(relative).unwrap_or_default();
                tree.read(path, "it is the firmware")?
            }
        };
        let modules = &recipe.kernel;
        let kernel =
            steps::kernel(&kernel_packages, &modules.initrd_modules, &modules.root_modules)?;
        let kernel_image = kernel_packages.read(&kernel.image, "it is the kernel")?;
        let guest = sources.lock.closure(&Closure::Guest).collect::<Vec<_>>();
        let guest = merged(&guest, options, progress)?;
        let files = made.files;
        Ok(Self { guest, kernel_packages, kernel, kernel_image, firmware, files })
    }
}

/// Merges the guest's packages and applies the recipe's steps. Returns the tree and the licences
/// that its packages state.
pub(super) fn root_tree(
    sources: &Sources,
    parts: &Parts,
    compiled: &Compiled,
    tools: (&Path, &Sha256Hash),
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<(Tree, Licences), BuildError> {
    let recipe = &sources.recipe;
    let mut tree = parts.guest.clone();
    let licences = licences(&tree, &parts.kernel_packages, sources);
    let accounts = Accounts::new(&tree, &recipe.users, &recipe.groups)?;
    for pattern in steps::drop_paths(&mut tree, &recipe.guest.drop, &recipe.guest.keep) {
        progress.warn(&format!("[guest] drop: the pattern {pattern:?} matches nothing"));
    }
    steps::depmod(&mut tree, &parts.kernel_packages, &parts.kernel, tools, &options.cache)?;
    for install in &recipe.programs.install {
        let bytes = compiled.program(&sources.workspace, &install.binary)?;
        tree.put_file(relative(&install.path), u32::from(install.mode.bits()), &bytes)?;
    }
    for linked in &recipe.programs.linked {
        let Some(workspace) = sources.linked.get(&linked.package) else { continue };
        let bytes = compiled.program(workspace, &linked.binary)?;
        tree.put_file(relative(&linked.path), u32::from(linked.mode.bits()), &bytes)?;
    }
    for (path, mode, bytes) in &parts.files {
        tree.put_file(relative(path), *mode, bytes)?;
    }
    steps::concatenate(&mut tree, &recipe.concats)?;
    steps::link(&mut tree, &recipe.links)?;
    sources.overlay.apply(&mut tree)?;
    accounts.check_sysusers(&tree)?;
    accounts.write(&mut tree, recipe.epoch)?;
    steps::make_homes(&mut tree, &recipe.users)?;
    steps::machine_id(&mut tree)?;
    steps::enable_units(&mut tree, &recipe.units)?;
    sources.overlay.check_kept(&tree)?;
    steps::fix_files(&mut tree, &recipe.files, &accounts)?;
    steps::check_owners(&tree, &accounts)?;
    Ok((tree, licences))
}

fn licences(guest: &Tree, kernel: &Tree, sources: &Sources) -> Licences {
    let mut licences = Licences::new();
    let names: BTreeSet<&str> = sources.lock.packages().iter().map(|p| p.name.as_str()).collect();
    for tree in [guest, kernel] {
        for name in &names {
            let path = format!("usr/share/doc/{name}/copyright");
            // A link leads to another package's file and says nothing about this one's.
            if let Ok(text) = tree.read(&path, "it states licences")
                && let Some(found) = licences_of(&String::from_utf8_lossy(&text))
            {
                licences.insert((*name).to_owned(), found);
            }
        }
    }
    licences
}

/// Our programs: where each package's are.
#[derive(Debug)]
pub(super) struct Compiled(BTreeMap<String, PathBuf>);

impl Compiled {
    /// Compiles the programs of every package, or finds them compiled.
    pub(super) fn make(
        sources: &Sources,
        tools: (&Path, &Sha256Hash),
        cache: &Cache,
        jobs: usize,
    ) -> Result<Self, BuildError> {
        let mut places = BTreeMap::new();
        for (workspace, linkage) in sources.workspaces() {
            let place = programs::compile(workspace, linkage, tools, cache, jobs)?;
            places.insert(workspace.package().to_owned(), place);
        }
        Ok(Self(places))
    }

    /// The bytes of one program of the package `workspace`.
    fn program(&self, workspace: &Workspace, name: &CrateName) -> Result<Vec<u8>, BuildError> {
        let package = workspace.package();
        let known = workspace.binaries().iter().any(|binary| binary == name.as_str());
        let place = self.0.get(package).filter(|_| known).ok_or_else(|| BuildError::NoProgram {
            name: name.to_string(),
            package: package.to_owned(),
            has: workspace.binaries().to_vec(),
        })?;
        let path = place.join(name.as_str());
        std::fs::read(&path).map_err(|source| StepError::File { path, source }.into())
    }
}

/// The initrd: our init, the modules in the order in which it loads them, and the console that
/// the kernel opens for it.
pub(super) fn initrd(
    sources: &Sources,
    parts: &Parts,
    compiled: &Compiled,
) -> Result<Vec<u8>, BuildError> {
    let mut archive = Archive::default();
    let bytes = compiled.program(&sources.workspace, &sources.recipe.programs.init)?;
    archive.add("init", Node::File { mode: 0o755, bytes })?;
    archive.add("dev/console", Node::CharDevice { mode: 0o600, major: 5, minor: 1 })?;
    // Without a console the kernel starts init with no open files, and Rust's runtime opens this.
    archive.add("dev/null", Node::CharDevice { mode: 0o666, major: 1, minor: 3 })?;
    for dir in ["proc", "sys"] {
        archive.add(dir, Node::Directory)?;
    }
    let mut order = String::new();
    for module in &parts.kernel.initrd {
        let path = format!("lib/modules/{}.ko", module.name);
        let _ = writeln!(order, "/{path}");
        archive.add(&path, Node::File { mode: 0o644, bytes: module.bytes.clone() })?;
    }
    archive.add("modules.order", Node::File { mode: 0o644, bytes: order.into_bytes() })?;
    let mut bytes = Vec::new();
    archive.write(sources.recipe.epoch, &mut bytes)?;
    Ok(bytes)
}
