//! Boots a release as a confidential VM, or on the simulated platform.
//!
//! Three steps, each of which can be looked at alone: [`release`] holds a directory to its
//! manifest, [`plan`] decides everything about a launch without touching the host, [`start()`]
//! executes a finished plan under a supervisor process of its own. May depend on
//! `casemate-measurements` and on no other crate of this workspace.

pub mod argument;
mod attach;
pub mod authority;
mod cgroup;
mod channel;
pub mod committed;
mod complaint;
pub mod confine;
pub mod devices;
pub mod doctor;
pub mod host;
pub mod id_block;
pub mod inventory;
pub mod launch_file;
pub mod machine;
mod name;
pub mod network;
pub mod outside;
mod patience;
pub mod plan;
mod process;
pub mod profile;
pub mod progress;
mod psp;
pub mod publish;
mod qmp;
pub mod release;
pub mod serve;
mod shapes;
mod start;
pub mod state;
pub mod stopping;
mod supervise;
pub mod topology;
mod watch;
mod words;

pub use process::ProcessId;
pub use start::{Listed, RunningVm, StartError, StopError, SupervisorCommand, list, start, stop};
pub use supervise::{SuperviseError, supervise};
