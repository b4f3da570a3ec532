//! What becomes of command lines on their way to a host: the variants that are searched.

use std::fmt;

use crate::cmdline::{PREFIX, tokens};
use crate::platform::Platform;

/// Tokens that people add to see what a guest does.
const DEBUG: [&str; 14] = [
    "console=ttyS0",
    "console=ttyS0,115200",
    "console=hvc0",
    "console=tty0",
    "debug",
    "earlyprintk=serial",
    "earlyprintk=ttyS0",
    "ignore_loglevel",
    "loglevel=7",
    "nokaslr",
    "init=/bin/sh",
    "rdinit=/bin/sh",
    "single",
    "systemd.log_level=debug",
];

/// How one command line differs from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// A token is missing.
    Missing(String),
    /// A token stands at the end once more.
    Twice(String),
    /// A token was added at the end.
    Added(&'static str),
    /// A token was added before those that casemate appends.
    AddedBefore(&'static str),
    /// It has a byte more at its end.
    Ends(&'static str),
    /// It has something more at its start.
    Starts(&'static str),
    /// It names the other platform.
    Platform(Platform),
    /// There is none.
    Empty,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(token) => write!(f, "without {token:?} on its command line"),
            Self::Twice(token) => write!(f, "with {token:?} twice on its command line"),
            Self::Added(token) => write!(f, "with {token:?} added at the end of its command line"),
            Self::AddedBefore(token) => {
                write!(f, "with {token:?} added to its command line, before {PREFIX}*")
            }
            Self::Ends(text) => write!(f, "with {text:?} more at the end of its command line"),
            Self::Starts(text) => write!(f, "with {text:?} more at the start of its command line"),
            Self::Platform(other) => {
                write!(f, "with {}={other} on its command line", Platform::CMDLINE_KEY)
            }
            Self::Empty => f.write_str("with an empty command line"),
        }
    }
}

/// The variants of a command line, none of them the line itself.
pub(super) fn variants(line: &str) -> Vec<(Change, String)> {
    let all: Vec<&str> = tokens(line).collect();
    let mut found = Vec::new();
    for (index, token) in all.iter().enumerate() {
        let mut rest = all.clone();
        rest.remove(index);
        found.push((Change::Missing((*token).to_owned()), rest.join(" ")));
        found.push((Change::Twice((*token).to_owned()), format!("{line} {token}")));
    }
    let ours = line.find(PREFIX).unwrap_or(0);
    for token in DEBUG {
        found.push((Change::Added(token), format!("{line} {token}")));
        let (base, appended) = line.split_at(ours);
        found.push((Change::AddedBefore(token), format!("{base}{token} {appended}")));
    }
    for end in [" ", "\n", " \n", "\0"] {
        found.push((Change::Ends(end), format!("{line}{end}")));
    }
    for start in [" ", "initrd=initrd "] {
        found.push((Change::Starts(start), format!("{start}{line}")));
    }
    for (own, other) in [(Platform::Snp, Platform::Simulated), (Platform::Simulated, Platform::Snp)]
    {
        let token = |platform| format!("{}={platform}", Platform::CMDLINE_KEY);
        let changed = line.replacen(&token(own), &token(other), 1);
        found.push((Change::Platform(other), changed));
    }
    found.push((Change::Empty, String::new()));
    found.retain(|(_, variant)| variant != line);
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_variant_is_another_line() {
        let line = "quiet ro casemate.platform=snp casemate.root_salt=00";
        let variants = variants(line);
        let texts: BTreeSet<&str> = variants.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts.len(), variants.len());
        for expected in [
            "ro casemate.platform=snp casemate.root_salt=00",
            "quiet ro casemate.platform=snp casemate.root_salt=00 ro",
            "quiet ro casemate.platform=snp casemate.root_salt=00 console=ttyS0",
            "quiet ro debug casemate.platform=snp casemate.root_salt=00",
            "quiet ro casemate.platform=snp casemate.root_salt=00\n",
            "initrd=initrd quiet ro casemate.platform=snp casemate.root_salt=00",
            "quiet ro casemate.platform=simulated casemate.root_salt=00",
            "",
        ] {
            assert!(texts.contains(expected), "{expected:?}");
        }
        assert!(!texts.contains(line));
    }
}
