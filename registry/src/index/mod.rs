//! The index: which releases there are, which are current, and which are revoked. Signed like a
//! release, by k of n, and read so that nobody can hand out yesterday's.
//!
//! [`format`] is the signed document, [`file`] the file with its signatures, [`state`] what a reader
//! remembers: an index with a lower version, an index that is out of date, another index under a
//! version that was seen, and one that takes back a revocation are refused.

mod edit;
mod file;
mod format;
mod state;
mod trust;

pub use edit::{Change, EditError};
#[cfg(feature = "schema")]
pub(crate) use file::RawFile;
pub use file::{IndexError, IndexFile, MAX_INDEX_LEN};
pub(crate) use format::is_word;
pub use format::{Entry, FormatError, Index, Revocation, Time};
pub use state::{Clock, Memory, MemoryError, StateError, advance};
pub use trust::TrustError;
