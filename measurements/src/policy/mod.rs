//! The guest policy of SEV-SNP: what the host is allowed to do to a VM for its whole life, and
//! what it must provide.
//!
//! The launcher passes it to the security processor, which puts it into every report; it is not
//! in the launch digest. Bits: AMD document 56860, *SEV Secure Nested Paging Firmware ABI
//! Specification*, revision 1.58, section "Guest Policy". What a host's kernel makes of it is in
//! [`kvm`].

pub mod kvm;

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::number;

/// A well-formed guest policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestPolicy(u64);

/// Why a number is no guest policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Bit 17 must be one.
    #[error("guest policy {0:#x} lacks bit 17, which must be one")]
    Bit17(u64),
    /// Reserved bits must be zero.
    #[error("guest policy {0:#x} has bits above 25, which are reserved")]
    Reserved(u64),
}

const ONE: u64 = 1 << 17;
const DEFINED: u64 = (1 << 26) - 1;

macro_rules! bits {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $text:literal;)*) => {
        /// A bit of a guest policy that someone chooses.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum PolicyBit { $($(#[$doc])* $name,)* }

        impl PolicyBit {
            /// Every bit, lowest first.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// AMD's name for it in lower case, as in recipes.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The number with this bit alone.
            #[must_use]
            pub const fn mask(self) -> u64 {
                match self { $(Self::$name => 1 << $bit,)* }
            }
        }
    };
}

bits! {
    /// The host may run with simultaneous multithreading.
    Smt = 16, "smt";
    /// The guest may be handed to a migration agent.
    MigrateMa = 18, "migrate_ma";
    /// The host may decrypt the guest's memory for debugging.
    Debug = 19, "debug";
    /// The guest may be activated on one socket only.
    SingleSocket = 20, "single_socket";
    /// Devices and memory behind CXL may be there.
    CxlAllow = 21, "cxl_allow";
    /// Memory must be encrypted with AES-256-XTS.
    MemAes256Xts = 22, "mem_aes_256_xts";
    /// Power readings (RAPL) must be off.
    RaplDis = 23, "rapl_dis";
    /// Ciphertext in DRAM must be hidden from the host.
    CiphertextHidingDram = 24, "ciphertext_hiding_dram";
    /// The host may not move or swap the guest's pages.
    PageSwapDisable = 25, "page_swap_disable";
}

impl fmt::Display for PolicyBit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl GuestPolicy {
    /// Nothing allowed, nothing required: no bit but the one that must be set.
    pub const NONE: Self = Self(ONE);

    /// Takes a policy.
    ///
    /// # Errors
    /// When bit 17 is zero or a reserved bit is one.
    pub const fn new(raw: u64) -> Result<Self, PolicyError> {
        if raw & !DEFINED != 0 {
            return Err(PolicyError::Reserved(raw));
        }
        if raw & ONE == 0 {
            return Err(PolicyError::Bit17(raw));
        }
        Ok(Self(raw))
    }

    /// The number.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Whether a bit is set.
    #[must_use]
    pub const fn has(self, bit: PolicyBit) -> bool {
        self.0 & bit.mask() != 0
    }

    /// The same policy with one bit set.
    #[must_use]
    pub const fn with(self, bit: PolicyBit) -> Self {
        Self(self.0 | bit.mask())
    }

    /// The same policy with one bit cleared.
    #[must_use]
    pub const fn without(self, bit: PolicyBit) -> Self {
        Self(self.0 & !bit.mask())
    }

    /// The same policy with another least version of the firmware ABI.
    #[must_use]
    pub const fn with_least_abi(self, major: u8, minor: u8) -> Self {
        Self(self.0 & !0xffff | u64::from_le_bytes([minor, major, 0, 0, 0, 0, 0, 0]))
    }

    /// The least version of the firmware ABI, major and minor.
    #[must_use]
    pub const fn least_abi(self) -> (u8, u8) {
        let bytes = self.0.to_le_bytes();
        (bytes[1], bytes[0])
    }

    /// Whether the host may decrypt the guest's memory for debugging.
    #[must_use]
    pub const fn allows_debug(self) -> bool {
        self.has(PolicyBit::Debug)
    }

    /// Whether the guest may be handed to a migration agent.
    #[must_use]
    pub const fn allows_migration(self) -> bool {
        self.has(PolicyBit::MigrateMa)
    }

    /// The bits by name, for a person: `abi 1.55, smt, single_socket`.
    #[must_use]
    pub fn describe(self) -> String {
        let (major, minor) = self.least_abi();
        let abi = (self.least_abi() != (0, 0)).then(|| format!("abi {major}.{minor}"));
        let bits = PolicyBit::ALL.iter().filter(|bit| self.has(**bit)).map(ToString::to_string);
        let words: Vec<String> = abi.into_iter().chain(bits).collect();
        if words.is_empty() { "no bit set".to_owned() } else { words.join(", ") }
    }
}

impl Default for GuestPolicy {
    /// SMT allowed; debugging and migration not.
    fn default() -> Self {
        Self::NONE.with(PolicyBit::Smt)
    }
}

impl fmt::Display for GuestPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&number::format(self.0))
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for GuestPolicy {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "GuestPolicy".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        number::Hex::json_schema(generator)
    }
}

impl Serialize for GuestPolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GuestPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        number::deserialize(deserializer, "a guest policy", Self::new)
    }
}

/// A guest policy by the names of its bits: how a recipe may write one, and how it is shown to
/// machines. What is not named is off.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "the bits of a policy are independent")]
pub struct NamedPolicy {
    /// The least version of the firmware ABI, as `"1.55"`; none without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abi: Option<AbiVersion>,
    /// [`PolicyBit::Smt`].
    pub smt: bool,
    /// [`PolicyBit::MigrateMa`].
    pub migrate_ma: bool,
    /// [`PolicyBit::Debug`].
    pub debug: bool,
    /// [`PolicyBit::SingleSocket`].
    pub single_socket: bool,
    /// [`PolicyBit::CxlAllow`].
    pub cxl_allow: bool,
    /// [`PolicyBit::MemAes256Xts`].
    pub mem_aes_256_xts: bool,
    /// [`PolicyBit::RaplDis`].
    pub rapl_dis: bool,
    /// [`PolicyBit::CiphertextHidingDram`].
    pub ciphertext_hiding_dram: bool,
    /// [`PolicyBit::PageSwapDisable`].
    pub page_swap_disable: bool,
}

impl NamedPolicy {
    fn bit(&mut self, bit: PolicyBit) -> &mut bool {
        match bit {
            PolicyBit::Smt => &mut self.smt,
            PolicyBit::MigrateMa => &mut self.migrate_ma,
            PolicyBit::Debug => &mut self.debug,
            PolicyBit::SingleSocket => &mut self.single_socket,
            PolicyBit::CxlAllow => &mut self.cxl_allow,
            PolicyBit::MemAes256Xts => &mut self.mem_aes_256_xts,
            PolicyBit::RaplDis => &mut self.rapl_dis,
            PolicyBit::CiphertextHidingDram => &mut self.ciphertext_hiding_dram,
            PolicyBit::PageSwapDisable => &mut self.page_swap_disable,
        }
    }
}

impl From<NamedPolicy> for GuestPolicy {
    fn from(mut named: NamedPolicy) -> Self {
        let (major, minor) = named.abi.map_or((0, 0), |abi| (abi.major, abi.minor));
        let bits = PolicyBit::ALL.iter().filter(|bit| *named.bit(**bit));
        bits.fold(Self::NONE, |policy, bit| policy.with(*bit)).with_least_abi(major, minor)
    }
}

impl From<GuestPolicy> for NamedPolicy {
    fn from(policy: GuestPolicy) -> Self {
        let (major, minor) = policy.least_abi();
        let abi = ((major, minor) != (0, 0)).then_some(AbiVersion { major, minor });
        let mut named = Self { abi, ..Self::default() };
        for bit in PolicyBit::ALL {
            *named.bit(*bit) = policy.has(*bit);
        }
        named
    }
}

/// A version of the firmware ABI, written `"1.55"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct AbiVersion {
    /// The first number.
    pub major: u8,
    /// The second number.
    pub minor: u8,
}

impl From<AbiVersion> for String {
    fn from(version: AbiVersion) -> Self {
        format!("{}.{}", version.major, version.minor)
    }
}

impl TryFrom<String> for AbiVersion {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parsed = text.split_once('.').and_then(|(major, minor)| {
            Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
        });
        match parsed {
            // One value has one spelling: neither "1.05" nor "+1.5".
            Some(version) if String::from(version) == text => Ok(version),
            _ => Err(format!(
                "{:?} is no version of the firmware ABI: expected one like \"1.55\"",
                text.chars().take(40).collect::<String>()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_allows_neither_debugging_nor_migration() {
        let policy = GuestPolicy::default();
        assert_eq!(policy.raw(), 0x30000);
        assert!(!policy.allows_debug() && !policy.allows_migration());
        assert!(GuestPolicy::new(0xb0000).unwrap().allows_debug());
        assert!(GuestPolicy::new(0x70000).unwrap().allows_migration());
        assert_eq!(GuestPolicy::new(0x2_0137).unwrap().least_abi(), (1, 0x37));
    }

    #[test]
    fn json_is_hex_text_and_reserved_bits_are_refused() {
        assert_eq!(serde_json::to_string(&GuestPolicy::default()).unwrap(), "\"0x30000\"");
        assert_eq!(
            serde_json::from_str::<GuestPolicy>("\"0x30000\"").unwrap(),
            GuestPolicy::default()
        );
        assert_eq!(GuestPolicy::new(0x10000), Err(PolicyError::Bit17(0x10000)));
        assert_eq!(GuestPolicy::new(0x402_0000), Err(PolicyError::Reserved(0x402_0000)));
        for text in ["\"0x030000\"", "\"196608\"", "196608", "\"0x10000\""] {
            assert!(serde_json::from_str::<GuestPolicy>(text).is_err(), "{text}");
        }
    }

    /// The numbers are AMD's: each bit stands where document 56860 puts it.
    #[test]
    fn bits_stand_where_amd_puts_them() {
        let masks = [
            ("smt", 0x1_0000),
            ("migrate_ma", 0x4_0000),
            ("debug", 0x8_0000),
            ("single_socket", 0x10_0000),
            ("cxl_allow", 0x20_0000),
            ("mem_aes_256_xts", 0x40_0000),
            ("rapl_dis", 0x80_0000),
            ("ciphertext_hiding_dram", 0x100_0000),
            ("page_swap_disable", 0x200_0000),
        ];
        let found: Vec<_> = PolicyBit::ALL.iter().map(|bit| (bit.name(), bit.mask())).collect();
        assert_eq!(found, masks);
    }

    #[test]
    fn names_and_number_say_the_same() {
        for raw in [0x2_0000, 0x3_0000, 0x3ff_ffff, 0xb_0137, 0x122_0100] {
            let policy = GuestPolicy::new(raw).unwrap();
            let named = NamedPolicy::from(policy);
            assert_eq!(GuestPolicy::from(named.clone()), policy);
            let json = serde_json::to_string(&named).unwrap();
            assert_eq!(serde_json::from_str::<NamedPolicy>(&json).unwrap(), named, "{json}");
        }
        let policy = GuestPolicy::default().with_least_abi(1, 55).with(PolicyBit::RaplDis);
        assert_eq!(policy.describe(), "abi 1.55, smt, rapl_dis");
        assert_eq!(policy.without(PolicyBit::Smt).with_least_abi(0, 0).raw(), 0x82_0000);
        assert_eq!(GuestPolicy::NONE.describe(), "no bit set");
        let named: NamedPolicy = serde_json::from_str(r#"{"abi":"1.55","smt":true}"#).unwrap();
        assert_eq!(GuestPolicy::from(named).raw(), 0x3_0137);
        for wrong in
            [r#"{"sMt":true}"#, r#"{"abi":"1"}"#, r#"{"abi":"1.05"}"#, r#"{"abi":"1.256"}"#]
        {
            assert!(serde_json::from_str::<NamedPolicy>(wrong).is_err(), "{wrong}");
        }
    }
}
