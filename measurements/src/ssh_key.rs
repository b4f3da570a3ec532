//! Public SSH keys as people write them: a line of `authorized_keys` without options.
//!
//! A key that was cut off when it was copied still looks like a line with a key, and nobody can log
//! in by it. So what the base64 holds is read: RFC 4253, 6.6; RFC 5656, 3.1; RFC 8709, 4; OpenSSH,
//! PROTOCOL.u2f. Whether there is a private key to it no text can say.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Most characters of a key's base64.
const LONGEST: usize = 4096;

/// The types that a VM takes.
const TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
];

/// Why a line is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It has another form.
    #[error("expected one line `TYPE BASE64 [COMMENT]` without options, TYPE one of {}", TYPES.join(", "))]
    Form,
    /// The key is not whole.
    #[error(
        "its base64 is no whole {kind} key: was it cut off when it was copied? Expected the line as \
         it stands in the .pub file"
    )]
    NotWhole {
        /// The type that it claims.
        kind: &'static str,
    },
}

/// Why a file of public keys is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {number}, {text:?}, is no public key")]
pub struct KeyFileError {
    /// The line's number, from 1.
    number: usize,
    /// Its text, shortened.
    text: String,
    /// Why.
    source: KeyError,
}

/// The keys of a `.pub` or `authorized_keys` file, each as [`key_line`] writes it. Empty lines and
/// those that begin with `#` are none.
///
/// # Errors
/// When another line is no key.
pub fn key_lines(text: &str) -> Result<Vec<String>, KeyFileError> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let key = |(number, line): (usize, &str)| {
        let text = || line.chars().take(80).collect();
        key_line(line).map_err(|source| KeyFileError { number, text: text(), source })
    };
    lines.map(key).collect()
}

/// A line as the launch config has it: type, base64 and comment with one space between each. As for
/// sshd, blanks and tabs may stand there.
///
/// # Errors
/// When it is no key.
pub fn key_line(line: &str) -> Result<String, KeyError> {
    let blank = [' ', '\t'];
    let (kind, rest) = line.trim().split_once(blank).ok_or(KeyError::Form)?;
    let rest = rest.trim_start_matches(blank);
    let (key, comment) = rest.split_once(blank).unwrap_or((rest, ""));
    let line = format!("{kind} {key} {}", comment.trim_matches(blank));
    let line = line.trim_end();
    check(line)?;
    Ok(line.to_owned())
}

/// Holds `line` to the form that the launch config has, and its key to being whole.
pub(crate) fn check(line: &str) -> Result<(), KeyError> {
    let mut words = line.splitn(3, ' ');
    let (kind, key) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let kind = TYPES.into_iter().find(|known| *known == kind).ok_or(KeyError::Form)?;
    if key.is_empty() || key.len() > LONGEST || line.chars().any(char::is_control) {
        return Err(KeyError::Form);
    }
    let blob = STANDARD.decode(key).ok();
    let whole = blob.is_some_and(|blob| is_whole(kind, &blob).is_some());
    if whole { Ok(()) } else { Err(KeyError::NotWhole { kind }) }
}

/// `Some` if `blob` is a key of the type `kind` and no more.
fn is_whole(kind: &str, blob: &[u8]) -> Option<()> {
    let (name, rest) = string(blob)?;
    let rest = (name == kind.as_bytes()).then_some(rest)?;
    let of_len = |rest, len: usize| string(rest).filter(|(key, _)| key.len() == len);
    // The curve's name, then an uncompressed point (SEC 1, 2.3.3).
    let point = |rest, curve: &str, len| {
        let (name, rest) = string(rest)?;
        let (point, rest) = of_len(rest, len)?;
        (name == curve.as_bytes() && point.first() == Some(&4)).then_some(rest)
    };
    let rest = match kind {
        "ssh-ed25519" => of_len(rest, 32)?.1,
        "sk-ssh-ed25519@openssh.com" => string(of_len(rest, 32)?.1)?.1,
        "ecdsa-sha2-nistp256" => point(rest, "nistp256", 65)?,
        "ecdsa-sha2-nistp384" => point(rest, "nistp384", 97)?,
        "ecdsa-sha2-nistp521" => point(rest, "nistp521", 133)?,
        "sk-ecdsa-sha2-nistp256@openssh.com" => string(point(rest, "nistp256", 65)?)?.1,
        // Exponent and modulus.
        "ssh-rsa" => string(string(rest).filter(|(e, _)| !e.is_empty())?.1)?.1,
        _ => return None,
    };
    rest.is_empty().then_some(())
}

/// A string of the SSH protocol, and what follows it: RFC 4251, section 5. `None` where `bytes` end
/// before it does.
#[must_use]
pub fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As ssh-keygen wrote them.
    const KEYS: [&str; 5] = [
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIARKsFU4uE39dKTdDufXgkdGJj6mbnohXIFRcztca+Ri me",
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBIinKSlA2q7gtxUp2o\
         q+WbsGZMZDDMNlcyPo/Ba5s0UGevFfOfyxnnBQG+TPXNxW6c6ZO3Q3ZUU4ufGJkEm5y0A= me",
        "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBE2UscWhhhkeue9YdD\
         tHBLjzN4+tP/kXlmdQwaxBoBcLLxLr+LgCsiBaDHAQsGz5EDFqGs/Y95csDGaugNOs5ciHW9NQ8JrNP9XHfHg58svq\
         dv0BMhibhnY0Qib4i+lH+w== me",
        "ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBAGXM0rTJxRVT5AoZg\
         2T+vpJLzI2r0/wuT0SIPiWKlMNDaWzIl+STl60nx/g7+AkoD9EELEz7r25UWDxDKmx43irBwEz4iNYs3t2N4HqjQF4\
         3M0Z/gFKdllE5hxnhrifoNZCox3bGvMqCGfescnpn9Kcz09itvYzXc8MX6cX2QreN8oI0g== me",
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQCxawWdUMuEIjZniGh/C/NSex5Fcdm/L4eNMeUH+yN5bMHVcM0m0i\
         FlsZGRPoswCRmpkB+HNP+6HDev6gIdW2+2EaIqgzFNcRP6JlrT1xl2rn+a71E5/dEtPU1HftlkydfAeKQAzSWVrKdO\
         9ybk2ZJdzGoSL19YeG61S5BA9tsnMw== me",
    ];

    /// A key of a token: `string TYPE`, then `parts`, then the application.
    fn token(kind: &str, parts: &[&[u8]]) -> String {
        let mut blob = Vec::new();
        for part in [&[kind.as_bytes()], parts, &[b"ssh:"]].concat() {
            blob.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
            blob.extend(part);
        }
        format!("{kind} {}", STANDARD.encode(blob))
    }

    fn all() -> Vec<String> {
        let point = [&[4_u8][..], &[7; 64]].concat();
        let tokens = [
            token("sk-ssh-ed25519@openssh.com", &[&[7; 32]]),
            token("sk-ecdsa-sha2-nistp256@openssh.com", &[b"nistp256", &point]),
        ];
        KEYS.map(str::to_owned).into_iter().chain(tokens).collect()
    }

    #[test]
    fn whole_keys_are_taken_and_cut_ones_are_not() {
        for line in all() {
            assert_eq!(key_line(&line).as_ref(), Ok(&line));
            let (kind, rest) = line.split_once(' ').unwrap();
            let key = rest.trim_end_matches(" me");
            for cut in 1..key.len() {
                let cut = key_line(&format!("{kind} {}", &key[..cut]));
                assert!(matches!(cut, Err(KeyError::NotWhole { .. })), "{cut:?}");
            }
            let longer = [STANDARD.decode(key).unwrap(), vec![0]].concat();
            let longer = format!("{kind} {}", STANDARD.encode(longer));
            assert!(matches!(key_line(&longer), Err(KeyError::NotWhole { .. })));
            // The base64 of one type under the name of another.
            for other in TYPES.into_iter().filter(|other| *other != kind) {
                assert!(key_line(&format!("{other} {key}")).is_err());
            }
        }
    }

    #[test]
    fn blanks_and_tabs_stand_where_sshd_takes_them() {
        let whole = KEYS[0];
        for line in [
            whole.replacen(' ', "\t", 2),
            format!(" \t{}\r", whole.replace(' ', " \t ")),
            whole.to_owned(),
        ] {
            assert_eq!(key_line(&line).as_deref(), Ok(whole), "{line:?}");
        }
        let comment = format!("{whole}  and  more");
        assert_eq!(key_line(&comment).as_deref(), Ok(&*comment));
        for line in
            ["", "ssh-ed25519", "ssh-dss AAAA", &format!("command=\"x\" {whole}"), "a\tb\tc"]
        {
            assert_eq!(key_line(line), Err(KeyError::Form), "{line}");
        }
        assert_eq!(check(&whole.replacen(' ', "\t", 1)), Err(KeyError::Form));
    }

    #[test]
    fn files_are_read_line_by_line() {
        let text = format!("# mine\n\n{}\n  {}\n", KEYS[0], KEYS[4]);
        assert_eq!(key_lines(&text).unwrap(), [KEYS[0], KEYS[4]]);
        let error = key_lines(&format!("{text}ssh-ed25519 AAAA me\n")).unwrap_err();
        assert_eq!(error.to_string(), "line 5, \"ssh-ed25519 AAAA me\", is no public key");
        assert!(error.source.to_string().contains("cut off when it was copied"));
    }
}
