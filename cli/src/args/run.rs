//! `casemate run`, `stop`.

use std::path::PathBuf;

use casemate_launcher::inventory::Address;
use casemate_launcher::stopping::DEFAULT_TIME;
use casemate_measurements::platform::Platform;
use clap::{Args, ValueEnum};

use super::{DaemonArgs, FetchArgs, MemoryArgs, OutputArgs, platform};

/// `casemate run`
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Release directory, or a reference of a release in a store (oci://, file:///, https://);
    /// STORE?channel=NAME is what the index there says is current
    #[arg(value_name = "RELEASE")]
    pub(crate) release: PathBuf,
    /// A launch.toml that says what to launch; flags override what it says
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Launch only what enough of these signers signed
    #[arg(long, value_name = "FILE")]
    pub(crate) signers: Option<PathBuf>,
    /// Platform to launch on; it must be the release's. SIMULATED proves nothing [default: snp]
    #[arg(long, value_parser = platform)]
    pub(crate) platform: Option<Platform>,
    /// Name of the VM [default: the release's name, with a number where it is taken]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Public key file whose keys may log in; may be repeated
    #[arg(long, value_name = "FILE", required_unless_present = "config")]
    pub(crate) ssh_key: Vec<PathBuf>,
    /// Virtual CPUs; the launch digest depends on it [default: 2]
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<u16>,
    /// Memory, as 2G or 512M [default: 2G]
    #[arg(long, value_parser = memory, value_name = "SIZE")]
    pub(crate) memory: Option<Mebibytes>,
    /// CPU model; the launch digest depends on it [default: the first of the manifest]
    #[arg(long, value_name = "MODEL")]
    pub(crate) cpu_model: Option<String>,
    /// GPUs of the VM, wherever they are
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) gpus: Option<u8>,
    /// Family of these GPUs [default: the one that the host has]
    #[arg(long, value_name = "NAME", requires = "gpus")]
    pub(crate) gpu_family: Option<String>,
    /// A GPU of the VM, as 0000:41:00.0; may be repeated
    #[arg(long, value_name = "ADDRESS", conflicts_with = "gpus")]
    pub(crate) gpu: Vec<Address>,
    /// Accelerator of the simulated platform [default: auto]
    #[arg(long, value_enum)]
    pub(crate) accel: Option<Accel>,
    /// Port on 127.0.0.1 forwarded to the VM's port 22 [default: a free one]
    #[arg(long, value_name = "PORT")]
    pub(crate) ssh_port: Option<u16>,
    /// Port on 127.0.0.1 forwarded to the VM's evidence port [default: a free one]
    #[arg(long, value_name = "PORT")]
    pub(crate) evidence_port: Option<u16>,
    /// Print the plan, the digest and QEMU's exact arguments, and do nothing
    #[arg(long)]
    pub(crate) plan: bool,
    /// When the daemon starts the VM again [default: on-failure]
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(crate) restart: Option<RestartWhen>,
    /// Ends in a row after which the daemon leaves the VM alone [default: 5]
    #[arg(long, value_name = "N")]
    pub(crate) restart_limit: Option<u32>,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
    #[command(flatten)]
    pub(crate) memory_of_indexes: MemoryArgs,
    #[command(flatten)]
    pub(crate) fetch: FetchArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// When a VM is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RestartWhen {
    /// Never.
    Never,
    /// When it failed, or the host booted.
    OnFailure,
    /// Whenever it ended and nobody asked for it.
    Always,
}

/// Which accelerator QEMU uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    /// KVM where a VM really boots with it, else TCG.
    Auto,
    /// KVM or nothing.
    Kvm,
    /// Emulation.
    Tcg,
}

/// `casemate stop`
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Name of the VM
    pub(crate) name: String,
    /// Seconds that the guest gets to power off before it is killed; 0: it is not asked
    #[arg(long, default_value_t = DEFAULT_TIME.as_secs(), value_name = "SECONDS")]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

/// An amount of memory in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mebibytes(pub(crate) u64);

fn memory(text: &str) -> Result<Mebibytes, String> {
    let expected = || "expected a whole number with M or G, from 256M to 16384G".to_owned();
    let unit = |suffix, factor| text.strip_suffix(suffix).map(|digits| (digits, factor));
    let (digits, factor) = unit('M', 1).or_else(|| unit('G', 1024)).ok_or_else(expected)?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let mebibytes = if plain { digits.parse::<u64>().ok() } else { None };
    match mebibytes.and_then(|n| n.checked_mul(factor)) {
        Some(n) if (256..=16384 * 1024).contains(&n) => Ok(Mebibytes(n)),
        _ => Err(expected()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_whole_and_bounded() {
        assert_eq!(memory("2G"), Ok(Mebibytes(2048)));
        assert_eq!(memory("512M"), Ok(Mebibytes(512)));
        for wrong in [
            "",
            "G",
            "2",
            "2g",
            "-2G",
            "+2G",
            "1.5G",
            "255M",
            "16385G",
            "99999999999999999999G",
            "2é",
        ] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }
}
