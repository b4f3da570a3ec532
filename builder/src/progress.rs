//! What a long operation tells about itself while it runs, for whoever draws it.
//!
//! The library draws nothing: it opens phases and advances them. Calls come from several threads.

use std::fmt;

/// How much a phase has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Total {
    /// This many bytes.
    Bytes(u64),
    /// This many things.
    Items(u64),
    /// Nobody knows yet.
    Unknown,
}

/// Listens to an operation.
pub trait Progress: Send + Sync + fmt::Debug {
    /// A phase begins, such as "fetch"; it ends when the returned value is dropped.
    fn phase(&self, name: &str, total: Total) -> Box<dyn Phase>;

    /// Something went wrong that the operation could get over, such as a mirror that is gone.
    fn warn(&self, text: &str);
}

/// A phase that runs.
pub trait Phase: Send + Sync + fmt::Debug {
    /// So many more bytes or things are done.
    fn advance(&self, by: u64);

    /// What is being done right now, such as a package's name.
    fn detail(&self, text: &str);

    /// The phase ended well; `note` says what came of it, such as "140 packages, 83 MB".
    fn finish(&self, note: &str);
}

/// Listens to nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn phase(&self, _name: &str, _total: Total) -> Box<dyn Phase> {
        Box::new(Self)
    }

    fn warn(&self, _text: &str) {}
}

impl Phase for Silent {
    fn advance(&self, _by: u64) {}

    fn detail(&self, _text: &str) {}

    fn finish(&self, _note: &str) {}
}
