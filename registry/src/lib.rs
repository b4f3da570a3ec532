//! Stores and signatures: who vouches for a release, with which keys, and where it is kept.
//!
//! [`keys`] opens private keys wherever they are held, [`id_blocks`] keeps what they signed beside
//! a release's manifest. [`reference`] names a release in a store, [`artifact`] is what is kept
//! there. May depend on `casemate-measurements` and on no other crate of this workspace.

pub mod artifact;
pub mod cache;
pub mod history;
pub mod id_blocks;
pub mod keys;
pub mod page;
pub mod reference;
pub mod store;
