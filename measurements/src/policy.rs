//! The guest policy of SEV-SNP: what the host is allowed to do to a VM for its whole life.
//!
//! The launcher passes it to the security processor, which puts it into every report; it is not
//! in the launch digest. Bits: AMD document 56860, *SEV Secure Nested Paging Firmware ABI
//! Specification*, revision 1.58, section "Guest Policy".

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

const SMT: u64 = 1 << 16;
const ONE: u64 = 1 << 17;
const MIGRATE_MA: u64 = 1 << 18;
const DEBUG: u64 = 1 << 19;
const SINGLE_SOCKET: u64 = 1 << 20;
const DEFINED: u64 = (1 << 26) - 1;

impl GuestPolicy {
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

    /// Whether the host may decrypt the guest's memory for debugging.
    #[must_use]
    pub const fn allows_debug(self) -> bool {
        self.0 & DEBUG != 0
    }

    /// Whether the guest may be handed to a migration agent.
    #[must_use]
    pub const fn allows_migration(self) -> bool {
        self.0 & MIGRATE_MA != 0
    }

    /// Whether the guest may run on a host with SMT on.
    #[must_use]
    pub const fn allows_smt(self) -> bool {
        self.0 & SMT != 0
    }

    /// Whether the guest may run on one socket only.
    #[must_use]
    pub const fn requires_single_socket(self) -> bool {
        self.0 & SINGLE_SOCKET != 0
    }

    /// The least version of the firmware ABI, major and minor.
    #[must_use]
    pub const fn least_abi(self) -> (u8, u8) {
        let bytes = self.0.to_le_bytes();
        (bytes[1], bytes[0])
    }
}

impl Default for GuestPolicy {
    /// SMT allowed; debugging and migration not.
    fn default() -> Self {
        Self(SMT | ONE)
    }
}

impl fmt::Display for GuestPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&number::format(self.0))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_allows_neither_debugging_nor_migration() {
        let policy = GuestPolicy::default();
        assert_eq!(policy.raw(), 0x30000);
        assert!(!policy.allows_debug() && !policy.allows_migration() && policy.allows_smt());
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
}
