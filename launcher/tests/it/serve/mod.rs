//! The daemon, in a process of its own: killed at every step, with VMs that fail, with clients
//! that mean no good.

mod bench;
mod churn;
mod confined;
mod faults;
mod figures;
mod hostile;
mod lives;
mod publish;
mod systemd;
