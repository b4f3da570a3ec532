//! An SSH host key that can be written into a `known_hosts` file without saying anything else.
//!
//! The text comes out of evidence. Even judged genuine, it must not be able to carry a second
//! line, a marker (`@cert-authority`), a host pattern or another kind of key into that file.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const KIND: &str = "ssh-ed25519";
/// RFC 8709, section 4: `string "ssh-ed25519"`, `string key` of 32 bytes.
const PREFIX: &[u8; 19] = b"\0\0\0\x0bssh-ed25519\0\0\0\x20";
const BLOB_LEN: usize = 51;

/// An ed25519 host key, as `ssh-ed25519 BASE64`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostKey([u8; 32]);

/// A text that is no ed25519 host key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no SSH host key: expected `ssh-ed25519 BASE64` with one space, no comment, and \
     the base64 of a well-formed 51-byte key"
)]
pub struct HostKeyError {
    /// The refused text, shortened.
    text: String,
}

impl FromStr for HostKey {
    type Err = HostKeyError;

    fn from_str(text: &str) -> Result<Self, HostKeyError> {
        decode(text).ok_or_else(|| HostKeyError { text: text.chars().take(140).collect() })
    }
}

fn decode(text: &str) -> Option<HostKey> {
    let encoded = text.strip_prefix(KIND)?.strip_prefix(' ')?;
    let blob: [u8; BLOB_LEN] = STANDARD.decode(encoded).ok()?.try_into().ok()?;
    let key = HostKey(*blob.strip_prefix(PREFIX)?.as_array()?);
    // One key, one text: what is written is what was read.
    (key.to_string() == text).then_some(key)
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{KIND} {}", STANDARD.encode([PREFIX.as_slice(), &self.0].concat()))
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with ssh-keygen.
    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKKPqjlb4NQbvHfCZF5b43xsEhuELZvW8qdlxqQeDCa+";

    #[test]
    fn a_real_key_comes_back() {
        assert_eq!(KEY.parse::<HostKey>().unwrap().to_string(), KEY);
    }

    #[test]
    fn nothing_else_gets_through() {
        let body = &KEY[12..];
        let short =
            STANDARD.encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x1f0123456789012345678901234567890");
        let long = STANDARD.encode([PREFIX.as_slice(), &[0; 33]].concat());
        let other =
            STANDARD.encode([b"\0\0\0\x0bssh-ed25518\0\0\0\x20".as_slice(), &[0; 32]].concat());
        for text in [
            String::new(),
            "ssh-ed25519".into(),
            "ssh-ed25519 ".into(),
            body.into(),
            format!("{KEY}\n"),
            format!("\n{KEY}"),
            format!("{KEY} comment"),
            format!("{KEY}\n* {KEY}"),
            format!("{KEY}\r"),
            format!("{KEY}\0"),
            format!("@cert-authority * {KEY}"),
            format!("* {KEY}"),
            format!("ssh-ed25519  {body}"),
            format!("ssh-ed25519\t{body}"),
            format!("SSH-ED25519 {body}"),
            format!("ssh-rsa {body}"),
            format!("ssh-ed25519 {}\n{}", &body[..20], &body[20..]),
            format!("ssh-ed25519 {body}===="),
            format!("ssh-ed25519 {}", &body[..64]),
            format!("ssh-ed25519 {short}"),
            format!("ssh-ed25519 {long}"),
            format!("ssh-ed25519 {other}"),
        ] {
            assert!(text.parse::<HostKey>().is_err(), "{text:?}");
        }
    }
}
