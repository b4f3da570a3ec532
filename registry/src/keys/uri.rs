//! PKCS#11 URIs (RFC 7512): which key of which token.

use std::path::PathBuf;
use std::str::FromStr;

/// What such a URI starts with.
pub(crate) const SCHEME: &str = "pkcs11:";

/// Why a text is no URI of a private key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// An attribute is unknown, twice there or not of its form.
    #[error(
        "PKCS#11 URI: {attribute:?} {problem}; known are token, serial, slot-id, object, id, type \
         and, behind '?', module-path, pin-value, pin-source"
    )]
    Attribute {
        /// The attribute, without its value.
        attribute: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Nothing in it says which key.
    #[error("PKCS#11 URI: neither object nor id says which key of the token is meant")]
    NoKey,
}

/// Which key of which token. What is not given matches any.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TokenUri {
    /// The token's label.
    pub token: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its slot.
    pub slot_id: Option<u64>,
    /// The key's label.
    pub object: Option<String>,
    /// The key's `CKA_ID`.
    pub id: Option<Vec<u8>>,
    /// The module that talks to the token.
    pub module_path: Option<PathBuf>,
    /// The PIN.
    pub pin_value: Option<String>,
    /// A file with the PIN.
    pub pin_source: Option<PathBuf>,
}

impl std::fmt::Debug for TokenUri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { token, object, id, module_path, .. } = self;
        write!(f, "TokenUri({token:?}, {object:?}, {id:02x?}, {module_path:?})")
    }
}

impl FromStr for TokenUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| wrong("scheme", "is not pkcs11"))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut uri = Self::default();
        let attributes = path.split(';').map(|attribute| (attribute, false));
        let attributes = attributes.chain(query.split('&').map(|attribute| (attribute, true)));
        for (attribute, in_query) in attributes.filter(|(attribute, _)| !attribute.is_empty()) {
            let (name, value) =
                attribute.split_once('=').ok_or_else(|| wrong(attribute, "has no value"))?;
            uri.set(name, &decode(name, value)?, in_query)?;
        }
        if uri.object.is_none() && uri.id.is_none() {
            return Err(UriError::NoKey);
        }
        Ok(uri)
    }
}

impl TokenUri {
    fn set(&mut self, name: &str, value: &[u8], in_query: bool) -> Result<(), UriError> {
        let text = || {
            let text = String::from_utf8(value.to_vec());
            text.map_err(|_| wrong(name, "is not UTF-8"))
        };
        match (name, in_query) {
            ("token", false) => once(name, &mut self.token, text()?),
            ("serial", false) => once(name, &mut self.serial, text()?),
            ("slot-id", false) => {
                let slot = text()?.parse().map_err(|_| wrong(name, "is no number"))?;
                once(name, &mut self.slot_id, slot)
            }
            ("object", false) => once(name, &mut self.object, text()?),
            ("id", false) => once(name, &mut self.id, value.to_vec()),
            ("type", false) if value == b"private" => Ok(()),
            ("type", false) => Err(wrong(name, "is not private")),
            ("module-path", true) => once(name, &mut self.module_path, text()?.into()),
            ("pin-value", true) => once(name, &mut self.pin_value, text()?),
            ("pin-source", true) => {
                let text = text()?;
                let path = text.strip_prefix("file:").unwrap_or(&text);
                let path = path.strip_prefix("//").unwrap_or(path);
                once(name, &mut self.pin_source, path.into())
            }
            _ => Err(wrong(name, "is unknown")),
        }
    }
}

fn wrong(attribute: &str, problem: &'static str) -> UriError {
    UriError::Attribute { attribute: attribute.chars().take(40).collect(), problem }
}

fn once<T>(name: &str, place: &mut Option<T>, value: T) -> Result<(), UriError> {
    if place.replace(value).is_some() {
        return Err(wrong(name, "is there twice"));
    }
    Ok(())
}

/// Resolves `%41`.
fn decode(name: &str, value: &str) -> Result<Vec<u8>, UriError> {
    let mut bytes = Vec::new();
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let byte = after.split_at_checked(2).and_then(|(digits, after)| {
            let digits = str::from_utf8(digits).ok()?;
            let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            plain.then(|| u8::from_str_radix(digits, 16).ok())?.map(|byte| (byte, after))
        });
        let (byte, after) = byte.ok_or_else(|| wrong(name, "has a '%' without two hex digits"))?;
        bytes.push(byte);
        rest = after;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read() {
        let uri: TokenUri = "pkcs11:token=My%20HSM;slot-id=7;id=%01%ff;object=id-key;type=private\
                             ?module-path=/usr/lib/x.so&pin-source=file:///run/pin"
            .parse()
            .unwrap();
        let expected = TokenUri {
            token: Some("My HSM".into()),
            slot_id: Some(7),
            object: Some("id-key".into()),
            id: Some(vec![1, 0xff]),
            module_path: Some("/usr/lib/x.so".into()),
            pin_source: Some("/run/pin".into()),
            ..TokenUri::default()
        };
        assert_eq!(uri, expected);
        let uri: TokenUri = "pkcs11:object=a?pin-value=12%333".parse().unwrap();
        assert_eq!(uri.pin_value.as_deref(), Some("1233"));
        assert!(!format!("{uri:?}").contains("1233"), "a PIN is shown");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, expected) in [
            ("pkcs11:", "which key"),
            ("pkcs11:token=a", "which key"),
            ("pkcs11:object=a;object=b", "\"object\" is there twice"),
            ("pkcs11:object=a;type=public", "\"type\" is not private"),
            ("pkcs11:object=a;manufacturer=b", "\"manufacturer\" is unknown"),
            ("pkcs11:object=a;pin-value=1", "\"pin-value\" is unknown"),
            ("pkcs11:object=a?object=b", "\"object\" is unknown"),
            ("pkcs11:object=%4", "'%' without"),
            ("pkcs11:object=%+1", "'%' without"),
            ("pkcs11:object=%ff", "not UTF-8"),
            ("pkcs11:object", "has no value"),
            ("pkcs11:object=a;slot-id=x", "no number"),
        ] {
            let error = text.parse::<TokenUri>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
