//! Which guest policies Linux's KVM starts, so that a launch that it would refuse with a bare
//! `EINVAL` is refused before, with the reason.
//!
//! Source: `snp_launch_start` in `arch/x86/kvm/svm/sev.c`, and the changes that Linux 6.17
//! ("Allow SNP guest policy disallow running with SMT enabled", "… to specify `SINGLE_SOCKET`")
//! and 6.19 ("Add known supported SEV-SNP policy bits") made to it. What passes here may still be
//! refused by the security processor (`POLICY_FAILURE`), which knows the machine: its sockets,
//! whether SMT is on, which of the newer bits its firmware has.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{GuestPolicy, PolicyBit};

/// A version of Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LinuxVersion {
    /// The first number.
    pub major: u16,
    /// The second number.
    pub minor: u16,
}

/// The first Linux that starts SNP guests.
pub const FIRST: LinuxVersion = LinuxVersion { major: 6, minor: 11 };
/// The first that leaves SMT and sockets to the security processor.
const LEAVES_TOPOLOGY: LinuxVersion = LinuxVersion { major: 6, minor: 17 };
/// The first that knows the bits from [`PolicyBit::CxlAllow`] on.
const KNOWS_NEWER_BITS: LinuxVersion = LinuxVersion { major: 6, minor: 19 };

impl LinuxVersion {
    /// Reads a kernel's release, as `6.12.107+deb13-amd64`.
    #[must_use]
    pub fn from_release(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        Some(Self { major, minor })
    }
}

impl fmt::Display for LinuxVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Why KVM starts no guest with a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KvmRefusal {
    /// No KVM does.
    #[error("guest policy {policy} ({}) is refused by every KVM: it has no migration agents, so \
             migrate_ma must be off", policy.describe())]
    Never {
        /// The policy.
        policy: GuestPolicy,
    },
    /// This one is too old.
    #[error("guest policy {policy} ({}) needs Linux {least} or newer on the host, found {found}: \
             an older KVM refuses {why}", policy.describe())]
    TooOld {
        /// The policy.
        policy: GuestPolicy,
        /// The first Linux that starts it.
        least: LinuxVersion,
        /// The host's.
        found: LinuxVersion,
        /// What an older one refuses.
        why: &'static str,
    },
}

impl GuestPolicy {
    /// The first Linux whose KVM starts a guest with this policy, and what an older one refuses.
    ///
    /// # Errors
    /// When none does.
    pub fn least_linux(self) -> Result<(LinuxVersion, &'static str), KvmRefusal> {
        if self.has(PolicyBit::MigrateMa) {
            return Err(KvmRefusal::Never { policy: self });
        }
        let newer = |bit: &&PolicyBit| **bit >= PolicyBit::CxlAllow && self.has(**bit);
        Ok(if let Some(bit) = PolicyBit::ALL.iter().find(newer) {
            (KNOWS_NEWER_BITS, bit.name())
        } else if self.has(PolicyBit::SingleSocket) {
            (LEAVES_TOPOLOGY, "single_socket")
        } else if !self.has(PolicyBit::Smt) {
            (LEAVES_TOPOLOGY, "a policy without smt")
        } else {
            (FIRST, "every SNP guest")
        })
    }

    /// Holds the policy to the KVM of a host.
    ///
    /// # Errors
    /// When that KVM starts no guest with it.
    pub fn check_kvm(self, found: LinuxVersion) -> Result<(), KvmRefusal> {
        let (least, why) = self.least_linux()?;
        if found >= least {
            return Ok(());
        }
        Err(KvmRefusal::TooOld { policy: self, least, found, why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kvm_refuses_is_refused_with_the_version_that_does_not() {
        let linux = |text: &str| LinuxVersion::from_release(text).unwrap();
        let base = GuestPolicy::default();
        let cases = [
            (base, "6.11"),
            (base.with(PolicyBit::Debug).with_least_abi(1, 51), "6.11"),
            (base.without(PolicyBit::Smt), "6.17"),
            (base.with(PolicyBit::SingleSocket), "6.17"),
            (base.with(PolicyBit::CxlAllow), "6.19"),
            (base.with(PolicyBit::MemAes256Xts), "6.19"),
            (base.with(PolicyBit::RaplDis).with(PolicyBit::SingleSocket), "6.19"),
            (base.with(PolicyBit::CiphertextHidingDram), "6.19"),
            (base.with(PolicyBit::PageSwapDisable), "6.19"),
        ];
        for (policy, least) in cases {
            let least = linux(least);
            let before = LinuxVersion { minor: least.minor - 1, ..least };
            assert_eq!(policy.check_kvm(least), Ok(()), "{policy}");
            assert_eq!(policy.check_kvm(linux("7.0-rc1")), Ok(()), "{policy}");
            let text = policy.check_kvm(before).unwrap_err().to_string();
            let expected = format!("needs Linux {least} or newer on the host, found {before}");
            assert!(text.contains(&expected), "{text}");
        }
        let migrates = base.with(PolicyBit::MigrateMa);
        let text = migrates.check_kvm(linux("99.0")).unwrap_err().to_string();
        assert!(text.contains("migrate_ma must be off"), "{text}");
    }

    #[test]
    fn releases_of_kernels() {
        let version = |major, minor| Some(LinuxVersion { major, minor });
        assert_eq!(LinuxVersion::from_release("6.12.107+deb13-amd64\n"), version(6, 12));
        assert_eq!(LinuxVersion::from_release("7.2"), version(7, 2));
        for text in ["", "6", "six.1", "6.x", "99999.1"] {
            assert_eq!(LinuxVersion::from_release(text), None, "{text}");
        }
    }
}
