//! What the signatures of a release must be about.

use std::collections::BTreeSet;

use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::manifest::{FILE_NAME, Manifest};

use super::{Expected, Identity, Judgement, Policy, Predicate, Provenance, judge};
use crate::attestation::{MANIFEST_PREDICATE, Statement, StatementError, Subjects};

/// The predicate is the manifest, byte by byte.
#[derive(Debug)]
struct TheManifest<'a>(&'a [u8]);

impl Predicate for TheManifest<'_> {
    fn check(&self, statement: &Statement) -> Result<(), StatementError> {
        statement.check_predicate(self.0, FILE_NAME)
    }
}

/// The files that every statement of a release is about: those that its manifest names, and the
/// manifest itself, whose bytes are `bytes`.
#[must_use]
pub fn subjects(manifest: &Manifest, bytes: &[u8]) -> Subjects {
    let files = manifest.artifacts.iter();
    let mut subjects: Subjects = files.map(|(name, file)| (name.clone(), file.sha256)).collect();
    subjects.insert(FILE_NAME.to_owned(), Sha256Hash::of(bytes));
    subjects
}

/// Judges bundles that sign a manifest, whose bytes are `bytes`. With `counted` nobody else counts.
#[must_use]
pub fn judge_manifest(
    manifest: &Manifest,
    bytes: &[u8],
    bundles: &[(String, Vec<u8>)],
    policy: &Policy,
    counted: Option<&BTreeSet<Identity>>,
) -> Judgement {
    let expected = Expected {
        predicate_type: MANIFEST_PREDICATE,
        subjects: &subjects(manifest, bytes),
        predicate: &TheManifest(bytes),
    };
    judge(bundles, &expected, policy, counted)
}

/// What a policy demands beside signatures of the manifest and [`judge_manifest`] does not judge.
#[must_use]
pub fn unjudged(policy: &Policy) -> Option<&'static str> {
    (policy.provenance() == Provenance::Required)
        .then_some("the signed provenance that the signers file requires was not judged")
}
