//! What is measured, read from files or taken by its hash.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use casemate_builder::progress::{Progress as _, Total};
use casemate_measurements::digest::Prefix;
use casemate_measurements::firmware::{self, Firmware};
use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::kernel_hashes::{KernelHashes, KernelHashesError, require_bzimage};
use casemate_measurements::launch::Vmm;
use casemate_measurements::law::{self, OpenLaw};
use casemate_measurements::manifest::Manifest;
use casemate_validator::release;
use sha2::{Digest as _, Sha256};

use crate::args::{Input, LaunchArgs};
use crate::outcome::HintExt as _;
use crate::printer;
use crate::progress::Bars;

/// Most bytes of a file with a command line: Linux keeps less.
const MAX_CMDLINE: u64 = 64 * 1024;

/// What decides the digests, but for the shape.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) law: OpenLaw,
    /// The release that it was taken from.
    pub(super) manifest: Option<Manifest>,
}

impl Measured {
    /// Reads all that is named.
    pub(super) fn read(args: &LaunchArgs) -> anyhow::Result<Self> {
        let mut manifest = None;
        let mut law = match args {
            LaunchArgs { release: Some(path), .. } => {
                let read = release::open_manifest(path)?;
                let law = read.law.clone().into();
                manifest = Some(read);
                law
            }
            LaunchArgs { law: Some(path), .. } => read_law(path)?,
            LaunchArgs { firmware: Some(path), .. } => read_firmware(path)?.into(),
            _ => bail!("nothing to measure: name a release, --firmware FILE or --law FILE"),
        };
        law.kernel_hashes = kernel_hashes(args, law.kernel_hashes)?;
        if law.kernel_hashes.is_none() {
            printer::warn(
                "the firmware alone is measured: whatever kernel starts, the digest is the same",
            );
        }
        Ok(Self { law, manifest })
    }

    /// The launch up to its first vCPU.
    pub(super) fn prefix(&self, vmm: Vmm) -> Result<Prefix, KernelHashesError> {
        let OpenLaw { firmware: Firmware { pages, layout, .. }, kernel_hashes } = &self.law;
        Prefix::new(pages, layout, kernel_hashes.as_ref(), vmm)
    }
}

/// The hashes that were given, over those of the law.
fn kernel_hashes(
    args: &LaunchArgs,
    base: Option<KernelHashes>,
) -> anyhow::Result<Option<KernelHashes>> {
    let cmdline = cmdline(args)?;
    let kernel = match &args.kernel {
        Some(Input::None) => None,
        Some(Input::Sha256(hash)) => Some(*hash),
        Some(Input::File(path)) => Some(hash_kernel(path)?),
        None => base.map(|base| base.kernel),
    };
    let Some(kernel) = kernel else {
        if args.initrd.is_some() || cmdline.is_some() {
            bail!("initrd and command line are measured with a kernel only: --kernel is missing");
        }
        return Ok(None);
    };
    let initrd = match &args.initrd {
        Some(Input::None) => Sha256Hash::of(b""),
        Some(Input::Sha256(hash)) => *hash,
        Some(Input::File(path)) => hash_file(path)?.0,
        None => base.map_or_else(|| Sha256Hash::of(b""), |base| base.initrd),
    };
    let hashes = KernelHashes::from_digests(kernel, initrd, cmdline.as_deref().unwrap_or(b""));
    Ok(Some(match (cmdline, base) {
        (None, Some(base)) => KernelHashes { cmdline: base.cmdline, ..hashes },
        _ => hashes,
    }))
}

fn cmdline(args: &LaunchArgs) -> anyhow::Result<Option<Vec<u8>>> {
    let bytes = match (&args.cmdline, &args.cmdline_file) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, Some(path)) => read_bounded(path, MAX_CMDLINE)?,
        (None, None) => return Ok(None),
    };
    if bytes.ends_with(b"\n") {
        printer::warn("the command line ends with a newline, which is measured: QEMU keeps it too");
    }
    if bytes.contains(&0) {
        bail!("the command line has a NUL in it: QEMU ends it there, so it cannot be launched");
    }
    Ok(Some(bytes))
}

/// Reads and measures a firmware file.
pub(super) fn read_firmware(path: &Path) -> anyhow::Result<Firmware> {
    let bytes = read_bounded(path, firmware::MAX_LEN as u64)?;
    Firmware::parse(&bytes).with_context(|| format!("{} is refused", path.display()))
}

fn read_law(path: &Path) -> anyhow::Result<OpenLaw> {
    let bytes = read_bounded(path, law::MAX_LEN as u64)?;
    OpenLaw::from_bytes(&bytes)
        .with_context(|| format!("{} is refused", path.display()))
        .hint("`casemate measure law --firmware FILE` prints one")
}

/// Reads a file of at most so many bytes.
fn read_bounded(path: &Path, most: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() as u64 > most {
        bail!("{} has more than {most} bytes", path.display());
    }
    Ok(bytes)
}

/// SHA-256 and length of a file, which may be large.
pub(super) fn hash_file(path: &Path) -> anyhow::Result<(Sha256Hash, u64)> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    hash_open(file, path)
}

fn hash_open(mut file: File, path: &Path) -> anyhow::Result<(Sha256Hash, u64)> {
    let context = || format!("cannot read {}", path.display());
    let total = file.metadata().with_context(context)?.len();
    // Drawn on a terminal only, and gone when the file is read.
    let bars = Bars::new();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let phase = bars.phase(&name, Total::Bytes(total));
    let (mut hash, mut length) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).with_context(context)?;
        if read == 0 {
            return Ok((Sha256Hash::from_bytes(hash.finalize().into()), length));
        }
        hash.update(&buffer[..read]);
        length += read as u64;
        phase.advance(read as u64);
    }
}

/// SHA-256 of a kernel that QEMU would hash; one that it would start unmeasured is refused.
fn hash_kernel(path: &Path) -> anyhow::Result<Sha256Hash> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut start = Vec::new();
    file.by_ref()
        .take(1024)
        .read_to_end(&mut start)
        .with_context(|| format!("cannot read {}", path.display()))?;
    require_bzimage(&start).with_context(|| format!("{} is refused", path.display())).hint(
        "no VM can be launched with it; --kernel sha256:HEX computes a digest all the same",
    )?;
    file.rewind().with_context(|| format!("cannot read {}", path.display()))?;
    hash_open(file, path).map(|(hash, _)| hash)
}
