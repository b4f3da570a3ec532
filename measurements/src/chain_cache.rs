//! Chains that were verified once and judge many reports: with a warm cache a report costs one
//! signature of a P-384 key.

use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha384};

use crate::bounded::Bounded;
use crate::certificates::CertificateTable;
use crate::chain::{ChainError, EndorsedKey, UnixTime};
use crate::platform::Platform;
use crate::report::{Report, SigningKey};
use crate::roots::Roots;

/// Which certificates: SHA-384 of all that a chain consists of.
type Name = [u8; 48];

/// Verified chains, shared by threads, at most as many as it was made for.
///
/// A chain is found by the bytes of its certificates and by nothing that a report says. What the
/// time and the report decide is judged again at each use: validity, product, and whether the
/// root is still trusted; a key refuses reports of another chip or TCB by itself. Revocation is
/// judged by whoever has the lists.
#[derive(Debug)]
pub struct ChainCache {
    keys: Mutex<Bounded<Name, Arc<EndorsedKey>>>,
}

impl ChainCache {
    /// A cache of at most `most` chains, about 2 KiB each.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { keys: Mutex::new(Bounded::new(most)) }
    }

    /// The key that [`EndorsedKey::verify`] gives for the same arguments, from the cache where
    /// the same certificates were verified before. A refusal is not remembered.
    ///
    /// # Errors
    /// As [`EndorsedKey::verify`].
    pub fn verify(
        &self,
        table: &CertificateTable,
        report: &Report,
        platform: Platform,
        roots: &Roots,
        at: UnixTime,
    ) -> Result<Arc<EndorsedKey>, ChainError> {
        let name = name(table, report.signing_key(), platform);
        let found = self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(&name);
        if let Some(key) = found.filter(|key| key.is_under(roots, platform)) {
            key.check_current(report, at)?;
            return Ok(key);
        }
        // The lock is not held meanwhile: at worst two threads verify the same chain.
        let key = Arc::new(EndorsedKey::verify(table, report, platform, roots, at)?);
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.insert(name, Arc::clone(&key));
        Ok(key)
    }
}

fn name(table: &CertificateTable, key: SigningKey, platform: Platform) -> Name {
    let (role, leaf) = match key {
        SigningKey::Vcek => (0, &table.vcek),
        SigningKey::Vlek => (1, &table.vlek),
    };
    let mut hash = Sha384::new_with_prefix([role, u8::from(platform == Platform::Simulated)]);
    for certificate in [leaf, &table.ask, &table.ark] {
        let bytes = certificate.as_deref();
        // A length that no certificate has stands for none.
        let len = bytes.map_or(u64::MAX, |bytes| bytes.len() as u64);
        hash.update(len.to_le_bytes());
        hash.update(bytes.unwrap_or_default());
    }
    hash.finalize().into()
}
