//! Where the windows of a VM's devices lie in its addresses: a pure function of its memory, the
//! sizes of the windows and how many bits the firmware and the processor have.
//!
//! Edk2's rules, as the firmware applies them when `opt/ovmf/X-PciMmio64Mb` names a size (OVMF,
//! `PlatformInitLib`, stable202505 and later): the window starts at the end of memory, rounded up
//! to the next power of two of its size, and nothing keeps it out of the range that AMD's
//! processors reserve below 1 TiB. So that is done here, by choosing another size.

use serde::{Deserialize, Serialize};

use crate::inventory::Bar;
use crate::machine::Memory;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
/// The range of AMD's processor links: no memory and no window may touch it (AMD 24593, "APM volume 2").
pub const RESERVED: std::ops::Range<u64> = 0xfd_0000_0000..TIB;
/// What QEMU keeps behind memory for devices when it looks whether memory would reach
/// [`RESERVED`] (`q35-pcihost.pci-hole64-size`).
const QEMU_HOLE: u64 = 32 * GIB;
/// The largest window that OVMF takes by name.
pub const MOST_WINDOW: u64 = 16 * TIB;
/// Most bits of an address that OVMF uses with page tables of four levels.
const MOST_BITS: u8 = 46;
/// What firmware has below 4 GiB for windows that cannot be prefetched, with room for the rest.
const LOW_SPACE: u64 = 768 * MIB;

/// Where everything lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressSpace {
    /// The first byte behind the VM's memory.
    pub ram_end: u64,
    /// The first byte of the window.
    pub base: u64,
    /// Its bytes.
    pub window: u64,
    /// How many bits an address needs.
    pub bits: u8,
}

impl AddressSpace {
    /// The first byte behind the window.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.base + self.window
    }

    /// Its size as the firmware reads it.
    #[must_use]
    pub const fn window_mib(&self) -> u64 {
        self.window / MIB
    }
}

/// How many bits there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bits that the firmware uses.
    pub firmware: u8,
    /// Bits that the processor has.
    pub processor: u8,
}

impl Limits {
    fn bits(self) -> u8 {
        self.firmware.min(self.processor).min(MOST_BITS)
    }
}

/// Why there is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpaceError {
    /// Memory and window end above what can be addressed.
    #[error(
        "the windows of the devices ({devices}) need {need} GiB of addresses; memory of {memory} \
         ends at {ram_end} GiB, so they lie at {base} to {end} GiB and need {bits} bits, expected \
         at most {most}: the firmware uses {firmware} bits, the processor has {processor}",
        need = window / GIB,
        ram_end = ram_end.div_ceil(GIB),
        base = base / GIB,
        end = (base + window) / GIB,
        most = limits.bits(),
        firmware = limits.firmware,
        processor = limits.processor
    )]
    TooHigh {
        /// How many devices have windows.
        devices: usize,
        /// The window's bytes.
        window: u64,
        /// The VM's memory.
        memory: Memory,
        /// Where its memory ends.
        ram_end: u64,
        /// Where the window would start.
        base: u64,
        /// How many bits that needs.
        bits: u8,
        /// How many there are.
        limits: Limits,
        /// The most memory with which it would fit; none where no memory is little enough.
        fits_with: Option<Memory>,
    },
    /// The devices' windows are larger than the firmware can take.
    #[error(
        "the windows of the devices ({devices}) need {} GiB of addresses, expected at most {} GiB, the \
         most that the firmware takes",
        window / GIB,
        MOST_WINDOW / GIB
    )]
    TooLarge {
        /// How many devices have windows.
        devices: usize,
        /// The window's bytes.
        window: u64,
    },
    /// What cannot be prefetched does not fit below 4 GiB.
    #[error(
        "windows that cannot be prefetched take {} MiB below 4 GiB, expected at most {} MiB",
        found / MIB,
        LOW_SPACE / MIB
    )]
    Low {
        /// The bytes that they take.
        found: u64,
    },
}

impl SpaceError {
    /// What to do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::TooHigh { devices, limits, fits_with, .. } => {
                let wide = "use a release whose firmware was built with 1-GiB page tables \
                            (firmware_address_bits in its manifest)";
                let firmware = limits.firmware < limits.processor.min(MOST_BITS);
                let firmware = firmware.then_some(wide);
                let less = fits_with.map(|memory| format!("give the VM at most {memory}"));
                let fewer = (*devices > 1).then(|| "ask for fewer GPUs".to_owned());
                let all = firmware.map(str::to_owned).into_iter().chain(less).chain(fewer);
                all.collect::<Vec<_>>().join(", or ")
            }
            Self::TooLarge { .. } => "ask for fewer GPUs".to_owned(),
            Self::Low { .. } => "give these devices to several VMs".to_owned(),
        }
    }
}

/// Where a VM's memory ends on QEMU's q35: 2 GiB (or all, where there is less than 2.75 GiB) lie
/// below 4 GiB, the rest above, and from 1 TiB on where it would come near [`RESERVED`].
#[must_use]
pub fn ram_end(memory: Memory) -> u64 {
    const LARGE: u64 = 0xb000_0000;
    let bytes = memory.bytes();
    let above = if bytes < LARGE { 0 } else { bytes - 2 * GIB };
    let end = 4 * GIB + above;
    if end.next_multiple_of(GIB) + QEMU_HOLE > RESERVED.start { TIB + above } else { end }
}

/// Lays out the windows of `devices` behind `memory`. `least` is the least window that is known
/// to be enough, 0 where nothing is known.
///
/// # Errors
/// When they do not fit into the addresses that there are.
pub fn lay_out(
    memory: Memory,
    devices: &[&[Bar]],
    least: u64,
    limits: Limits,
) -> Result<AddressSpace, SpaceError> {
    let found = devices.iter().map(|bars| low_stride(bars)).sum();
    if found > LOW_SPACE {
        return Err(SpaceError::Low { found });
    }
    let need: u64 = devices.iter().map(|bars| stride(bars)).sum();
    let need = need.max(least).max(GIB).checked_next_power_of_two().unwrap_or(u64::MAX);
    let devices = devices.len();
    if need > MOST_WINDOW {
        return Err(SpaceError::TooLarge { devices, window: need });
    }
    let ram_end = ram_end(memory);
    let first = place(ram_end, need);
    let mut window = need;
    while window <= MOST_WINDOW {
        let space = place(ram_end, window);
        if space.bits <= limits.bits() && is_clear(&space) {
            return Ok(space);
        }
        window *= 2;
    }
    // Told is the first place that is clear, whatever bits it needs.
    let clear = std::iter::successors(Some(need), |window| Some(window * 2))
        .take_while(|window| *window <= MOST_WINDOW)
        .map(|window| place(ram_end, window))
        .find(is_clear)
        .unwrap_or(first);
    let AddressSpace { base, window, bits, .. } = clear;
    let fits_with = most_memory(need, limits);
    Err(SpaceError::TooHigh { devices, window, memory, ram_end, base, bits, limits, fits_with })
}

/// Where OVMF puts a window behind memory.
fn place(ram_end: u64, window: u64) -> AddressSpace {
    let base = ram_end.next_multiple_of(window);
    let last = base + window - 1;
    let bits = u8::try_from(u64::BITS - last.leading_zeros()).unwrap_or(u8::MAX);
    AddressSpace { ram_end, base, window, bits }
}

fn is_clear(space: &AddressSpace) -> bool {
    space.end() <= RESERVED.start || space.base >= RESERVED.end
}

/// What a device takes of the window: behind its root port its windows stand together, aligned
/// to the largest of them, and the next one's start there again.
fn stride(bars: &[Bar]) -> u64 {
    let high = || bars.iter().filter(|bar| bar.wide && bar.prefetchable).map(|bar| bar.size);
    let largest = high().max().unwrap_or_default();
    let sum: u64 = high().sum();
    if sum == 0 { 0 } else { sum.next_power_of_two().max(2 * largest) }
}

/// What a device takes below 4 GiB: a bridge's other window has 32 bits.
fn low_stride(bars: &[Bar]) -> u64 {
    let low = || bars.iter().filter(|bar| !(bar.wide && bar.prefetchable)).map(|bar| bar.size);
    let sum: u64 = low().sum();
    sum.next_multiple_of(low().max().unwrap_or_default().max(MIB))
}

/// The most memory, in whole GiB, with which a window fits.
fn most_memory(need: u64, limits: Limits) -> Option<Memory> {
    let fits = |gib: u64| {
        let memory = u32::try_from(gib * 1024).ok().and_then(|mib| Memory::from_mib(mib).ok())?;
        let end = ram_end(memory);
        let mut windows = std::iter::successors(Some(need), |window| Some(window * 2));
        windows
            .by_ref()
            .take_while(|window| *window <= MOST_WINDOW)
            .map(|window| place(end, window))
            .any(|space| space.bits <= limits.bits() && is_clear(&space))
            .then_some(memory)
    };
    (1..=16 * 1024).rev().find_map(fits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bar(index: u8, size: u64, prefetchable: bool) -> Bar {
        Bar { index, size, prefetchable, wide: true }
    }

    fn gpu(gib: u64) -> Vec<Bar> {
        vec![bar(0, 64 * MIB, true), bar(2, gib * GIB, true), bar(4, 32 * MIB, true)]
    }

    fn gib(gib: u32) -> Memory {
        Memory::from_mib(gib * 1024).unwrap()
    }

    fn of(memory: Memory, devices: &[Vec<Bar>], firmware: u8) -> Result<AddressSpace, SpaceError> {
        let devices: Vec<&[Bar]> = devices.iter().map(Vec::as_slice).collect();
        lay_out(memory, &devices, 0, Limits { firmware, processor: 52 })
    }

    #[test]
    fn memory_ends_where_qemu_puts_it() {
        for (mib, end) in [
            (1024, 4 * GIB),
            (2815, 4 * GIB),
            (2816, 4 * GIB + 768 * MIB),
            (4096, 6 * GIB),
            (512 * 1024, 514 * GIB),
            // 978 GiB and the 32 GiB behind it end right at the reserved range.
            (978 * 1024, 980 * GIB),
            (979 * 1024, TIB + 977 * GIB),
            (2048 * 1024, TIB + 2046 * GIB),
        ] {
            assert_eq!(ram_end(Memory::from_mib(mib).unwrap()), end, "{mib} MiB");
        }
    }

    #[test]
    fn windows_are_those_that_are_known() {
        for (count, bar2, window) in
            [(1, 128, 256), (1, 256, 512), (1, 512, 1024), (8, 128, 2048), (8, 256, 4096)]
        {
            let space = of(gib(64), &vec![gpu(bar2); count], 46).unwrap();
            assert_eq!(space.window / GIB, if bar2 == 256 && count == 1 { 1024 } else { window });
        }
        let space = of(gib(1536), &vec![gpu(256); 8], 46).unwrap();
        assert_eq!((space.base / GIB, space.end() / GIB, space.bits), (4096, 8192, 43));
    }

    #[test]
    fn stock_firmware_takes_one_gpu_and_says_how_much_memory() {
        assert_eq!(of(gib(128), &[gpu(128)], 40).unwrap().bits, 39);
        assert_eq!(of(gib(510), &[gpu(128)], 40).unwrap().end(), 768 * GIB);
        // Above that the window would touch the reserved range.
        let error = of(gib(511), &[gpu(128)], 40).unwrap_err();
        assert!(error.hint().contains("at most 522240 MiB"), "{}", error.hint());
        let error = of(gib(64), &vec![gpu(128); 8], 40).unwrap_err();
        assert!(error.to_string().contains("2048 to 4096 GiB and need 42 bits"), "{error}");
        let SpaceError::TooHigh { fits_with: None, .. } = error else { panic!("{error}") };
        let error = of(gib(64), &vec![gpu(2048); 8], 46).unwrap_err();
        assert!(matches!(error, SpaceError::TooLarge { .. }), "{error}");
    }

    #[test]
    fn a_switch_lies_below_four_gib() {
        let switch = vec![bar(0, 32 * MIB, false)];
        let alone = of(gib(64), &vec![gpu(128); 8], 46).unwrap();
        let mut both = vec![gpu(128); 8];
        both.extend(vec![switch.clone(); 4]);
        assert_eq!(of(gib(64), &both, 46).unwrap(), alone);
        assert!(matches!(of(gib(64), &vec![switch; 25], 46), Err(SpaceError::Low { .. })));
    }

    /// What a firmware does that puts one root port after the other.
    fn placed(devices: &[Vec<Bar>], space: &AddressSpace) -> u64 {
        let mut at = space.base;
        for bars in devices {
            let mut sizes: Vec<u64> =
                bars.iter().filter(|b| b.prefetchable).map(|bar| bar.size).collect();
            sizes.sort_unstable_by_key(|size| std::cmp::Reverse(*size));
            at = at.next_multiple_of(sizes.first().copied().unwrap_or(MIB));
            for size in sizes {
                at = at.next_multiple_of(size) + size;
            }
            at = at.next_multiple_of(MIB);
        }
        at
    }

    proptest! {
        #[test]
        fn what_is_laid_out_holds(
            mib in Memory::LEAST_MIB..=Memory::MOST_MIB,
            shifts in prop::collection::vec((24_u32..=40, 20_u32..=27), 1..=12),
            least in 0_u32..=14,
            firmware in 40_u8..=46,
            processor in 40_u8..=52,
        ) {
            let memory = Memory::from_mib(mib).unwrap();
            let devices: Vec<Vec<Bar>> = shifts
                .iter()
                .map(|(large, small)| vec![bar(0, 1 << small, true), bar(2, 1 << large, true)])
                .collect();
            let slices: Vec<&[Bar]> = devices.iter().map(Vec::as_slice).collect();
            let limits = Limits { firmware, processor };
            let Ok(space) = lay_out(memory, &slices, GIB << least, limits) else { return Ok(()) };
            prop_assert!(space.ram_end >= memory.bytes() && space.base >= space.ram_end);
            prop_assert!(space.end() <= RESERVED.start || space.base >= RESERVED.end);
            prop_assert!(space.ram_end <= RESERVED.start || space.ram_end > RESERVED.end);
            prop_assert!(space.base.is_multiple_of(space.window));
            prop_assert!(space.window >= GIB << least && space.window <= MOST_WINDOW);
            prop_assert!(space.end() <= 1 << space.bits);
            prop_assert!(space.bits <= firmware.min(processor));
            prop_assert!(placed(&devices, &space) <= space.end());
        }

        #[test]
        fn what_it_says_would_fit_does(gib_asked in 1_u32..=4096, bar2 in 32_u32..=39, n in 1_usize..=8) {
            let devices = vec![vec![bar(2, 1 << bar2, true)]; n];
            if let Err(SpaceError::TooHigh { fits_with: Some(most), .. }) =
                of(gib(gib_asked), &devices, 41)
            {
                prop_assert!(most < gib(gib_asked));
                prop_assert!(of(most, &devices, 41).is_ok());
            }
        }
    }
}
