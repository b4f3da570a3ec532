//! The kernel and the modules of it that an image takes over.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;

use super::{Durability, StepError, derived};
use crate::fetch::Cache;
use crate::initrd::modules::{Module, ModuleError, ModuleIndex, decompress, modinfo, module_name};
use crate::merge::{Kind, Tree};
use crate::namespace::Program;
use crate::recipe::ModuleName;

/// What is taken out of the kernel packages.
#[derive(Debug)]
pub struct Kernel {
    /// The kernel's release, as `uname -r` prints it.
    pub release: String,
    /// The path of its image in the kernel packages.
    pub image: String,
    /// Modules of the initrd, decompressed, in the order in which they are loaded.
    pub initrd: Vec<Module>,
    /// Paths of the modules of the root file system in the kernel packages, sorted.
    pub root: Vec<String>,
}

/// Chooses kernel and modules from the merged kernel packages.
///
/// # Errors
/// When there is not exactly one kernel, or a module is missing.
pub fn kernel(
    tree: &Tree,
    initrd_modules: &[ModuleName],
    root_modules: &[ModuleName],
) -> Result<Kernel, StepError> {
    let release = release(tree)?;
    let base = format!("usr/lib/modules/{release}");
    // A kernel that a stage made says nothing of what is built in: no module of it is asked for.
    let told = |file: &str, why| {
        let path = format!("{base}/{file}");
        if tree.get(&path).is_some() { tree.read(&path, why) } else { Ok(Vec::new()) }
    };
    let builtin = told("modules.builtin", "it names built-in modules")?;
    let modinfo = told("modules.builtin.modinfo", "it names their aliases")?;
    let files: Vec<&str> = tree.below(&base).map(|(path, _)| path).collect();
    let builtin = String::from_utf8_lossy(&builtin);
    let index = ModuleIndex::new(files.into_iter(), &builtin, &modinfo);
    let closure = |names: &[ModuleName]| {
        let names: Vec<String> = names.iter().map(|name| name.as_str().to_owned()).collect();
        index.closure(&names, |path| tree.read(path, "a module").map_err(std::io::Error::other))
    };
    let mut root: Vec<String> = closure(root_modules)?.into_iter().map(|m| m.path).collect();
    root.sort();
    let image = format!("boot/vmlinuz-{release}");
    Ok(Kernel { image, initrd: closure(initrd_modules)?, root, release })
}

/// The release of the one kernel in the merged kernel packages.
///
/// # Errors
/// When there is not exactly one.
pub fn release(tree: &Tree) -> Result<String, StepError> {
    let images = tree.below("boot").filter_map(|(path, _)| path.strip_prefix("boot/vmlinuz-"));
    let mut found: Vec<String> = images.map(str::to_owned).collect();
    if found.len() != 1 {
        return Err(StepError::Kernels { found });
    }
    Ok(found.remove(0))
}

/// The release that the image of a kernel says it is of: the first word of the text that its
/// header points to (Documentation/arch/x86/boot.rst of Linux, `kernel_version` at 0x20e).
///
/// # Errors
/// What is wrong, for bytes that are no such image.
pub fn release_of_image(image: &[u8]) -> Result<String, &'static str> {
    const MAGIC: usize = 0x202;
    const POINTER: usize = 0x20e;
    const BASE: usize = 0x200;
    if image.get(MAGIC..MAGIC + 4) != Some(b"HdrS".as_slice()) {
        return Err("it has no boot header of an x86 kernel");
    }
    let pointer = image.get(POINTER..POINTER + 2).and_then(|bytes| bytes.try_into().ok());
    let start = BASE + usize::from(u16::from_le_bytes(pointer.unwrap_or_default()));
    let text = image.get(start..).unwrap_or_default();
    let word: &[u8] = text.split(|&byte| byte == b' ' || byte == 0).next().unwrap_or_default();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b".+-_~".contains(byte);
    if word.is_empty() || word.len() > 64 || !word.iter().all(plain) || start == BASE {
        return Err("its boot header names no release");
    }
    Ok(String::from_utf8_lossy(word).into_owned())
}

/// The version magic of the kernel's own modules, which those made for it must have too.
///
/// # Errors
/// When the kernel packages hold no module, or one that cannot be read.
pub fn version_magic(tree: &Tree, release: &str) -> Result<String, StepError> {
    let base = format!("usr/lib/modules/{release}/kernel");
    let found = tree.below(&base).map(|(path, _)| path).find(|path| module_name(path).is_some());
    let path = found.ok_or_else(|| ModuleError::Unknown {
        name: "any".to_owned(),
        by: "a stage that makes modules".to_owned(),
    })?;
    let bytes = decompress(path, tree.read(path, "modules of stages are held to it")?)?;
    Ok(modinfo(path, &bytes)?.vermagic)
}

/// Files that depmod reads beside the modules.
const INPUTS: [&str; 3] = ["modules.builtin", "modules.builtin.modinfo", "modules.order"];
/// Of these and its outputs, those that only depmod itself reads.
const DEPMOD_ONLY: [&str; 1] = ["modules.order"];

/// Puts the chosen modules and their indices into `root`. The indices are made by the tool
/// closure's depmod and cached.
///
/// # Errors
/// When depmod fails or the cache cannot be written.
pub fn depmod(
    root: &mut Tree,
    packages: &Tree,
    kernel: &Kernel,
    tools: (&Path, &Sha256Hash),
    cache: &Cache,
) -> Result<(), StepError> {
    if kernel.root.is_empty() {
        return Ok(());
    }
    let base = format!("usr/lib/modules/{}", kernel.release);
    let mut staged = Vec::new();
    let mut key = format!("casemate-depmod-v1\n{}\n{}\n", tools.1, kernel.release);
    let inputs = INPUTS.iter().map(|name| format!("{base}/{name}"));
    let inputs = inputs.filter(|path| packages.get(path).is_some());
    for path in kernel.root.iter().cloned().chain(inputs) {
        let bytes = packages.read(&path, "depmod reads it")?;
        let _ = writeln!(key, "{} {path}", Sha256Hash::of(&bytes));
        staged.push((path, bytes));
    }
    let key = Sha256Hash::of(key.as_bytes());
    let made = derived::<StepError>(cache, "steps", &key, Durability::Synced, |out| {
        stage(out, &staged)?;
        Program::new(tools.0, "/usr/sbin/depmod")
            .args(["--basedir", "/work/out", &kernel.release])
            .output(out, "out")
            .run()?;
        Ok(())
    })?;
    let release = made.join(&base);
    let wrap = |source| StepError::File { path: release.clone(), source };
    for found in std::fs::read_dir(&release).map_err(wrap)? {
        let found = found.map_err(wrap)?;
        let name = found.file_name().to_string_lossy().into_owned();
        if found.file_type().map_err(wrap)?.is_file() && !DEPMOD_ONLY.contains(&name.as_str()) {
            let bytes = std::fs::read(found.path()).map_err(wrap)?;
            root.put_file(&format!("{base}/{name}"), 0o644, &bytes)?;
        }
    }
    for (path, bytes) in staged {
        if packages.get(&path).is_some_and(|n| matches!(n.kind, Kind::File(_)))
            && kernel.root.contains(&path)
        {
            root.put_file(&path, 0o644, &bytes)?;
        }
    }
    Ok(())
}

/// Writes the files below `out`, with `/lib` where programs look for modules.
fn stage(out: &Path, files: &[(String, Vec<u8>)]) -> Result<(), StepError> {
    let wrap = |path: PathBuf| move |source| StepError::File { path: path.clone(), source };
    for (path, bytes) in files {
        let at = out.join(path);
        if let Some(parent) = at.parent() {
            std::fs::create_dir_all(parent).map_err(wrap(parent.to_owned()))?;
        }
        std::fs::write(&at, bytes).map_err(wrap(at))?;
    }
    let link = out.join("lib");
    std::os::unix::fs::symlink("usr/lib", &link).map_err(wrap(link))
}
