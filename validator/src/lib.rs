//! Asks a VM for evidence, has it judged, and pins what was attested.
//!
//! Everything that arrives here comes from a host that its owner controls: [`fetch`] bounds what
//! it may cost in time and bytes, `casemate_measurements` judges what it says, and [`ssh`] lets a
//! tenant connect to the attested key and to nothing else. This crate is a trust domain of its
//! own: it depends on what measures, never on what builds or launches.
//!
//! A whole validator (`cargo run --example verify`):
//!
//! ```no_run
#![doc = include_str!("../examples/verify.rs")]
//! ```

pub mod certificates;
pub mod fetch;
pub mod files;
pub mod fleet;
pub mod host_key;
mod http;
pub mod own_keys;
pub mod policy;
pub mod release;
pub mod second_opinion;
pub mod signed;
pub mod ssh;
pub mod target;
mod tls;
pub mod trust;
pub mod verify;
mod wire;
