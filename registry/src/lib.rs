//! Stores and signatures: who vouches for a release, with which keys, and where it is kept.
//!
//! [`keys`] opens private keys wherever they are held, [`id_blocks`] keeps what they signed beside
//! a release's manifest. [`attestation`] is what is signed of a release, [`sign`] signs it,
//! [`signatures`] keeps it in the release directory, [`verify`] says whether enough signers of a
//! policy signed, [`release`] does both to a directory. [`reference`] names a release in a store,
//! [`artifact`] is what is kept there, [`channel`] goes from a signed [`index`] to a release. May depend on `casemate-measurements` and on no other crate
//! of this workspace.

pub mod artifact;
pub mod attestation;
pub mod cache;
pub mod channel;
pub mod history;
pub mod id_blocks;
pub mod index;
pub mod keys;
pub mod page;
pub mod reference;
pub mod release;
#[cfg(feature = "schema")]
pub mod schema;
pub mod sign;
pub mod signatures;
pub mod store;
pub mod verify;
