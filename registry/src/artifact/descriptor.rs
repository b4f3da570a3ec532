//! What a published artifact consists of: its files by path, each by length, SHA-256 and the
//! chunks that it is stored in.
//!
//! Canonical JSON. Reading one bounds everything that is later read or written because of it:
//! lengths of files come from here and are never exceeded.

use std::collections::BTreeMap;
use std::fmt;

use casemate_measurements::canonical::{self, CanonicalError};
use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::platform::Platform;
use serde::{Deserialize, Serialize};

use super::blob::{Blob, MAX_BLOB};

/// Most bytes of a descriptor.
pub const MAX_LEN: usize = 32 * 1024 * 1024;
/// Most files.
pub const MAX_FILES: usize = 65_536;
/// Most chunks of all files together.
pub const MAX_CHUNKS: usize = 262_144;
/// Most bytes of a file: 1 TiB.
pub const MAX_FILE: u64 = 1 << 40;
/// Most bytes of a path in an artifact.
const MAX_PATH: usize = 255;
/// Most characters of a name or version.
const MAX_NAME: usize = 64;

/// Why a descriptor is refused.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// It is not canonical JSON of the expected shape.
    #[error("descriptor is malformed")]
    Malformed(#[from] CanonicalError),
    /// It is too long.
    #[error("descriptor has {len} bytes, expected at most {MAX_LEN}")]
    TooLong {
        /// The length found.
        len: usize,
    },
    /// It is of another version.
    #[error(
        "descriptor has schema {found}, expected {}: a newer casemate made it",
        Descriptor::SCHEMA
    )]
    Schema {
        /// The version found.
        found: u32,
    },
    /// Name or version has other characters.
    #[error(
        "descriptor has the {what} {text:?}: expected 1 to {MAX_NAME} of a-z, A-Z, 0-9, '.', '+', \
         '-', '_' and a letter or digit first"
    )]
    Name {
        /// Name or version.
        what: &'static str,
        /// The text, shortened.
        text: String,
    },
    /// A path could lead out of the artifact or is ambiguous.
    #[error(
        "descriptor names the file {path:?}: expected at most {MAX_PATH} bytes, parts of a-z, \
         A-Z, 0-9 and \"._+~:-\" that do not start with a dot, parted by '/'"
    )]
    Path {
        /// The path, shortened.
        path: String,
    },
    /// One path is a directory of another.
    #[error("descriptor names {path} as a file and as a folder")]
    Folder {
        /// The path.
        path: String,
    },
    /// There are too many files or chunks.
    #[error("descriptor has {found} {what}, expected at most {most}")]
    Many {
        /// Files or chunks.
        what: &'static str,
        /// How many.
        found: usize,
        /// The bound.
        most: usize,
    },
    /// A length is out of bounds or contradicts the chunks.
    #[error("descriptor: {path} has {size} bytes: {problem}")]
    Size {
        /// The file.
        path: String,
        /// The length in question.
        size: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// What kind of artifact it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A release: what a VM boots.
    Release,
    /// Everything that a release is built from.
    Inputs,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Release => "release",
            Self::Inputs => "input bundle",
        })
    }
}

/// A piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Chunk {
    /// Bytes that are stored.
    Stored(Blob),
    /// Bytes that are all zero, which are not.
    Zeros(Zeros),
}

/// So many zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zeros {
    /// How many.
    pub zeros: u64,
}

impl Chunk {
    /// Its length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Stored(blob) => blob.size,
            Self::Zeros(run) => run.zeros,
        }
    }
}

/// A file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its chunks in order; none where the file is empty or one blob.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    chunks: Vec<Chunk>,
    /// SHA-256 of the file.
    sha256: Sha256Hash,
    /// Its length in bytes.
    size: u64,
}

impl FileEntry {
    /// A file of these chunks.
    #[must_use]
    pub fn new(sha256: Sha256Hash, size: u64, chunks: Vec<Chunk>) -> Self {
        let whole = Chunk::Stored(Blob { sha256, size });
        let chunks = if chunks == [whole] { Vec::new() } else { chunks };
        Self { chunks, sha256, size }
    }

    /// SHA-256 of the file.
    #[must_use]
    pub fn sha256(&self) -> Sha256Hash {
        self.sha256
    }

    /// Its length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether it is stored as one blob, or empty.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Each chunk with its offset.
    pub fn chunks(&self) -> impl Iterator<Item = (u64, Chunk)> + '_ {
        let whole = Chunk::Stored(Blob { sha256: self.sha256, size: self.size });
        let single = (self.chunks.is_empty() && self.size > 0).then_some(whole);
        let mut at = 0;
        self.chunks.iter().copied().chain(single).map(move |chunk| {
            let offset = at;
            at += chunk.size();
            (offset, chunk)
        })
    }

    fn check(&self, path: &str) -> Result<(), DescriptorError> {
        let wrong = |size, problem| DescriptorError::Size { path: path.to_owned(), size, problem };
        if self.size > MAX_FILE {
            return Err(wrong(self.size, "a file has at most 1 TiB"));
        }
        let mut sum = 0_u64;
        for (_, chunk) in self.chunks() {
            match chunk {
                Chunk::Stored(blob) if blob.size > MAX_BLOB => {
                    return Err(wrong(blob.size, "a chunk has at most 16 MiB"));
                }
                chunk if chunk.size() == 0 => return Err(wrong(0, "a chunk is empty")),
                chunk => sum = sum.saturating_add(chunk.size()),
            }
        }
        if sum != self.size {
            return Err(wrong(self.size, "its chunks have another length together"));
        }
        if self.chunks.len() == 1 && matches!(self.chunks[0], Chunk::Stored(_)) {
            return Err(wrong(self.size, "a file of one chunk is written without chunks"));
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    files: BTreeMap<String, FileEntry>,
    kind: Kind,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
    schema: u32,
    version: String,
}

/// What an artifact consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor(Raw);

impl Descriptor {
    /// The version of the format.
    pub const SCHEMA: u32 = 1;

    /// Describes an artifact.
    ///
    /// # Errors
    /// When it breaks a bound of the format.
    pub fn new(
        kind: Kind,
        (name, version): (&str, &str),
        platform: Option<Platform>,
        files: BTreeMap<String, FileEntry>,
    ) -> Result<Self, DescriptorError> {
        let (name, version) = (name.to_owned(), version.to_owned());
        Self(Raw { files, kind, name, platform, schema: Self::SCHEMA, version }).checked()
    }

    /// Reads one.
    ///
    /// # Errors
    /// When it is malformed or breaks a bound.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DescriptorError> {
        if bytes.len() > MAX_LEN {
            return Err(DescriptorError::TooLong { len: bytes.len() });
        }
        Self(canonical::from_slice(bytes)?).checked()
    }

    /// Its canonical bytes.
    ///
    /// # Errors
    /// When it is too long.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DescriptorError> {
        let bytes = canonical::to_vec(&self.0)?;
        if bytes.len() > MAX_LEN {
            return Err(DescriptorError::TooLong { len: bytes.len() });
        }
        Ok(bytes)
    }

    /// What kind of artifact it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// The platform that a release is for.
    #[must_use]
    pub fn platform(&self) -> Option<Platform> {
        self.0.platform
    }

    /// Its files by path.
    #[must_use]
    pub fn files(&self) -> &BTreeMap<String, FileEntry> {
        &self.0.files
    }

    /// The length of all files together.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.files.values().map(FileEntry::size).fold(0, u64::saturating_add)
    }

    fn checked(self) -> Result<Self, DescriptorError> {
        let raw = &self.0;
        if raw.schema != Self::SCHEMA {
            return Err(DescriptorError::Schema { found: raw.schema });
        }
        for (what, text) in [("name", &raw.name), ("version", &raw.version)] {
            if !is_name(text) {
                let text = text.chars().take(MAX_NAME).collect();
                return Err(DescriptorError::Name { what, text });
            }
        }
        let many = |what, found, most| Err(DescriptorError::Many { what, found, most });
        if raw.files.len() > MAX_FILES {
            return many("files", raw.files.len(), MAX_FILES);
        }
        let chunks = raw.files.values().map(|file| file.chunks.len()).sum();
        if chunks > MAX_CHUNKS {
            return many("chunks", chunks, MAX_CHUNKS);
        }
        for (path, file) in &raw.files {
            if !is_path(path) {
                return Err(DescriptorError::Path { path: path.chars().take(MAX_PATH).collect() });
            }
            for (at, _) in path.match_indices('/') {
                if raw.files.contains_key(&path[..at]) {
                    return Err(DescriptorError::Folder { path: path[..at].to_owned() });
                }
            }
            file.check(path)?;
        }
        Ok(self)
    }
}

fn is_name(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || b".+-_".contains(&b));
    first && rest && text.len() <= MAX_NAME
}

/// Whether `path` is one of a file in an artifact: it leads nowhere else, whatever reads it.
#[must_use]
pub fn is_path(path: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+~:-".contains(&b);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain);
    path.len() <= MAX_PATH && path.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn with(files: &str) -> Result<Descriptor, DescriptorError> {
        let text = format!(
            r#"{{"files":{{{files}}},"kind":"release","name":"a","platform":"snp","schema":1,"version":"1"}}"#
        );
        Descriptor::from_bytes(text.as_bytes())
    }

    fn file(path: &str, chunks: &str, size: u64) -> String {
        format!(r#""{path}":{{{chunks}"sha256":"{HEX}","size":{size}}}"#)
    }

    #[test]
    fn files_are_one_blob_or_chunks_or_zeros() {
        let chunks = format!(r#""chunks":[{{"sha256":"{HEX}","size":5}},{{"zeros":7}}],"#);
        let files =
            format!("{},{},{}", file("a", &chunks, 12), file("b/c:1~2", "", 3), file("d", "", 0));
        let read = with(&files).unwrap();
        let offsets = |path: &str| -> Vec<(u64, u64)> {
            read.files()[path].chunks().map(|(at, chunk)| (at, chunk.size())).collect()
        };
        assert_eq!(offsets("a"), [(0, 5), (5, 7)]);
        assert_eq!(offsets("b/c:1~2"), [(0, 3)]);
        assert_eq!(offsets("d"), []);
        assert_eq!(read.size(), 15);
        assert_eq!(Descriptor::from_bytes(&read.to_bytes().unwrap()).unwrap(), read);
    }

    #[test]
    fn paths_lead_nowhere_else() {
        for path in ["", "/a", "a/", "a//b", "../a", "a/..", ".a", "a/.b", "a b", "a\\\\b", "é"] {
            let error = with(&file(path, "", 1)).unwrap_err();
            assert!(matches!(error, DescriptorError::Path { .. }), "{path}: {error}");
        }
        let both = format!("{},{}", file("a", "", 1), file("a/b", "", 1));
        assert!(matches!(with(&both), Err(DescriptorError::Folder { .. })));
    }

    #[test]
    fn lengths_are_bounded_and_agree() {
        let stored = |size: u64| format!(r#""chunks":[{{"sha256":"{HEX}","size":{size}}}],"#);
        let zeros = r#""chunks":[{"zeros":18446744073709551615},{"zeros":2}],"#;
        for (chunks, size) in [
            (String::new(), 17 << 20),
            (stored(4), 4),
            (stored(17 << 20), 17 << 20),
            (r#""chunks":[{"zeros":0}],"#.to_owned(), 0),
            (r#""chunks":[{"zeros":4}],"#.to_owned(), 5),
            (r#""chunks":[{"zeros":2199023255552}],"#.to_owned(), 2 << 40),
            (zeros.to_owned(), 1),
        ] {
            let error = with(&file("a", &chunks, size)).unwrap_err();
            let bounded =
                matches!(error, DescriptorError::Size { .. } | DescriptorError::Malformed(_));
            assert!(bounded, "{chunks} {size}: {error}");
        }
    }

    #[test]
    fn other_shapes_are_refused() {
        for (from, to) in [
            (r#""schema":1"#, r#""schema":2"#),
            (r#""kind":"release""#, r#""kind":"other""#),
            (r#""name":"a""#, r#""name":"-a""#),
            (r#""name":"a""#, r#""name":"a/b""#),
            (r#""version":"1""#, r#""version":"""#),
            (r#""schema":1"#, r#""schema":1,"x":1"#),
            (r#""schema":1"#, r#" "schema":1"#),
        ] {
            let good = String::from_utf8(with("").unwrap().to_bytes().unwrap()).unwrap();
            let changed = good.replace(from, to);
            assert_ne!(good, changed);
            assert!(Descriptor::from_bytes(changed.as_bytes()).is_err(), "{changed}");
        }
    }
}
