//! Patterns over identities, such as `https://github.com/o/r/.github/workflows/*.yml@refs/tags/v*`.

use std::fmt;
use std::str::FromStr;

/// Most characters of a pattern.
const MAX_LEN: usize = 512;

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It has no character or too many.
    #[error("a pattern has 1 to {MAX_LEN} characters, this has {0}")]
    Length(usize),
    /// It accepts everybody of an issuer.
    #[error("{0:?} accepts anybody: write down at least where the identity begins")]
    Anybody(String),
    /// Three stars mean nothing.
    #[error("{0:?} has three stars in a row: `*` is anything but '/', `**` is anything")]
    Stars(String),
}

/// A pattern. It is held to the whole text: `*` stands for any characters but '/', `**` for any;
/// every other character for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Byte(u8),
    WithinSegment,
    Anything,
}

impl Pattern {
    /// Whether the whole of `text` fits.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        // After each part: how much of the text may have been taken so far.
        let text = text.as_bytes();
        let mut reached = vec![false; text.len() + 1];
        reached[0] = true;
        for part in &self.parts {
            let mut next = vec![false; text.len() + 1];
            match part {
                Part::Byte(byte) => {
                    for (at, found) in text.iter().enumerate() {
                        next[at + 1] = reached[at] && found == byte;
                    }
                }
                Part::WithinSegment | Part::Anything => {
                    next[0] = reached[0];
                    for (at, found) in text.iter().enumerate() {
                        let passes = *part == Part::Anything || *found != b'/';
                        next[at + 1] = reached[at + 1] || (next[at] && passes);
                    }
                }
            }
            reached = next;
        }
        reached[text.len()]
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() || text.len() > MAX_LEN {
            return Err(PatternError::Length(text.len()));
        }
        if text.starts_with('*') {
            return Err(PatternError::Anybody(text.to_owned()));
        }
        if text.contains("***") {
            return Err(PatternError::Stars(text.to_owned()));
        }
        let mut parts = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((first, after)) = rest.split_first() {
            let (part, left) = match (first, after.first()) {
                (b'*', Some(b'*')) => (Part::Anything, &after[1..]),
                (b'*', _) => (Part::WithinSegment, after),
                (byte, _) => (Part::Byte(*byte), after),
            };
            parts.push(part);
            rest = left;
        }
        Ok(Self { text: text.to_owned(), parts })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().matches(text)
    }

    #[test]
    fn patterns_are_anchored_and_stars_stay_within_a_segment() {
        let tags = "https://github.com/o/r/.github/workflows/release.yml@refs/tags/v*";
        let of = |tail: &str| format!("https://github.com/o/r/.github/workflows/release.yml{tail}");
        assert!(matches(tags, &of("@refs/tags/v1.2.3")));
        assert!(matches(tags, &of("@refs/tags/v")));
        for other in ["@refs/heads/v1", "@refs/tags/v1/x", "@refs/tags/w1", "@refs/tags/"] {
            assert!(!matches(tags, &of(other)), "{other}");
        }
        assert!(!matches(tags, &format!("x{}", of("@refs/tags/v1"))));
        assert!(!matches("https://github.com/o*", "https://github.com/other/r"));
        assert!(matches("https://github.com/o*", "https://github.com/other"));
        assert!(matches("https://github.com/o/**", "https://github.com/o/r/a/b@c"));
        assert!(!matches("a.c", "abc") && matches("a*c*c", "abcbc") && !matches("a*c", "abcb"));
        assert!(matches("a**b*c", "a/b/bc") && !matches("a**b*c", "a/bb/c"));
    }

    #[test]
    fn what_accepts_anybody_is_refused() {
        for text in ["", "*", "**", "*@example.org", "a***"] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
        assert!("a".repeat(513).parse::<Pattern>().is_err());
    }

    proptest! {
        /// A pattern without stars is the text itself; replacing a piece without '/' by a star
        /// keeps the match.
        #[test]
        fn a_star_takes_what_it_stands_for(
            head in "[a-z./@]{1,8}", middle in "[a-z.@]{0,8}", tail in "[a-z./@]{0,8}",
        ) {
            let text = format!("{head}{middle}{tail}");
            prop_assert!(matches(&text, &text));
            let star = format!("{head}*{tail}");
            prop_assert!(matches(&star, &text));
            let slash = format!("{head}{middle}/{tail}");
            let stars = format!("{head}**{tail}");
            prop_assert!(matches(&stars, &slash));
            let changed = format!("{text}!");
            prop_assert!(!matches(&text, &changed));
        }
    }
}
