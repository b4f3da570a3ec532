//! What a launch of the image is given beside what is measured: the guest policy and what its ID
//! block states.

use std::fmt;

use casemate_measurements::hash::{FamilyId, ImageId, Sha384Hash};
use casemate_measurements::identity::Identity;
use casemate_measurements::policy::{GuestPolicy, NamedPolicy};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{HexU64, WordError};

/// `guest_policy` of `[measure]`: the number in hex, or a table of named bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecipePolicy(GuestPolicy);

impl RecipePolicy {
    /// The policy.
    #[must_use]
    pub const fn get(self) -> GuestPolicy {
        self.0
    }
}

impl Serialize for RecipePolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RecipePolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PolicyVisitor)
    }
}

struct PolicyVisitor;

impl<'de> Visitor<'de> for PolicyVisitor {
    type Value = RecipePolicy;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a guest policy: a number such as \"0x30000\" or a table such as {smt = true}")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<RecipePolicy, E> {
        let mask = HexU64::try_from(text.to_owned()).map_err(E::custom)?;
        GuestPolicy::new(mask.get()).map(RecipePolicy).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RecipePolicy, A::Error> {
        let named = NamedPolicy::deserialize(MapAccessDeserializer::new(map))?;
        Ok(RecipePolicy(named.into()))
    }
}

/// `[id_block]`: what the ID blocks of the image's VMs state, and whose keys must have signed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdBlock {
    /// The family that the image belongs to.
    pub family_id: Id,
    /// The image.
    pub image_id: Id,
    /// The security version of the guest.
    #[serde(default)]
    pub guest_svn: u32,
    /// Digests of the ID keys one of which must have signed; empty where none must.
    #[serde(default)]
    pub id_keys: Vec<Sha384Hash>,
    /// Digests of the author keys one of which must have signed; empty where none must.
    #[serde(default)]
    pub author_keys: Vec<Sha384Hash>,
}

impl IdBlock {
    /// As the manifest has it.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let sorted = |keys: &[Sha384Hash]| {
            let mut keys = keys.to_vec();
            keys.sort_unstable();
            keys.dedup();
            keys
        };
        Identity {
            family_id: FamilyId::from_bytes(self.family_id.0),
            image_id: ImageId::from_bytes(self.image_id.0),
            guest_svn: self.guest_svn,
            id_keys: sorted(&self.id_keys),
            author_keys: sorted(&self.author_keys),
        }
    }
}

/// An id of 16 bytes: 32 hex digits, or at most 16 characters that zeros are put behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Id([u8; 16]);

impl TryFrom<String> for Id {
    type Error = WordError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if let Ok(id) = text.parse::<FamilyId>() {
            return Ok(Self(*id.as_bytes()));
        }
        let mut bytes = [0; 16];
        let printable = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        match bytes.get_mut(..text.len()) {
            Some(start) if printable && !text.is_empty() => {
                start.copy_from_slice(text.as_bytes());
                Ok(Self(bytes))
            }
            _ => Err(WordError::new(
                &text,
                "an id",
                "1 to 16 printable characters, or 32 lower-case hex digits",
            )),
        }
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        FamilyId::from_bytes(id.0).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_text_or_hex() {
        let id = |text: &str| Id::try_from(text.to_owned()).map(|id| id.0);
        assert_eq!(id("casemate").unwrap(), *b"casemate\0\0\0\0\0\0\0\0");
        assert_eq!(id("exactly 16 bytes").unwrap(), *b"exactly 16 bytes");
        assert_eq!(id(&"0a".repeat(16)).unwrap(), [0x0a; 16]);
        for wrong in ["", "seventeen  bytes.", &"0A".repeat(16), "über", "tab\t"] {
            assert!(id(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_policy_is_a_number_or_named_bits() {
        #[derive(Deserialize)]
        struct Holder {
            guest_policy: RecipePolicy,
        }
        let read = |value: &str| {
            toml::from_str::<Holder>(&format!("guest_policy = {value}"))
                .map(|holder| holder.guest_policy.get().raw())
                .map_err(|error| error.to_string())
        };
        assert_eq!(read("\"0x30000\""), Ok(0x3_0000));
        assert_eq!(read("{ smt = true }"), Ok(0x3_0000));
        assert_eq!(read("{ abi = \"1.55\", single_socket = true }"), Ok(0x12_0137));
        for (wrong, expected) in [
            ("\"0x10000\"", "lacks bit 17"),
            ("\"0x8020000\"", "reserved"),
            ("{ sMt = true }", "unknown field `sMt`"),
            ("196608", "a number such as \"0x30000\" or a table"),
            ("{ abi = \"155\" }", "no version of the firmware ABI"),
        ] {
            let error = read(wrong).unwrap_err();
            assert!(error.contains(expected), "{wrong}: {error}");
        }
    }

    #[test]
    fn keys_come_sorted_and_each_once() {
        let (a, b) = ("0a".repeat(48), "0b".repeat(48));
        let text = format!(
            "family_id = \"f\"\nimage_id = \"i\"\nguest_svn = 2\nid_keys = [\"{b}\", \"{a}\", \"{b}\"]"
        );
        let identity = toml::from_str::<IdBlock>(&text).unwrap().identity();
        let keys: Vec<String> = identity.id_keys.iter().map(ToString::to_string).collect();
        assert_eq!(keys, [a, b]);
        assert_eq!((identity.guest_svn, identity.check()), (2, Ok(())));
    }
}
