//! Stores and signatures: who vouches for a release, with which keys, and where it is kept.
//!
//! [`keys`] opens private keys wherever they are held, [`id_blocks`] keeps what they signed beside
//! a release's manifest. [`attestation`] is what is signed of a release, [`sign`] signs it,
//! [`signatures`] keeps it in the release directory, [`verify`] says whether enough signers of a
//! policy signed, [`release`] does both to a directory. [`reference`] names a release in a store,
//! [`artifact`] is what is kept there, [`channel`] goes from a signed [`index`] to a release. May depend on `casemate-measurements` and on no other crate
//! of this workspace.
//!
//! Compiled to WebAssembly only [`attestation`] and [`verify`] are there: what needs no machine.

#[cfg(not(target_family = "wasm"))]
pub mod artifact;
pub mod attestation;
#[cfg(not(target_family = "wasm"))]
pub mod cache;
#[cfg(not(target_family = "wasm"))]
pub mod channel;
#[cfg(not(target_family = "wasm"))]
pub mod history;
#[cfg(not(target_family = "wasm"))]
pub mod id_blocks;
#[cfg(not(target_family = "wasm"))]
pub mod index;
#[cfg(not(target_family = "wasm"))]
pub mod keys;
#[cfg(not(target_family = "wasm"))]
pub mod page;
pub mod public_key;
#[cfg(not(target_family = "wasm"))]
pub mod reference;
#[cfg(not(target_family = "wasm"))]
pub mod release;
#[cfg(feature = "schema")]
pub mod schema;
#[cfg(not(target_family = "wasm"))]
pub mod sign;
#[cfg(not(target_family = "wasm"))]
pub mod signatures;
#[cfg(not(target_family = "wasm"))]
pub mod store;
pub mod verify;
