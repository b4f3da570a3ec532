//! The measured command line: which platform the guest believes in and which root it mounts.
//!
//! The builder appends the tokens, the init reads them back from `/proc/cmdline`, a verifier
//! reads them from the manifest. The firmware's loader puts `initrd=initrd ` in front, so tokens
//! are parsed and the line is never compared as a whole.

use std::fmt::Write as _;

use crate::hash::Sha256Hash;
use crate::platform::Platform;
use crate::verity::{Salt, Verity, VerityError};

/// Key of the token that names the platform.
pub const PLATFORM: &str = Platform::CMDLINE_KEY;
/// Key of the token with the root hash of dm-verity.
pub const ROOT_HASH: &str = "casemate.root_hash";
/// Key of the token with the salt of dm-verity.
pub const ROOT_SALT: &str = "casemate.root_salt";
/// Key of the token with the number of data blocks.
pub const ROOT_DATA_BLOCKS: &str = "casemate.root_data_blocks";
/// Key of the token with the block at which the hash tree starts.
pub const ROOT_HASH_BLOCK: &str = "casemate.root_hash_block";
/// The keys in the order in which they stand on the command line.
pub const KEYS: [&str; 5] = [PLATFORM, ROOT_HASH, ROOT_SALT, ROOT_DATA_BLOCKS, ROOT_HASH_BLOCK];
/// What every key of casemate starts with.
pub const PREFIX: &str = "casemate.";
/// Most bytes of a command line: Linux on x86 keeps 2047, and the loader adds `initrd=initrd `.
pub const MAX_LEN: usize = 2047 - "initrd=initrd ".len();

/// Why a command line is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CmdlineError {
    /// A token is missing.
    #[error("command line lacks {key}=")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A token stands there twice.
    #[error("command line has {key}= twice, expected it once")]
    Twice {
        /// The key.
        key: &'static str,
    },
    /// A token starts like one of casemate's and is none.
    #[error("command line has the unknown token {token:?}")]
    Unknown {
        /// The token, shortened.
        token: String,
    },
    /// A token's value is malformed.
    #[error("command line has {key}={value:?}, expected {expected}")]
    Malformed {
        /// The key.
        key: &'static str,
        /// The value, shortened.
        value: String,
        /// What was expected.
        expected: &'static str,
    },
    /// The values do not go together.
    #[error("command line describes no root disk")]
    Verity(#[from] VerityError),
    /// A base or a line has bytes that do not belong there.
    #[error(
        "command line has the byte {byte:#04x} at {at}, expected printable ASCII, single spaces \
         between tokens and none at the ends"
    )]
    Byte {
        /// The byte.
        byte: u8,
        /// Its offset.
        at: usize,
    },
    /// The line is too long for the kernel.
    #[error("command line has {len} bytes, expected at most {MAX_LEN}")]
    TooLong {
        /// The length found.
        len: usize,
    },
}

/// What the init is told, and the digest holds it to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootParams {
    /// The platform that the guest believes in.
    pub platform: Platform,
    /// The root disk.
    pub verity: Verity,
}

impl BootParams {
    /// Reads the tokens of casemate; others are left alone.
    ///
    /// # Errors
    /// When one is missing, there twice, malformed or unknown.
    pub fn from_cmdline(line: &str) -> Result<Self, CmdlineError> {
        let mut values: [Option<&str>; KEYS.len()] = [None; KEYS.len()];
        for token in tokens(line) {
            let bare = token.trim_start_matches('"');
            if !bare.starts_with(PREFIX) && bare != "casemate" {
                continue;
            }
            let unknown = || CmdlineError::Unknown { token: token.chars().take(80).collect() };
            let (key, value) = token.split_once('=').ok_or_else(unknown)?;
            let index = KEYS.iter().position(|known| *known == key).ok_or_else(unknown)?;
            if values[index].replace(value).is_some() {
                return Err(CmdlineError::Twice { key: KEYS[index] });
            }
        }
        let value = |index: usize| {
            let key = KEYS[index];
            values[index].ok_or(CmdlineError::Missing { key }).map(|value| (key, value))
        };
        let platform = field(value(0)?, "snp or simulated", Platform::from_name)?;
        let root_hash =
            field(value(1)?, "64 lower-case hex digits", |text| text.parse::<Sha256Hash>().ok())?;
        let salt =
            field(value(2)?, "2 to 64 lower-case hex digits", |text| text.parse::<Salt>().ok())?;
        let data_blocks = field(value(3)?, "a decimal number", decimal)?;
        let hash_block = field(value(4)?, "a decimal number", decimal)?;
        let verity = Verity { root_hash, salt, data_blocks, hash_block };
        verity.check()?;
        Ok(Self { platform, verity })
    }

    /// The command line: `base`, then the tokens of casemate in the order of [`KEYS`].
    #[must_use]
    pub fn append_to(&self, base: &str) -> String {
        let Verity { root_hash, salt, data_blocks, hash_block } = &self.verity;
        let mut line = base.to_owned();
        if !line.is_empty() {
            line.push(' ');
        }
        // Writing to a String cannot fail.
        let _ = write!(
            line,
            "{PLATFORM}={} {ROOT_HASH}={root_hash} {ROOT_SALT}={salt} \
             {ROOT_DATA_BLOCKS}={data_blocks} {ROOT_HASH_BLOCK}={hash_block}",
            self.platform
        );
        line
    }
}

/// Holds a recipe's part of the command line to what [`BootParams::append_to`] may be given.
///
/// # Errors
/// When it has a token of casemate, a byte that is not printable ASCII, a space too many, or is
/// too long.
pub fn check_base(base: &str) -> Result<(), CmdlineError> {
    check_bytes(base)?;
    match tokens(base).find(|token| token.trim_start_matches('"').starts_with(PREFIX)) {
        None => Ok(()),
        Some(token) => Err(CmdlineError::Unknown { token: token.chars().take(80).collect() }),
    }
}

/// Holds a whole command line to printable ASCII, single spaces and the kernel's length.
///
/// # Errors
/// When it is not so.
pub fn check_bytes(line: &str) -> Result<(), CmdlineError> {
    if line.len() > MAX_LEN {
        return Err(CmdlineError::TooLong { len: line.len() });
    }
    let mut before = b' ';
    for (at, byte) in line.bytes().enumerate() {
        if !(b' '..=b'~').contains(&byte) || (byte == b' ' && before == b' ') {
            return Err(CmdlineError::Byte { byte, at });
        }
        before = byte;
    }
    if line.ends_with(' ') {
        return Err(CmdlineError::Byte { byte: b' ', at: line.len() - 1 });
    }
    Ok(())
}

/// Tokens as the kernel splits them: at white space outside double quotes.
pub(crate) fn tokens(line: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    line.split(move |c: char| {
        quoted ^= c == '"';
        c.is_whitespace() && !quoted
    })
    .filter(|token| !token.is_empty())
}

fn field<T>(
    (key, value): (&'static str, &str),
    expected: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, CmdlineError> {
    parse(value).ok_or_else(|| {
        let value = value.chars().take(80).collect();
        CmdlineError::Malformed { key, value, expected }
    })
}

fn decimal(text: &str) -> Option<u64> {
    let value: u64 = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params() -> BootParams {
        BootParams {
            platform: Platform::Simulated,
            verity: Verity {
                root_hash: Sha256Hash::of(b"root"),
                salt: "0a0b".parse().unwrap(),
                data_blocks: 12,
                hash_block: 12,
            },
        }
    }

    #[test]
    fn what_is_appended_is_read_back_behind_the_loaders_token() {
        let line = params().append_to("console=ttynull quiet");
        let hash = Sha256Hash::of(b"root");
        assert_eq!(
            line,
            format!(
                "console=ttynull quiet casemate.platform=simulated casemate.root_hash={hash} \
                 casemate.root_salt=0a0b casemate.root_data_blocks=12 casemate.root_hash_block=12"
            )
        );
        assert_eq!(BootParams::from_cmdline(&format!("initrd=initrd {line}\n")), Ok(params()));
        assert_eq!(BootParams::from_cmdline(&params().append_to("")), Ok(params()));
        assert!(!params().append_to("").starts_with(' '));
    }

    #[test]
    fn each_token_must_be_there_once_and_well_formed() {
        let line = params().append_to("quiet");
        for key in KEYS {
            let start = line.find(&format!("{key}=")).unwrap();
            let token = line[start..].split(' ').next().unwrap();
            let without = line.replacen(token, "", 1);
            assert_eq!(BootParams::from_cmdline(&without), Err(CmdlineError::Missing { key }));
            let twice = format!("{line} {token}");
            assert_eq!(BootParams::from_cmdline(&twice), Err(CmdlineError::Twice { key }));
            let malformed = line.replacen(token, &format!("{key}=+1"), 1);
            let error = BootParams::from_cmdline(&malformed).unwrap_err();
            assert!(matches!(error, CmdlineError::Malformed { key: k, .. } if k == key), "{error}");
        }
    }

    #[test]
    fn unknown_and_quoted_tokens_are_refused() {
        let line = params().append_to("quiet");
        for token in ["casemate.debug=1", "casemate.root_hash", "casemate", "\"casemate.x=1 2\""] {
            let error = BootParams::from_cmdline(&format!("{line} {token}")).unwrap_err();
            assert!(matches!(error, CmdlineError::Unknown { .. }), "{token}: {error}");
        }
        let elsewhere = format!("{line} dyndbg=\"file x casemate.debug=1\"");
        assert_eq!(BootParams::from_cmdline(&elsewhere), Ok(params()));
    }

    #[test]
    fn values_must_go_together() {
        let line = params().append_to("").replace("hash_block=12", "hash_block=13");
        assert!(matches!(BootParams::from_cmdline(&line), Err(CmdlineError::Verity(_))));
        let line = params().append_to("").replace("data_blocks=12", "data_blocks=012");
        assert!(matches!(BootParams::from_cmdline(&line), Err(CmdlineError::Malformed { .. })));
    }

    #[test]
    fn bases() {
        assert_eq!(check_base("console=ttynull quiet"), Ok(()));
        assert_eq!(check_base(""), Ok(()));
        for base in [" a", "a ", "a  b", "a\tb", "a\n", "caf\u{e9}", "casemate.platform=snp"] {
            assert!(check_base(base).is_err(), "{base:?}");
        }
        assert!(matches!(check_base(&"a".repeat(2048)), Err(CmdlineError::TooLong { .. })));
    }
}
