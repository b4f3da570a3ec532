//! Tests of the launcher from outside: releases, plans, and VMs under a real QEMU.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]

mod boot;
mod doctor;
mod fixture;
mod guest;
mod hosts;
mod id_block;
mod plan;
mod release;
mod serve;
mod state;
