//! Stores and signatures: who vouches for a release, and with which keys.
//!
//! [`keys`] opens private keys wherever they are held, [`id_blocks`] keeps what they signed beside
//! a release's manifest. May depend on `casemate-measurements` and on no other crate of this
//! workspace.

pub mod id_blocks;
pub mod keys;
