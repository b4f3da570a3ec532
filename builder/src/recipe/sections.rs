//! The tables of a recipe, one struct each.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::name::word;
use super::{
    AccountName, Component, CrateName, Fingerprint, GuestPath, Mode, ModuleName, Owner,
    PackageName, PackageSpec, PathPattern, RecipePolicy, StageName, Suite, UnitName,
};

/// `[archive.<name>]`: an archive of packages and whom it is believed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// Suites that packages are taken from, the newest version winning.
    pub suites: Vec<Suite>,
    /// Suites that only packages asked for as `name/suite`, and what these need, come from.
    #[serde(default)]
    pub on_request: Vec<Suite>,
    /// Is it a flat archive, whose index lies beside its Release file at the base URL? It has
    /// one suite, named here and nowhere else, and no components.
    #[serde(default)]
    pub flat: bool,
    /// Components of all of these suites.
    #[serde(default)]
    pub components: Vec<Component>,
    /// Primary keys, one of which must have signed each Release file.
    pub keys: Vec<Fingerprint>,
    /// Suites whose Release file may be past its Valid-Until.
    #[serde(default)]
    pub expired_ok: Vec<Suite>,
}

/// A package that is left out although something depends on it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exclude {
    /// The package.
    pub package: PackageName,
    /// Why nothing misses it.
    pub reason: String,
}

/// `[guest]`: the closure that is unpacked into the root file system.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Packages asked for, beside the essential ones.
    pub packages: Vec<PackageSpec>,
    /// Packages left out, even essential ones.
    #[serde(default)]
    pub exclude: Vec<Exclude>,
    /// Paths that are not taken over from packages.
    #[serde(default)]
    pub drop: Vec<PathPattern>,
    /// Exceptions from `drop`.
    #[serde(default)]
    pub keep: Vec<PathPattern>,
}

/// `[tools]`: the closure whose programs run while building.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tools {
    /// Packages asked for, beside the essential ones.
    pub packages: Vec<PackageSpec>,
    /// Packages left out, even essential ones.
    #[serde(default)]
    pub exclude: Vec<Exclude>,
}

/// `[firmware]`: the firmware that is launched and measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firmware {
    /// The package; it is taken without what it depends on.
    #[serde(default)]
    pub package: Option<PackageSpec>,
    /// The firmware's path in that package.
    #[serde(default)]
    pub path: Option<GuestPath>,
    /// Instead of a package, the stage that makes it.
    #[serde(default)]
    pub stage: Option<StageName>,
    /// How many bits of an address it uses, where that is not what stock `AmdSev` OVMF does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_bits: Option<u8>,
}

/// `[kernel]`: the kernel and what it loads.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// The package, or a meta package that depends on it; taken without other dependencies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<PackageSpec>,
    /// Instead of a package, the stage that makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<StageName>,
    /// The constant part of the command line.
    pub cmdline: Cmdline,
    /// Modules that the initrd loads, in this order; what they need is found.
    pub initrd_modules: Vec<ModuleName>,
    /// Modules that the root file system holds; what they need is found.
    #[serde(default)]
    pub root_modules: Vec<ModuleName>,
}

word!(
    /// A kernel command line without the `casemate.` parameters, which the build appends.
    Cmdline, "a kernel command line",
    "printable ASCII, parameters parted by single spaces, none of them casemate.* or initrd=",
    |text| text.len() <= 1024
        && text.bytes().all(|b| matches!(b, b' '..=b'~'))
        && (text.is_empty() || text.split(' ').all(|parameter| {
            !parameter.is_empty()
                && !parameter.starts_with("casemate.")
                && !parameter.starts_with("initrd=")
        }))
);

/// `[programs]`: our own programs for the guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Programs {
    /// The Cargo workspace, relative to the recipe's folder.
    pub source: PathBuf,
    /// The package in it.
    pub package: CrateName,
    /// The binary that becomes `/init` of the initrd.
    pub init: CrateName,
    /// Binaries for the root file system.
    #[serde(default)]
    pub install: Vec<Install>,
    /// Binaries of other packages of the workspace, linked with the guest's own C library.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub linked: Vec<Linked>,
}

/// `[[programs.install]]`: a binary and where it goes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Install {
    /// The binary's name.
    pub binary: CrateName,
    /// Its place in the guest.
    pub path: GuestPath,
    /// Its mode.
    pub mode: Mode,
}

/// `[[programs.linked]]`: a binary that uses the guest's own C library, so that it can load
/// libraries of the guest while it runs. All others use none.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linked {
    /// The package in the workspace.
    pub package: CrateName,
    /// The binary's name.
    pub binary: CrateName,
    /// Its place in the guest.
    pub path: GuestPath,
    /// Its mode.
    pub mode: Mode,
}

/// `[[user]]`: a user with a group of the same name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The name, of the group too.
    pub name: AccountName,
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The comment field of passwd.
    #[serde(default)]
    pub comment: Comment,
    /// The home directory.
    pub home: Home,
    /// The login shell.
    pub shell: Shell,
    /// Range of subordinate user and group numbers for rootless containers.
    #[serde(default)]
    pub subids: Option<SubIds>,
    /// Further groups.
    #[serde(default)]
    pub groups: Vec<AccountName>,
}

word!(
    /// A home directory: a path inside the guest, or `/` for who has none.
    Home, "a home directory", "\"/\", or a path without '.', '..', empty parts or a final slash",
    |text| text == "/" || super::path::is_guest_path(text)
);

word!(
    /// The comment field of passwd.
    #[derive(Default)]
    Comment, "a comment of a user", "printable ASCII without ':'",
    |text| text.len() <= 128 && text.bytes().all(|b| matches!(b, b' '..=b'~') && b != b':')
);

/// A login shell.
pub type Shell = GuestPath;

/// `[[group]]`: a group without a user of its name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// The name.
    pub name: AccountName,
    /// The number.
    pub gid: u32,
}

/// A range of subordinate numbers, written `first:count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SubIds {
    first: u32,
    count: u32,
}

impl SubIds {
    /// The first number, at least 65536.
    #[must_use]
    pub const fn first(self) -> u32 {
        self.first
    }

    /// How many, at least one.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.count
    }
}

impl TryFrom<String> for SubIds {
    type Error = super::WordError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.split_once(':')
            .and_then(|(first, count)| Some((first.parse().ok()?, count.parse().ok()?)))
            .filter(|&(first, count)| {
                first >= 65536 && count > 0 && u32::checked_add(first, count).is_some()
            })
            .map(|(first, count)| Self { first, count })
            .ok_or_else(|| {
                super::WordError::new(
                    &text,
                    "a range of subordinate numbers",
                    "\"first:count\", the first at least 65536",
                )
            })
    }
}

impl From<SubIds> for String {
    fn from(value: SubIds) -> Self {
        format!("{}:{}", value.first, value.count)
    }
}

/// `[[link]]`: a symbolic link.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Where the link is.
    pub path: GuestPath,
    /// What it holds, absolute or relative.
    pub target: Target,
}

word!(
    /// What a symbolic link holds.
    Target, "a link's target", "one to 4095 characters, none of them a control character",
    |text| (1..=4095).contains(&text.len()) && !text.chars().any(char::is_control)
);

/// `[[file]]`: another mode or owner for a packaged file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileFix {
    /// The file.
    pub path: GuestPath,
    /// Its mode, if it changes.
    #[serde(default)]
    pub mode: Option<Mode>,
    /// Its owner, if it changes.
    #[serde(default)]
    pub owner: Option<Owner>,
}

/// `[[concat]]`: a file made of others, sorted by path.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Concat {
    /// The file to write.
    pub path: GuestPath,
    /// Patterns over the files it is made of.
    pub sources: Vec<PathPattern>,
}

/// `[units]`: what systemd starts. What is not named is disabled.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Units {
    /// Units to enable.
    #[serde(default)]
    pub enable: Vec<UnitName>,
    /// Units that nothing can start.
    #[serde(default)]
    pub mask: Vec<UnitName>,
    /// The default target.
    pub default: UnitName,
}

/// `[measure]`: the shapes whose launch digests the manifest lists: their product.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// Counts of virtual processors.
    pub vcpus: VcpuCounts,
    /// CPU models, by QEMU's names; whether each is known is for the measuring code to say.
    pub cpu_models: Vec<String>,
    /// `SEV_FEATURES` of the guest.
    pub guest_features: Vec<HexU64>,
    /// The virtual machine monitor whose launch is measured.
    pub vmm: String,
    /// The guest policy.
    pub guest_policy: RecipePolicy,
}

/// Counts of virtual processors, each 1 to 512, ascending: written as a list or `"1..=64"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "RawCounts", try_from = "RawCounts")]
pub struct VcpuCounts(Vec<u16>);

impl VcpuCounts {
    /// The counts, ascending, at least one.
    #[must_use]
    pub fn as_slice(&self) -> &[u16] {
        &self.0
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum RawCounts {
    List(Vec<u16>),
    Range(String),
}

impl TryFrom<RawCounts> for VcpuCounts {
    type Error = &'static str;

    fn try_from(raw: RawCounts) -> Result<Self, Self::Error> {
        let counts: Vec<u16> = match raw {
            RawCounts::List(list) => list,
            RawCounts::Range(text) => text
                .split_once("..=")
                .and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)))
                .filter(|&(_, to): &(u16, u16)| to <= 512)
                .map(|(from, to)| (from..=to).collect())
                .ok_or("not a range of vCPU counts: expected one like \"1..=64\"")?,
        };
        let ascending = counts.windows(2).all(|pair| pair[0] < pair[1]);
        if counts.is_empty() || !ascending || counts.iter().any(|n| !(1..=512).contains(n)) {
            return Err("not a list of vCPU counts: expected 1 to 512, ascending, at least one");
        }
        Ok(Self(counts))
    }
}

impl From<VcpuCounts> for RawCounts {
    fn from(counts: VcpuCounts) -> Self {
        Self::List(counts.0)
    }
}

/// A 64-bit mask, written in hex: `"0x30000"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct HexU64(u64);

impl HexU64 {
    /// The value.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl TryFrom<String> for HexU64 {
    type Error = super::WordError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.strip_prefix("0x")
            .filter(|digits| digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .map(Self)
            .ok_or_else(|| {
                super::WordError::new(&text, "a mask", "lower-case hex such as \"0x30000\"")
            })
    }
}

impl From<HexU64> for String {
    fn from(value: HexU64) -> Self {
        format!("{:#x}", value.0)
    }
}
