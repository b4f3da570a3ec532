//! What a value may be: never silently anything.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// What a value may be. In a policy file a value, a list of values, or `"any"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect<T> {
    /// This value.
    Exactly(T),
    /// One of these; none of none.
    OneOf(Vec<T>),
    /// Whatever it is. The verdict says that it was not judged.
    Any,
}

/// How [`Expect::Any`] is written.
const ANY: &str = "any";
/// How "what the release states" is written.
const MANIFEST: &str = "manifest";

impl<T: PartialEq> Expect<T> {
    /// Whether `found` is accepted; `None` where anything is.
    pub fn accepts(&self, found: &T) -> Option<bool> {
        self.accepts_by(|expected| expected == found)
    }
}

impl<T> Expect<T> {
    /// Whether what `fits` one of the values is accepted; `None` where anything is.
    pub fn accepts_by(&self, fits: impl FnMut(&T) -> bool) -> Option<bool> {
        match self {
            Self::Exactly(expected) => Some(std::slice::from_ref(expected).iter().any(fits)),
            Self::OneOf(expected) => Some(expected.iter().any(fits)),
            Self::Any => None,
        }
    }
}

impl<T: fmt::Display> fmt::Display for Expect<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(expected) => write!(f, "{expected}"),
            Self::OneOf(expected) if expected.is_empty() => f.write_str("none is accepted"),
            Self::OneOf(expected) => {
                f.write_str("one of ")?;
                for (index, value) in expected.iter().enumerate() {
                    write!(f, "{}{value}", if index == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::Any => f.write_str(ANY),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Expect<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Read<T> {
            type Value = Expect<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value, a list of values, or \"any\"")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
                T::deserialize(value.into_deserializer()).map(Expect::Exactly)
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
                T::deserialize(value.into_deserializer()).map(Expect::Exactly)
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
                T::deserialize(value.into_deserializer()).map(Expect::Exactly)
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
                match value {
                    ANY => Ok(Expect::Any),
                    value => T::deserialize(value.into_deserializer()).map(Expect::Exactly),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Expect::Exactly)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Expect::OneOf)
            }
        }

        deserializer.deserialize_any(Read(PhantomData))
    }
}

/// Reads an expectation; `None` for `"manifest"`: what the release states.
pub(super) fn unless_manifest<'de, D, T>(deserializer: D) -> Result<Option<Expect<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    /// `manifest`, or a value.
    struct Word<T>(Option<T>);

    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Word<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            if text == MANIFEST {
                return Ok(Self(None));
            }
            T::deserialize(text.into_deserializer()).map(Some).map(Self)
        }
    }

    Ok(match Expect::<Word<T>>::deserialize(deserializer)? {
        Expect::Any => Some(Expect::Any),
        Expect::Exactly(Word(value)) => value.map(Expect::Exactly),
        Expect::OneOf(words) => {
            let values: Option<Vec<T>> = words.into_iter().map(|Word(value)| value).collect();
            let mixed = || D::Error::custom("\"manifest\" stands alone, not in a list");
            Some(Expect::OneOf(values.ok_or_else(mixed)?))
        }
    })
}

/// The schema of what [`unless_manifest`] reads.
#[cfg(feature = "schema")]
pub(super) fn or_manifest_schema<T: schemars::JsonSchema>(
    generator: &mut schemars::SchemaGenerator,
) -> schemars::Schema {
    let expect = generator.subschema_for::<Expect<T>>();
    schemars::json_schema!({ "anyOf": [expect, { "const": MANIFEST }] })
}

#[cfg(feature = "schema")]
impl<T: schemars::JsonSchema> schemars::JsonSchema for Expect<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Expect_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let one = generator.subschema_for::<T>();
        schemars::json_schema!({
            "anyOf": [one, { "type": "array", "items": one }, { "const": ANY }]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::Platform;

    #[derive(Debug, Deserialize)]
    struct Of<T> {
        x: Expect<T>,
    }

    #[test]
    fn a_value_a_list_or_any() {
        let number = |text: &str| toml::from_str::<Of<u8>>(text).map(|of| of.x);
        assert_eq!(number("x = 3").unwrap(), Expect::Exactly(3));
        assert_eq!(number("x = [3, 4]").unwrap(), Expect::OneOf(vec![3, 4]));
        assert_eq!(number("x = []").unwrap(), Expect::OneOf(vec![]));
        assert_eq!(number("x = \"any\"").unwrap(), Expect::Any);
        for wrong in ["x = 256", "x = true", "x = {}", "x = \"all\"", "x = [\"any\"]", "x = 1.0"] {
            assert!(number(wrong).unwrap_err().to_string().contains("line 1"), "{wrong}");
        }
        let platform: Of<Platform> = toml::from_str("x = \"snp\"").unwrap();
        assert_eq!(platform.x, Expect::Exactly(Platform::Snp));
        let error = toml::from_str::<Of<Platform>>("x = \"sgx\"").unwrap_err().to_string();
        assert!(error.contains("expected `snp` or `simulated`"), "{error}");
    }

    #[test]
    fn accepts() {
        assert_eq!(Expect::Exactly(1).accepts(&1), Some(true));
        assert_eq!(Expect::Exactly(1).accepts(&2), Some(false));
        assert_eq!(Expect::OneOf(vec![]).accepts(&2), Some(false));
        assert_eq!(Expect::Any.accepts(&2), None);
    }
}
