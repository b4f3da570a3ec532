//! The confidential-computing mode that a GPU or `NVSwitch` is in, read from its registers.
//!
//! Only read: setting it is an exchange with the device's own processor, which NVIDIA's tool
//! does. Registers and their meaning: NVIDIA's gpu-admin-tools, v2025.10.20.
#![expect(unsafe_code, reason = "registers of a device are read through a mapping of its window")]
#![expect(clippy::cast_ptr_alignment, reason = "a mapping starts at a page, a register at a word")]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use memmap2::{MmapOptions, MmapRaw};
use serde::{Deserialize, Serialize};

use super::{Device, Fact, files};

/// The mode in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GpuMode {
    /// Not confidential.
    Off,
    /// Confidential; from Blackwell on the links between GPUs are encrypted too.
    On,
    /// Confidential with the GPU's own debugging left open: worth nothing.
    Devtools,
    /// Hopper's mode for a whole board: the bus is encrypted, the links between GPUs are not.
    Ppcie,
    /// No mode that NVIDIA documents: to be set again.
    Invalid,
}

impl std::fmt::Display for GpuMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Devtools => "devtools",
            Self::Ppcie => "ppcie",
            Self::Invalid => "invalid",
        })
    }
}

/// Which registers tell, by the generation of the chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Registers {
    chip: Chip,
    /// Holds the mode.
    mode: u64,
    /// Ends in 0xff once the device has started.
    started: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chip {
    Hopper,
    Blackwell,
    Switch,
}

/// What a chip's identifier is, read where no chip answers.
const DEAD: u32 = u32::MAX;
/// The offset of the chip's identifier, `NV_PMC_BOOT_0`.
const IDENTITY: u64 = 0;

/// The registers of a device; `None` for one that has no such mode.
pub(super) fn registers(device: &Device) -> Option<Registers> {
    let (chip, mode, started) = if device.is_switch() {
        match device.device {
            0x22a0..=0x22ab => (Chip::Switch, 0x2_8c50, 0x6_60bc),
            _ => return None,
        }
    } else if device.is_gpu() {
        match device.device {
            0x22f0..=0x237f => (Chip::Hopper, 0x11_82cc, 0x2_00bc),
            0x2b80..=0x2bff => (Chip::Blackwell, 0x590, 0xad_00bc),
            0x2900..=0x29ff | 0x3180..=0x327f => (Chip::Blackwell, 0x590, 0x2_00bc),
            _ => return None,
        }
    } else {
        return None;
    };
    Some(Registers { chip, mode, started })
}

/// Reads the mode of the device whose sysfs folder is `dir`.
pub(super) fn read(dir: &Path, registers: &Registers) -> Fact<GpuMode> {
    awake(dir)?;
    let path = dir.join("resource0");
    let refused = |error: io::Error| format!("{}: {error}", path.display());
    let file = File::open(&path).map_err(refused)?;
    let page = 4096;
    let word = |offset: u64| -> io::Result<u32> {
        let within = usize::try_from(offset % page).unwrap_or_default();
        let mut options = MmapOptions::new();
        options.offset(offset - offset % page).len(4096);
        let map: MmapRaw = options.map_raw_read_only(&file)?;
        // A device's registers stand in whole words.
        debug_assert!(within.is_multiple_of(4) && within + 4 <= map.len());
        // SAFETY: `within` and the three bytes after it are inside the mapping, which is at least
        // readable and lives until the end of this closure; mappings start at a page, so the
        // address is a multiple of four. Volatile, since the device may change what stands there.
        Ok(u32::from_le(unsafe { map.as_ptr().add(within).cast::<u32>().read_volatile() }))
    };
    let length = file.metadata().map_err(refused)?.len();
    let last = registers.mode.max(registers.started);
    if length < last + 4 {
        return Err(format!("{}: {length} bytes, too few for its registers", path.display()));
    }
    let identity = word(IDENTITY).map_err(refused)?;
    if identity == DEAD || identity >> 16 == 0xbadf || identity >> 16 == 0xbad0 {
        return Err(format!(
            "the device answers {identity:#010x} as its identity: it is asleep, broken or locked"
        ));
    }
    let started = word(registers.started).map_err(refused)?;
    if started & 0xff != 0xff {
        return Err(format!("the device has not started: its progress is {started:#x}"));
    }
    Ok(decode(registers.chip == Chip::Switch, word(registers.mode).map_err(refused)?))
}

/// Whether the device is powered and answers to memory reads; reading otherwise gives nothing.
fn awake(dir: &Path) -> Fact<()> {
    const COMMAND: u64 = 4;
    const MEMORY: u8 = 2;
    if let Ok(state) = files::text(&dir.join("power_state"))
        && state != "D0"
        && state != "unknown"
    {
        return Err(format!("asleep ({state}): its registers read as nothing"));
    }
    let path = dir.join("config");
    let mut command = [0];
    File::open(&path)
        .and_then(|file| file.read_exact_at(&mut command, COMMAND))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    if command[0] & MEMORY == 0 {
        return Err("its memory window is switched off: no driver has enabled it".to_owned());
    }
    Ok(())
}

/// What the mode's register says, of a switch or a GPU.
#[must_use]
pub const fn decode(switch: bool, word: u32) -> GpuMode {
    if switch {
        return if word & 1 == 1 { GpuMode::Ppcie } else { GpuMode::Off };
    }
    match (word & 3, word & 0x20) {
        (0, 0x20) => GpuMode::Ppcie,
        (0, _) => GpuMode::Off,
        (1, _) => GpuMode::On,
        (3, _) => GpuMode::Devtools,
        _ => GpuMode::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const HOPPER: Registers = Registers { chip: Chip::Hopper, mode: 0x11_82cc, started: 0x2_00bc };

    fn device(identity: u32, started: u32, mode: u32, command: u8) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let bar = File::create(dir.path().join("resource0")).unwrap();
        bar.set_len(16 << 20).unwrap();
        for (offset, word) in [(0, identity), (HOPPER.started, started), (HOPPER.mode, mode)] {
            bar.write_all_at(&word.to_le_bytes(), offset).unwrap();
        }
        fs::write(dir.path().join("config"), [0xde, 0x10, 0x35, 0x23, command, 0]).unwrap();
        dir
    }

    #[test]
    fn modes_are_read_from_a_window() {
        for (word, mode) in [
            (0x000, GpuMode::Off),
            (0x001, GpuMode::On),
            (0x003, GpuMode::Devtools),
            (0x020, GpuMode::Ppcie),
            (0x102, GpuMode::Invalid),
        ] {
            let dir = device(0x1800_00a1, 0xff, word, 6);
            assert_eq!(read(dir.path(), &HOPPER), Ok(mode));
        }
        assert_eq!(decode(true, 1), GpuMode::Ppcie);
        assert_eq!(decode(true, 0x20), GpuMode::Off);
    }

    #[test]
    fn a_device_that_does_not_answer_has_no_mode() {
        for (identity, started, command, said) in [
            (DEAD, 0xff, 6, "identity"),
            (0xbadf_0200, 0xff, 6, "identity"),
            (0x1800_00a1, 0x10, 6, "not started"),
            (0x1800_00a1, 0xff, 0, "switched off"),
        ] {
            let dir = device(identity, started, 1, command);
            let reason = read(dir.path(), &HOPPER).unwrap_err();
            assert!(reason.contains(said), "{reason}");
        }
        let dir = device(0x1800_00a1, 0xff, 1, 6);
        fs::write(dir.path().join("power_state"), "D3hot\n").unwrap();
        assert!(read(dir.path(), &HOPPER).unwrap_err().contains("D3hot"));
        File::create(dir.path().join("resource0")).unwrap().set_len(4096).unwrap();
        fs::write(dir.path().join("power_state"), "D0\n").unwrap();
        assert!(read(dir.path(), &HOPPER).unwrap_err().contains("too few"));
    }
}
