//! What is signed: in-toto Statements (v1) in Sigstore bundles (v0.3), and how both are read with
//! bounds. Nothing here says whom to believe; [`crate::verify`] does.

mod bundle;
mod provenance;
mod statement;

pub use bundle::{BundleError, MAX_BUNDLE_LEN, PAYLOAD_TYPE, SignedStatement};
pub use provenance::{BUILD_TYPE, LOCAL_BUILDER, ProvenanceError, build_definition, provenance};
pub use statement::{
    INDEX_PREDICATE, MANIFEST_PREDICATE, PROVENANCE_PREDICATE, STATEMENT_TYPE, Statement,
    StatementError, Subject, Subjects,
};
