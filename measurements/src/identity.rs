//! What a release says about the ID blocks of its VMs: which ids and security version they state,
//! and whose keys must have signed them. Signing and verifying them is in `id_block`.

use serde::{Deserialize, Serialize};

use crate::hash::{FamilyId, ImageId, Sha384Hash};

/// Most keys of each kind.
pub const MAX_KEYS: usize = 16;

/// Why an identity is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be at most {MAX_KEYS} digests of keys, sorted, each once, none of them zero")]
pub struct IdentityError {
    /// `id_keys` or `author_keys`.
    pub field: &'static str,
}

/// The part of an ID block that is the same for every shape of a release.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// `FAMILY_ID` of the block and of reports.
    pub family_id: FamilyId,
    /// `IMAGE_ID` of the block and of reports.
    pub image_id: ImageId,
    /// `GUEST_SVN`: what a verifier may demand a least value of.
    pub guest_svn: u32,
    /// Digests of the ID keys one of which must have signed the block; empty where none must.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub id_keys: Vec<Sha384Hash>,
    /// Digests of the author keys one of which must have signed the ID key; empty where none must.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub author_keys: Vec<Sha384Hash>,
}

impl Identity {
    /// Whether a VM without an ID block cannot be one of this release.
    #[must_use]
    pub fn requires_block(&self) -> bool {
        !self.id_keys.is_empty() || !self.author_keys.is_empty()
    }

    /// Holds the lists of keys to their form.
    ///
    /// # Errors
    /// When one is too long, not sorted, or has a digest of zeros, which stands for no key.
    pub fn check(&self) -> Result<(), IdentityError> {
        for (field, keys) in [("id_keys", &self.id_keys), ("author_keys", &self.author_keys)] {
            let sorted = keys.windows(2).all(|pair| pair[0] < pair[1]);
            if keys.len() > MAX_KEYS || !sorted || keys.contains(&Sha384Hash::ZERO) {
                return Err(IdentityError { field });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_few_sorted_and_real() {
        let key = |byte| Sha384Hash::from_bytes([byte; 48]);
        let identity = |keys: &[u8]| Identity {
            author_keys: keys.iter().map(|byte| key(*byte)).collect(),
            ..Identity::default()
        };
        for good in [&[][..], &[1], &[1, 2, 9]] {
            assert_eq!(identity(good).check(), Ok(()), "{good:?}");
            assert_eq!(identity(good).requires_block(), !good.is_empty());
        }
        let many: Vec<u8> = (1..18).collect();
        for wrong in [&[0][..], &[2, 1], &[1, 1], &many] {
            assert_eq!(identity(wrong).check(), Err(IdentityError { field: "author_keys" }));
        }
    }

    #[test]
    fn lists_that_are_empty_are_not_written() {
        let json = serde_json::to_string(&Identity::default()).unwrap();
        let zeros = "0".repeat(32);
        let expected = format!(r#"{{"family_id":"{zeros}","image_id":"{zeros}","guest_svn":0}}"#);
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_str::<Identity>(&json).unwrap(), Identity::default());
    }
}
