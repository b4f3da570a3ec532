//! The save area of a vCPU (VMSA) as the VMM hands it to the security processor: the page whose
//! hash a launch digest holds for each vCPU.
//!
//! Fields: AMD document 24593, *AMD64 Architecture Programmer's Manual, Volume 2*, revision 3.43,
//! appendix "Layout of VMCB", table "Swap Types / VMSA State Save Area". Values: what QEMU 9.1 or
//! newer resets a vCPU to and what KVM 6.11 or newer adds.

use zerocopy::{Immutable, IntoBytes, KnownLayout, little_endian as le};

use crate::hash::Sha384Hash;
use crate::launch::{CpuModel, GuestFeatures, Vmm};

/// EIP at which the first vCPU of every x86 machine starts.
const BOOT_EIP: u32 = 0xffff_fff0;

#[derive(Debug, Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Segment {
    selector: le::U16,
    attributes: le::U16,
    limit: le::U32,
    base: le::U64,
}

impl Segment {
    const fn new(selector: u16, attributes: u16, base: u32) -> Self {
        Self {
            selector: le::U16::new(selector),
            attributes: le::U16::new(attributes),
            limit: le::U32::new(0xffff),
            base: le::U64::new(base as u64),
        }
    }
}

/// The fields that are not zero, and zeros between.
#[derive(Debug, Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Vmsa {
    es: Segment,
    cs: Segment,
    ss: Segment,
    ds: Segment,
    fs: Segment,
    gs: Segment,
    gdtr: Segment,
    ldtr: Segment,
    idtr: Segment,
    tr: Segment,
    zero_0a0: [u8; 0x30],
    efer: le::U64,
    zero_0d8: [u8; 0x70],
    cr4: le::U64,
    cr3: le::U64,
    cr0: le::U64,
    dr7: le::U64,
    dr6: le::U64,
    rflags: le::U64,
    rip: le::U64,
    zero_180: [u8; 0xe8],
    g_pat: le::U64,
    zero_270: [u8; 0xa0],
    rdx: le::U64,
    zero_318: [u8; 0x98],
    sev_features: le::U64,
    zero_3b8: [u8; 0x30],
    xcr0: le::U64,
    zero_3f0: [u8; 0x18],
    mxcsr: le::U32,
    x87_ftw: le::U16,
    x87_fsw: le::U16,
    x87_fcw: le::U16,
    zero_412: [u8; 0xbee],
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<Segment>() == 0x10);
    assert!(offset_of!(Vmsa, tr) == 0x90);
    assert!(offset_of!(Vmsa, efer) == 0xd0);
    assert!(offset_of!(Vmsa, cr4) == 0x148);
    assert!(offset_of!(Vmsa, cr0) == 0x158);
    assert!(offset_of!(Vmsa, dr7) == 0x160);
    assert!(offset_of!(Vmsa, dr6) == 0x168);
    assert!(offset_of!(Vmsa, rflags) == 0x170);
    assert!(offset_of!(Vmsa, rip) == 0x178);
    assert!(offset_of!(Vmsa, g_pat) == 0x268);
    assert!(offset_of!(Vmsa, rdx) == 0x310);
    assert!(offset_of!(Vmsa, sev_features) == 0x3b0);
    assert!(offset_of!(Vmsa, xcr0) == 0x3e8);
    assert!(offset_of!(Vmsa, mxcsr) == 0x408);
    assert!(offset_of!(Vmsa, x87_fcw) == 0x410);
    assert!(size_of::<Vmsa>() == 4096);
};

/// Hash of the page of the first vCPU.
pub(crate) fn first(cpu: CpuModel, features: GuestFeatures, vmm: Vmm) -> Sha384Hash {
    page(BOOT_EIP, cpu, features, vmm)
}

/// Hash of the page of every other vCPU, which starts at `eip`.
pub(crate) fn other(eip: u32, cpu: CpuModel, features: GuestFeatures, vmm: Vmm) -> Sha384Hash {
    page(eip, cpu, features, vmm)
}

fn page(eip: u32, cpu: CpuModel, features: GuestFeatures, vmm: Vmm) -> Sha384Hash {
    let (code, stack, task) = match vmm {
        Vmm::Qemu | Vmm::Gce => (0x9b, 0x93, 0x8b),
        Vmm::Ec2 if eip == BOOT_EIP => (0x9a, 0x92, 0x83),
        Vmm::Ec2 => (0x9b, 0x92, 0x83),
    };
    let (rdx, mxcsr, fcw) = match vmm {
        Vmm::Qemu => (cpu.signature(), 0x1f80, 0x37f),
        Vmm::Ec2 | Vmm::Gce => (0x600, 0, 0),
    };
    let pat = match vmm {
        Vmm::Qemu | Vmm::Ec2 => 0x0007_0406_0007_0406,
        Vmm::Gce => 0x7_0106,
    };
    let data = Segment::new(0, 0x93, 0);
    let table = Segment::new(0, 0, 0);
    let vmsa = Vmsa {
        es: data,
        cs: Segment::new(0xf000, code, eip & 0xffff_0000),
        ss: Segment::new(0, stack, 0),
        ds: data,
        fs: data,
        gs: data,
        gdtr: table,
        ldtr: Segment::new(0, 0x82, 0),
        idtr: table,
        tr: Segment::new(0, task, 0),
        zero_0a0: [0; _],
        efer: le::U64::new(0x1000),
        zero_0d8: [0; _],
        cr4: le::U64::new(0x40),
        cr3: le::U64::ZERO,
        cr0: le::U64::new(0x10),
        dr7: le::U64::new(0x400),
        dr6: le::U64::new(0xffff_0ff0),
        rflags: le::U64::new(2),
        rip: le::U64::new(u64::from(eip & 0xffff)),
        zero_180: [0; _],
        g_pat: le::U64::new(pat),
        zero_270: [0; _],
        rdx: le::U64::new(u64::from(rdx)),
        zero_318: [0; _],
        sev_features: le::U64::new(features.raw()),
        zero_3b8: [0; _],
        xcr0: le::U64::new(1),
        zero_3f0: [0; _],
        mxcsr: le::U32::new(mxcsr),
        x87_ftw: le::U16::ZERO,
        x87_fsw: le::U16::ZERO,
        x87_fcw: le::U16::new(fcw),
        zero_412: [0; _],
    };
    Sha384Hash::of(vmsa.as_bytes())
}
