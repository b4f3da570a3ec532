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
    assert!(offset_of!(Segment, selector) == 0);
    assert!(offset_of!(Segment, attributes) == 0x2);
    assert!(offset_of!(Segment, limit) == 0x4);
    assert!(offset_of!(Segment, base) == 0x8);
    assert!(size_of::<Segment>() == 0x10);
    assert!(offset_of!(Vmsa, es) == 0);
    assert!(offset_of!(Vmsa, cs) == 0x10);
    assert!(offset_of!(Vmsa, ss) == 0x20);
    assert!(offset_of!(Vmsa, ds) == 0x30);
    assert!(offset_of!(Vmsa, fs) == 0x40);
    assert!(offset_of!(Vmsa, gs) == 0x50);
    assert!(offset_of!(Vmsa, gdtr) == 0x60);
    assert!(offset_of!(Vmsa, ldtr) == 0x70);
    assert!(offset_of!(Vmsa, idtr) == 0x80);
    assert!(offset_of!(Vmsa, tr) == 0x90);
    assert!(offset_of!(Vmsa, zero_0a0) == 0xa0);
    assert!(offset_of!(Vmsa, efer) == 0xd0);
    assert!(offset_of!(Vmsa, zero_0d8) == 0xd8);
    assert!(offset_of!(Vmsa, cr4) == 0x148);
    assert!(offset_of!(Vmsa, cr3) == 0x150);
    assert!(offset_of!(Vmsa, cr0) == 0x158);
    assert!(offset_of!(Vmsa, dr7) == 0x160);
    assert!(offset_of!(Vmsa, dr6) == 0x168);
    assert!(offset_of!(Vmsa, rflags) == 0x170);
    assert!(offset_of!(Vmsa, rip) == 0x178);
    assert!(offset_of!(Vmsa, zero_180) == 0x180);
    assert!(offset_of!(Vmsa, g_pat) == 0x268);
    assert!(offset_of!(Vmsa, zero_270) == 0x270);
    assert!(offset_of!(Vmsa, rdx) == 0x310);
    assert!(offset_of!(Vmsa, zero_318) == 0x318);
    assert!(offset_of!(Vmsa, sev_features) == 0x3b0);
    assert!(offset_of!(Vmsa, zero_3b8) == 0x3b8);
    assert!(offset_of!(Vmsa, xcr0) == 0x3e8);
    assert!(offset_of!(Vmsa, zero_3f0) == 0x3f0);
    assert!(offset_of!(Vmsa, mxcsr) == 0x408);
    assert!(offset_of!(Vmsa, x87_ftw) == 0x40c);
    assert!(offset_of!(Vmsa, x87_fsw) == 0x40e);
    assert!(offset_of!(Vmsa, x87_fcw) == 0x410);
    assert!(offset_of!(Vmsa, zero_412) == 0x412);
    assert!(size_of::<Vmsa>() == 4096);
};

/// What a VMM puts into registers that it did not always set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reset {
    /// As of QEMU 9.1 on KVM 6.11, and EC2 since RDX is there.
    Current,
    /// MXCSR and the x87 control word zero, as QEMU on KVM before 6.11 had them; on EC2, RDX zero.
    #[cfg_attr(not(feature = "appraisal"), expect(dead_code, reason = "only explaining tries it"))]
    Former,
}

/// Hash of the page of the first vCPU.
pub(crate) fn first(cpu: CpuModel, features: GuestFeatures, vmm: Vmm, reset: Reset) -> Sha384Hash {
    page(BOOT_EIP, cpu, features, vmm, reset)
}

/// Hash of the page of every other vCPU, which starts at `eip`.
pub(crate) fn other(
    eip: u32,
    cpu: CpuModel,
    features: GuestFeatures,
    vmm: Vmm,
    reset: Reset,
) -> Sha384Hash {
    page(eip, cpu, features, vmm, reset)
}

fn page(eip: u32, cpu: CpuModel, features: GuestFeatures, vmm: Vmm, reset: Reset) -> Sha384Hash {
    let (code, stack, task) = match vmm {
        Vmm::Qemu | Vmm::Gce => (0x9b, 0x93, 0x8b),
        Vmm::Ec2 if eip == BOOT_EIP => (0x9a, 0x92, 0x83),
        Vmm::Ec2 => (0x9b, 0x92, 0x83),
    };
    let (rdx, mxcsr, fcw) = match (vmm, reset) {
        (Vmm::Qemu, Reset::Current) => (cpu.signature(), 0x1f80, 0x37f),
        (Vmm::Qemu, Reset::Former) => (cpu.signature(), 0, 0),
        (Vmm::Ec2, Reset::Former) => (0, 0, 0),
        (Vmm::Ec2 | Vmm::Gce, _) => (0x600, 0, 0),
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
