//! Launch digests as reference values in the formats that others read. Nothing is judged and
//! nothing is signed here.

mod corim;
mod rvps;
mod sek8s;

use std::collections::BTreeMap;

use crate::hash::LaunchDigest;
use crate::launch::Shape;
use crate::manifest::ReferenceValue;

pub use corim::{CLASS_ID, MEASUREMENT_KEY, PROFILE, corim};
pub use rvps::{REFERENCE_VALUE, rvps};
pub use sek8s::sek8s_yaml;

/// Why nothing was exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is nothing to export.
    #[error("there are no launch digests to export")]
    Empty,
    /// The CBOR cannot be made.
    #[error("cannot write CoRIM: {0}")]
    Corim(String),
    /// The JSON cannot be made.
    #[error("cannot write JSON")]
    Json(#[from] serde_json::Error),
}

/// What the digests are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject<'a> {
    /// Name of the image.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
}

/// One digest and the shapes that have it: CPU models with one signature share theirs, and a
/// reader that is given a digest twice may refuse it.
#[derive(Debug)]
struct Entry {
    measurement: LaunchDigest,
    shapes: Vec<Shape>,
}

/// The digests, each once, in the order of the rows.
fn entries(rows: &[ReferenceValue]) -> Result<Vec<Entry>, ExportError> {
    let mut entries: Vec<Entry> = Vec::with_capacity(rows.len());
    let mut known: BTreeMap<LaunchDigest, usize> = BTreeMap::new();
    for row in rows {
        let at = *known.entry(row.measurement).or_insert(entries.len());
        match entries.get_mut(at) {
            Some(entry) => entry.shapes.push(row.shape()),
            None => entries.push(Entry { measurement: row.measurement, shapes: vec![row.shape()] }),
        }
    }
    if entries.is_empty() { Err(ExportError::Empty) } else { Ok(entries) }
}

impl Entry {
    /// The shapes in few words: the first in full, of the others the CPU.
    fn label(&self) -> String {
        let mut shapes = self.shapes.iter();
        let first = shapes.next().map(ToString::to_string).unwrap_or_default();
        let others: Vec<String> = shapes.map(|shape| shape.cpu_model.to_string()).collect();
        if others.is_empty() { first } else { format!("{first}; also {}", others.join(", ")) }
    }
}
