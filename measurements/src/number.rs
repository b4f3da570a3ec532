//! Numbers that JSON carries as hex text: addresses and bit masks, `0x` and lower-case digits
//! without leading zeros, so that one value has one spelling and none is rounded to a binary64.

use serde::{Deserialize as _, Deserializer, Serializer};

/// Why a text is not such a number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}: expected 0x and lower-case hex digits without leading zeros")]
pub(crate) struct NumberError {
    /// The refused text, shortened to 40 characters.
    text: String,
    /// What was expected, in the words of the field.
    what: &'static str,
}

/// Writes the one spelling.
pub(crate) fn format(value: u64) -> String {
    format!("{value:#x}")
}

/// Reads the one spelling.
pub(crate) fn parse(text: &str, what: &'static str) -> Result<u64, NumberError> {
    let digits = text.strip_prefix("0x").unwrap_or("");
    match u64::from_str_radix(digits, 16) {
        Ok(value) if format(value) == text => Ok(value),
        _ => Err(NumberError { text: text.chars().take(40).collect(), what }),
    }
}

/// The one spelling, for a JSON schema.
#[cfg(feature = "schema")]
pub(crate) struct Hex;

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Hex {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Hex".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^0x(0|[1-9a-f][0-9a-f]*)$" })
    }
}

/// `#[serde(with)]` for a 32-bit address.
pub(crate) mod gpa {
    use super::{Deserializer, Serializer};
    use serde::Deserialize as _;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(crate) fn serialize<S: Serializer>(value: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format(u64::from(*value)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        let text = String::deserialize(deserializer)?;
        let value = super::parse(&text, "an address").map_err(serde::de::Error::custom)?;
        u32::try_from(value).map_err(serde::de::Error::custom)
    }
}

/// Reads hex text with serde and hands it to `new`.
pub(crate) fn deserialize<'de, D, T, E>(
    deserializer: D,
    what: &'static str,
    new: impl FnOnce(u64) -> Result<T, E>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    E: std::fmt::Display,
{
    let text = String::deserialize(deserializer)?;
    let value = parse(&text, what).map_err(serde::de::Error::custom)?;
    new(value).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling() {
        for value in [0, 1, 0x3_0000, u64::MAX] {
            assert_eq!(parse(&format(value), "x"), Ok(value));
        }
        for text in ["", "0x", "1", "0X1", "0x01", "0xA", "0x+1", " 0x1", "0x10000000000000000"] {
            assert!(parse(text, "x").is_err(), "{text}");
        }
    }
}
