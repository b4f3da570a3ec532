//! Object stores by what they speak, and what their buckets may be called.

use super::error::Reason;
use super::label;

/// What an object store speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Amazon's S3, which other stores speak too.
    S3,
    /// Azure Blob Storage, whose buckets are called containers.
    Azure,
}

impl Service {
    /// The one whose references begin with `scheme`.
    pub(super) fn of_scheme(scheme: &str) -> Option<Self> {
        [Self::S3, Self::Azure].into_iter().find(|service| service.scheme() == scheme)
    }

    /// What references begin with.
    pub(super) fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Azure => "az",
        }
    }

    /// `text` as the name of a bucket.
    pub(super) fn bucket(self, text: &str) -> Result<String, Reason> {
        let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let long = (3..=63).contains(&text.len());
        let (good, reason) = match self {
            Self::S3 => {
                let plain = text.bytes().all(|b| word(b) || b == b'.');
                (plain && text.split('.').all(label), Reason::Bucket)
            }
            Self::Azure => {
                let plain = text.bytes().all(word);
                (plain && label(text) && !text.contains("--"), Reason::Container)
            }
        };
        if long && good { Ok(text.to_owned()) } else { Err(reason) }
    }
}
