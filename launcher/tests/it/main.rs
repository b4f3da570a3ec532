//! Tests of the launcher from outside: releases, plans, and VMs under a real QEMU.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]

mod boot;
mod devices;
mod doctor;
mod failures;
mod fake_host;
mod fixture;
mod guest;
mod hosts;
mod id_block;
mod network;
mod plan;
mod plan_gpus;
mod release;
mod run_gpus;
mod serve;
mod stand_ins;
mod state;
mod topology;
