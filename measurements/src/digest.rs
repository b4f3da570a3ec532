//! The launch digest as a chain: each measured page turns the value before it into the next, so
//! whatever two launches have in common up to a page is computed once.
//!
//! AMD document 56860, *SEV Secure Nested Paging Firmware ABI Specification*, revision 1.58,
//! section "Launch Digest", table of `PAGE_INFO`. Order of the pages: QEMU,
//! `target/i386/sev.c`: the firmware's, then the sections of its metadata in their order, then
//! one VMSA for each vCPU.

use sha2::{Digest as _, Sha384};
use zerocopy::{Immutable, IntoBytes, KnownLayout, little_endian as le};

use crate::firmware::{Layout, PAGE_LEN, Section, SectionKind};
use crate::hash::{LaunchDigest, Sha384Hash};
use crate::kernel_hashes::{KernelHashes, KernelHashesError};
use crate::launch::{CpuModel, GuestFeatures, VcpuCount, Vmm};
use crate::vmsa::{self, Reset};

/// Guest physical address that VMSAs are measured at.
const VMSA_GPA: u64 = 0xffff_ffff_f000;

/// How a page enters the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum PageType {
    Normal = 1,
    Vmsa = 2,
    Zero = 3,
    Unmeasured = 4,
    Secrets = 5,
    Cpuid = 6,
}

#[derive(Debug, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct PageInfo {
    digest: [u8; 48],
    contents: [u8; 48],
    length: le::U16,
    page_type: u8,
    imi_page: u8,
    vmpl_permissions: [u8; 3],
    reserved: u8,
    gpa: le::U64,
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(offset_of!(PageInfo, digest) == 0);
    assert!(offset_of!(PageInfo, contents) == 0x30);
    assert!(offset_of!(PageInfo, length) == 0x60);
    assert!(offset_of!(PageInfo, page_type) == 0x62);
    assert!(offset_of!(PageInfo, imi_page) == 0x63);
    assert!(offset_of!(PageInfo, vmpl_permissions) == 0x64);
    assert!(offset_of!(PageInfo, reserved) == 0x67);
    assert!(offset_of!(PageInfo, gpa) == 0x68);
    assert!(size_of::<PageInfo>() == 0x70);
};

/// A value of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chain([u8; 48]);

impl Default for Chain {
    fn default() -> Self {
        Self([0; 48])
    }
}

impl Chain {
    pub(crate) fn value(self) -> Sha384Hash {
        Sha384Hash::from_bytes(self.0)
    }

    fn page(self, page_type: PageType, gpa: u64, contents: [u8; 48]) -> Self {
        let info = PageInfo {
            digest: self.0,
            contents,
            length: le::U16::new(0x70),
            page_type: page_type as u8,
            imi_page: 0,
            vmpl_permissions: [0; 3],
            reserved: 0,
            gpa: le::U64::new(gpa),
        };
        Self(Sha384::digest(info.as_bytes()).into())
    }

    /// The pages of a firmware file that is mapped at `base`. Most are like the one before, and
    /// such a page is not hashed again.
    pub(crate) fn firmware(self, base: u64, bytes: &[u8]) -> Self {
        let mut before: Option<(&[u8], [u8; 48])> = None;
        let mut chain = self;
        for (page, gpa) in bytes.chunks_exact(PAGE_LEN).zip((base..).step_by(PAGE_LEN)) {
            let contents = match before {
                Some((same, hash)) if same == page => hash,
                _ => Sha384::digest(page).into(),
            };
            before = Some((page, contents));
            chain = chain.page(PageType::Normal, gpa, contents);
        }
        chain
    }

    fn section(self, section: Section, vmm: Vmm, hashes: Option<&[u8; PAGE_LEN]>) -> Self {
        let (page_type, contents) = match (section.kind, hashes, vmm) {
            (SectionKind::SecMem, _, Vmm::Gce) => (PageType::Unmeasured, [0; 48]),
            (SectionKind::Secrets, _, _) => (PageType::Secrets, [0; 48]),
            (SectionKind::Cpuid, _, _) => (PageType::Cpuid, [0; 48]),
            (SectionKind::KernelHashes, Some(page), _) => {
                (PageType::Normal, Sha384::digest(page).into())
            }
            (SectionKind::SecMem | SectionKind::SvsmCaa | SectionKind::KernelHashes, _, _) => {
                (PageType::Zero, [0; 48])
            }
        };
        section.pages().fold(self, |chain, gpa| chain.page(page_type, gpa, contents))
    }
}

/// What follows the two hashes in a `PAGE_INFO` of a vCPU, as the words that SHA-384 reads.
#[cfg(feature = "appraisal")]
pub(crate) const VCPU_PAGE_WORDS: [u64; 2] =
    [0x7000 << 48 | (PageType::Vmsa as u64) << 40, VMSA_GPA.swap_bytes()];

/// The value of a chain with one vCPU more.
#[cfg(feature = "appraisal")]
pub(crate) fn vcpu_step(value: &[u8; 48], page: &[u8; 48]) -> [u8; 48] {
    Chain(*value).page(PageType::Vmsa, VMSA_GPA, *page).0
}

/// The launches of one firmware on one VMM up to its page of kernel hashes: what all kernels
/// share. Where that page comes last, as edk2 has it since 2024, one more page is left to measure.
#[derive(Debug, Clone)]
pub(crate) struct Stem {
    chain: Chain,
    rest: Vec<Section>,
    reset_eip: u32,
    vmm: Vmm,
}

impl Stem {
    pub(crate) fn new(firmware_pages: &Sha384Hash, layout: &Layout, vmm: Vmm) -> Self {
        let (last, mut sections): (Vec<Section>, Vec<Section>) = layout
            .sections
            .iter()
            .partition(|section| vmm == Vmm::Ec2 && section.kind == SectionKind::Cpuid);
        sections.extend(last);
        let hashes = sections.iter().position(|s| s.kind == SectionKind::KernelHashes);
        let rest = sections.split_off(hashes.unwrap_or(sections.len()));
        let start = Chain(*firmware_pages.as_bytes());
        let chain = sections.into_iter().fold(start, |chain, s| chain.section(s, vmm, None));
        Self { chain, rest, reset_eip: layout.reset_eip, vmm }
    }

    pub(crate) fn prefix(&self, page: Option<&[u8; PAGE_LEN]>) -> Prefix {
        let vmm = self.vmm;
        let rest = self.rest.iter();
        let chain = rest.fold(self.chain, |chain, section| chain.section(*section, vmm, page));
        Prefix { chain, reset_eip: self.reset_eip, vmm }
    }
}

/// A launch up to its first vCPU: what all shapes on one VMM share.
#[derive(Debug, Clone, Copy)]
pub struct Prefix {
    chain: Chain,
    reset_eip: u32,
    vmm: Vmm,
}

impl Prefix {
    /// Measures the sections of `layout` on top of the firmware's pages. Without `hashes` the
    /// page for them is zero, as QEMU leaves it with `kernel-hashes=off`: no kernel is measured
    /// then, so a release always has them.
    ///
    /// # Errors
    /// When there are hashes and no page to put them into, or none that holds the table.
    pub fn new(
        firmware_pages: &Sha384Hash,
        layout: &Layout,
        hashes: Option<&KernelHashes>,
        vmm: Vmm,
    ) -> Result<Self, KernelHashesError> {
        let page = hashes.map(|hashes| hashes.page_for(layout)).transpose()?;
        Ok(Self::with_page(firmware_pages, layout, page.as_deref(), vmm))
    }

    /// As [`Prefix::new`], with the page of kernel hashes made.
    pub(crate) fn with_page(
        firmware_pages: &Sha384Hash,
        layout: &Layout,
        page: Option<&[u8; PAGE_LEN]>,
        vmm: Vmm,
    ) -> Self {
        Stem::new(firmware_pages, layout, vmm).prefix(page)
    }

    /// Digests for one vCPU, two, three and so on, without end.
    pub fn digests(
        &self,
        cpu: CpuModel,
        features: GuestFeatures,
    ) -> impl Iterator<Item = LaunchDigest> + use<> {
        self.digests_of(Vcpus::new(self.reset_eip, cpu, features, self.vmm, Reset::Current))
    }

    /// The digest for one vCPU.
    #[cfg(feature = "appraisal")]
    pub(crate) fn first(&self, vcpus: &Vcpus) -> [u8; 48] {
        self.chain.page(PageType::Vmsa, VMSA_GPA, vcpus.first).0
    }

    fn digests_of(&self, vcpus: Vcpus) -> impl Iterator<Item = LaunchDigest> + use<> {
        let next = move |chain: &Chain| Some(chain.page(PageType::Vmsa, VMSA_GPA, vcpus.other));
        let first = self.chain.page(PageType::Vmsa, VMSA_GPA, vcpus.first);
        std::iter::successors(Some(first), next).map(|chain| LaunchDigest::from_bytes(chain.0))
    }

    /// The digest for `vcpus` vCPUs.
    #[must_use]
    pub fn digest(&self, cpu: CpuModel, features: GuestFeatures, vcpus: VcpuCount) -> LaunchDigest {
        let pages = Vcpus::new(self.reset_eip, cpu, features, self.vmm, Reset::Current);
        let first = self.chain.page(PageType::Vmsa, VMSA_GPA, pages.first);
        let chain = (1..vcpus.get())
            .fold(first, |chain, _| chain.page(PageType::Vmsa, VMSA_GPA, pages.other));
        LaunchDigest::from_bytes(chain.0)
    }
}

/// Hashes of the pages of the first vCPU and of every other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vcpus {
    first: [u8; 48],
    pub(crate) other: [u8; 48],
}

impl Vcpus {
    pub(crate) fn new(
        reset_eip: u32,
        cpu: CpuModel,
        features: GuestFeatures,
        vmm: Vmm,
        reset: Reset,
    ) -> Self {
        Self {
            first: *vmsa::first(cpu, features, vmm, reset).as_bytes(),
            other: *vmsa::other(reset_eip, cpu, features, vmm, reset).as_bytes(),
        }
    }
}
