//! A Concise Reference Integrity Manifest: draft-ietf-rats-corim-11, unsigned, in deterministic
//! CBOR. One `CoMID` for each digest, as Veraison's gen-corim writes one for each number of vCPUs,
//! under the profile of draft-deeglaze-amd-sev-snp-corim-profile: the environment is AMD's class
//! of reports that a chip signs, the element is number 641 (MEASUREMENT), the digest is of
//! algorithm 7 (SHA-384).

use corim::builder::{ComidBuilder, CorimBuilder};
use corim::types::common::{ClassIdChoice, MeasuredElement, TagIdChoice};
use corim::types::corim::{CorimId, ProfileChoice};
use corim::types::environment::{ClassMap, EnvironmentMap};
use corim::types::measurement::{Digest, MeasurementMap, MeasurementValuesMap};
use corim::types::triples::ReferenceTriple;

use super::{Entry, ExportError, Subject, entries};
use crate::manifest::ReferenceValue;

/// The profile, as its editor's copy and gen-corim name it; its revision 02 still said 2024.
pub const PROFILE: &str = "tag:amd.com,2025:snp-corim-profile";
/// 1.3.6.1.4.1.3704.3.1, the class of reports that a chip signs, as X.690 encodes the arcs.
pub const CLASS_ID: [u8; 9] = [0x2b, 0x06, 0x01, 0x04, 0x01, 0x9c, 0x78, 0x03, 0x01];
/// The key of the field MEASUREMENT.
pub const MEASUREMENT_KEY: u64 = 641;

/// SHA-384 in IANA's registry of named information hash algorithms.
const SHA_384: i64 = 7;

/// The CBOR.
///
/// # Errors
/// When there are no rows.
pub fn corim(subject: Subject<'_>, rows: &[ReferenceValue]) -> Result<Vec<u8>, ExportError> {
    let Subject { name, version } = subject;
    let refused = |error: &dyn std::fmt::Display| ExportError::Corim(error.to_string());
    let id = CorimId::Text(format!("casemate {name} {version}"));
    let mut builder = CorimBuilder::new(id).set_profile(ProfileChoice::Uri(PROFILE.into()));
    for entry in entries(rows)? {
        let tag = TagIdChoice::Text(format!("{name} {version}: {}", entry.label()));
        let comid = ComidBuilder::new(tag)
            .add_reference_triple(triple(&entry))
            .build()
            .map_err(|error| refused(&error))?;
        builder = builder.add_comid_tag(comid).map_err(|error| refused(&error))?;
    }
    builder.build_bytes().map_err(|error| refused(&error))
}

fn triple(entry: &Entry) -> ReferenceTriple {
    let class = ClassMap { class_id: Some(ClassIdChoice::Oid(CLASS_ID.into())), ..<_>::default() };
    let environment = EnvironmentMap { class: Some(class), instance: None, group: None };
    let digest = Digest::new(SHA_384, entry.measurement.as_bytes().to_vec());
    let mut mval = MeasurementValuesMap::default();
    mval.digests = Some(vec![digest]);
    let mkey = Some(MeasuredElement::Uint(MEASUREMENT_KEY));
    let measurement = MeasurementMap { mkey, mval, authorized_by: None };
    ReferenceTriple::new(environment, vec![measurement])
}
