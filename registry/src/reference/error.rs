//! Why a text is no reference.

use super::MAX_LEN;

/// Why a text is no reference. The text is quoted without what stands before an `@` in its host:
/// that may be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no reference of a release: {reason}")]
pub struct ReferenceError {
    text: String,
    reason: Reason,
}

impl ReferenceError {
    pub(super) fn new(text: &str, reason: Reason) -> Self {
        Self { text: quotable(text), reason }
    }

    /// What is wrong.
    #[must_use]
    pub fn reason(&self) -> &Reason {
        &self.reason
    }
}

/// What is wrong with a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It is too long.
    #[error("it has more than {MAX_LEN} bytes")]
    TooLong,
    /// It names no kind of store.
    #[error("expected it to start with oci://, s3://, az://, file:///, http:// or https://")]
    Scheme,
    /// The host is missing or malformed.
    #[error("the host is malformed: expected a name or an address, with :PORT where it has one")]
    Host,
    /// A name and password stand before the host.
    #[error(
        "credentials do not belong into a reference: registries take them from docker's \
         config.json, object stores from the environment"
    )]
    Credentials,
    /// The repository is malformed.
    #[error(
        "the repository is malformed: expected parts of a-z, 0-9 and single '.', '_', '-' between \
         them, parted by '/', as in oci://host/name/of/it:tag"
    )]
    Repository,
    /// The bucket is malformed.
    #[error("the bucket is malformed: expected 3 to 63 of a-z, 0-9, '.' and '-'")]
    Bucket,
    /// The container is malformed.
    #[error(
        "the container is malformed: expected 3 to 63 of a-z, 0-9 and single '-', the first and \
         the last a letter or a digit"
    )]
    Container,
    /// The path is malformed.
    #[error(
        "the path is malformed: expected parts without '.', '..', blanks and control characters, \
         no '?', a '%' only as %XX"
    )]
    Path,
    /// A file's path is not absolute.
    #[error("expected an absolute path behind file://, as in file:///srv/releases")]
    Relative,
    /// The tag is malformed.
    #[error(
        "the tag is malformed: expected 1 to 128 of a-z, A-Z, 0-9, '_', '.', '-', the first a \
         letter, a digit or '_'"
    )]
    Tag,
    /// The digest is malformed.
    #[error("the digest is malformed: expected sha256: and 64 lower-case hex digits")]
    Digest,
    /// What stands behind the `?` is malformed.
    #[error(
        "expected ?channel=NAME, and behind it at most &image=NAME and &index=TAG, names of 1 to \
         64 of a-z, A-Z, 0-9, '.', '+', '-', '_', the first a letter or digit"
    )]
    Query,
    /// A channel together with a tag or a digest.
    #[error(
        "a channel says which release is meant, so neither a tag nor a digest stands beside it"
    )]
    ChannelAndMore,
    /// A channel where none can be followed.
    #[error("a channel is followed where a release is used; here a tag or a digest is expected")]
    ChannelHere,
}

/// `text` as an error may quote it: short, and without what may be a password.
fn quotable(text: &str) -> String {
    let hidden = match text.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find(['/', '#', '?']).unwrap_or(rest.len());
            match rest[..end].rfind('@') {
                Some(at) => format!("{scheme}://***{}", &rest[at..]),
                None => text.to_owned(),
            }
        }
        None => text.to_owned(),
    };
    hidden.chars().take(200).collect()
}
