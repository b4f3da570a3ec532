//! `casemate measure`, `explain`.
#![expect(clippy::doc_markdown, reason = "these are help texts, shown as they stand")]

use std::path::PathBuf;
use std::str::FromStr;

use casemate_measurements::hash::{LaunchDigest, Sha256Hash};
use casemate_measurements::launch::{CpuModel, GuestFeatures, VcpuCount, Vmm};
use clap::{Args, Subcommand, ValueEnum};

use super::OutputArgs;

/// `casemate measure …`
#[derive(Debug, Subcommand)]
pub(crate) enum MeasureVerb {
    /// Compute the launch digest of one shape
    Digest(DigestArgs),
    /// Compute the launch digests of many shapes; of a release, its table
    Matrix(MatrixArgs),
    /// Recompute a manifest's table from its law, and both from the artifacts: exit 3 if they differ
    Verify(VerifyManifestArgs),
    /// Print the law that launch digests follow: of a firmware, or of a release
    Law(LawArgs),
}

/// What is launched: a release, or its parts.
#[derive(Debug, Args)]
pub(crate) struct LaunchArgs {
    /// Release directory or manifest; its law gives what no option below does
    pub(crate) release: Option<PathBuf>,
    /// Firmware: an unsplit OVMF file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["release", "law"])]
    pub(crate) firmware: Option<PathBuf>,
    /// Law in place of the firmware, as `measure law` prints one
    #[arg(long, value_name = "FILE", conflicts_with = "release")]
    pub(crate) law: Option<PathBuf>,
    /// Kernel; without one, the firmware alone is measured
    #[arg(long, value_name = "FILE|sha256:HEX")]
    pub(crate) kernel: Option<Input>,
    /// Initrd, or none
    #[arg(long, value_name = "FILE|sha256:HEX|none")]
    pub(crate) initrd: Option<Input>,
    /// Command line, byte for byte; the NUL that QEMU adds is added
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) cmdline: Option<String>,
    /// File with the command line, byte for byte: a newline at its end is measured too
    #[arg(long, value_name = "FILE", conflicts_with = "cmdline")]
    pub(crate) cmdline_file: Option<PathBuf>,
}

/// `casemate measure digest`
#[derive(Debug, Args)]
pub(crate) struct DigestArgs {
    #[command(flatten)]
    pub(crate) launch: LaunchArgs,
    /// Number of vCPUs at boot, 1 to 512
    #[arg(long, value_name = "N", value_parser = vcpus)]
    pub(crate) vcpus: VcpuCount,
    /// CPU model by QEMU's name, family/model/stepping (25/17/1) or CPUID signature (0xa10f11)
    #[arg(long, value_name = "CPU")]
    pub(crate) cpu: CpuModel,
    /// SEV_FEATURES of each vCPU
    #[arg(long, value_name = "MASK", default_value = "0x1", value_parser = features)]
    pub(crate) guest_features: GuestFeatures,
    /// Who starts the VM: qemu, ec2 or gce
    #[arg(long, default_value = "qemu", value_parser = vmm)]
    pub(crate) vmm: Vmm,
    /// Form of the result on standard output
    #[arg(long, value_enum, default_value_t = MeasureFormat::Table)]
    pub(crate) format: MeasureFormat,
}

/// `casemate measure matrix`
#[derive(Debug, Args)]
pub(crate) struct MatrixArgs {
    #[command(flatten)]
    pub(crate) launch: LaunchArgs,
    /// Numbers of vCPUs, as 1,2,4 or 1..=64 [default: those of the release]
    #[arg(long, value_name = "LIST", value_parser = counts, requires = "cpu")]
    pub(crate) vcpus: Option<Counts>,
    /// CPU models, parted by commas; may be repeated [default: those of the release]
    #[arg(long, value_name = "CPU", value_delimiter = ',', requires = "vcpus")]
    pub(crate) cpu: Vec<CpuModel>,
    /// SEV_FEATURES of each vCPU, parted by commas
    #[arg(
        long, value_name = "MASK", default_value = "0x1", value_delimiter = ',',
        value_parser = features
    )]
    pub(crate) guest_features: Vec<GuestFeatures>,
    /// Who starts the VM: qemu, ec2 or gce; parted by commas
    #[arg(long, default_value = "qemu", value_delimiter = ',', value_parser = vmm)]
    pub(crate) vmm: Vec<Vmm>,
    /// Form of the result on standard output
    #[arg(long, value_enum, default_value_t = MeasureFormat::Table)]
    pub(crate) format: MeasureFormat,
}

/// `casemate measure verify`
#[derive(Debug, Args)]
pub(crate) struct VerifyManifestArgs {
    /// Release directory, or manifest; artifacts are looked for beside the manifest
    pub(crate) release: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `casemate measure law`
#[derive(Debug, Args)]
pub(crate) struct LawArgs {
    /// Release directory or manifest
    #[arg(required_unless_present = "firmware", conflicts_with = "firmware")]
    pub(crate) release: Option<PathBuf>,
    /// Firmware: an unsplit OVMF file
    #[arg(long, value_name = "FILE")]
    pub(crate) firmware: Option<PathBuf>,
}

/// `casemate explain`
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The launch digest: MEASUREMENT of a report, 96 hex digits
    #[arg(long, value_name = "HEX", value_parser = measurement)]
    pub(crate) measurement: LaunchDigest,
    /// Release directories or manifests to search around
    #[arg(long, value_name = "RELEASE", num_args = 1.., required = true)]
    pub(crate) near: Vec<PathBuf>,
    /// Parallel jobs [default: one per processor]
    #[arg(long, short, value_name = "N")]
    pub(crate) jobs: Option<std::num::NonZeroUsize>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Form of launch digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MeasureFormat {
    /// For people.
    Table,
    /// For machines.
    Json,
    /// The measurements that sek8s validators load.
    Sek8sYaml,
    /// Concise Reference Integrity Manifest, CBOR.
    Corim,
    /// Message for trustee's Reference Value Provider Service.
    Rvps,
}

/// A measured file, or what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// A file to hash.
    File(PathBuf),
    /// The SHA-256 of one.
    Sha256(Sha256Hash),
    /// There is none.
    None,
}

impl FromStr for Input {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None);
        }
        match text.strip_prefix("sha256:") {
            Some(hex) => hex.parse().map(Self::Sha256).map_err(|error| format!("{error}")),
            None => Ok(Self::File(text.into())),
        }
    }
}

/// Numbers of vCPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counts(pub(crate) Vec<VcpuCount>);

fn counts(text: &str) -> Result<Counts, String> {
    let one = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is no number"));
    let mut all = std::collections::BTreeSet::new();
    for part in text.split(',') {
        let (from, to) = match part.split_once("..=") {
            Some((from, to)) => (one(from)?, one(to)?),
            None => (one(part)?, one(part)?),
        };
        if from > to {
            return Err(format!("{part:?} is empty: expected one like 1..=64"));
        }
        for count in [from, to] {
            VcpuCount::new(count).map_err(|error| error.to_string())?;
        }
        all.extend((from..=to).filter_map(|count| VcpuCount::new(count).ok()));
    }
    Ok(Counts(all.into_iter().collect()))
}

fn vcpus(text: &str) -> Result<VcpuCount, String> {
    let count = text.parse().map_err(|_| "expected a number from 1 to 512".to_owned())?;
    VcpuCount::new(count).map_err(|error| error.to_string())
}

fn features(text: &str) -> Result<GuestFeatures, String> {
    let raw = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    let raw = raw.ok_or("expected a mask such as 0x21")?;
    GuestFeatures::new(raw).map_err(|error| error.to_string())
}

fn vmm(text: &str) -> Result<Vmm, String> {
    Vmm::from_name(text).ok_or_else(|| "expected qemu, ec2 or gce".to_owned())
}

fn measurement(text: &str) -> Result<LaunchDigest, String> {
    text.trim().to_ascii_lowercase().parse().map_err(|error| format!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Result<Vec<u16>, String> {
        counts(text).map(|Counts(all)| all.into_iter().map(VcpuCount::get).collect())
    }

    #[test]
    fn counts_are_lists_and_ranges() {
        assert_eq!(numbers("4,1..=3,2"), Ok(vec![1, 2, 3, 4]));
        assert_eq!(numbers("512"), Ok(vec![512]));
        assert_eq!(numbers("1..=512").map(|all| all.len()), Ok(512));
        for wrong in ["", "0", "513", "3..=1", "1..=600", "1..=18446744073709551615", "1..3", "x"] {
            assert!(numbers(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn inputs_are_files_or_hashes() {
        let hex = "ab".repeat(32);
        let hash = Input::Sha256(hex.parse().unwrap());
        assert_eq!(format!("sha256:{hex}").parse(), Ok(hash));
        assert_eq!("./sha256".parse(), Ok(Input::File("./sha256".into())));
        assert_eq!("none".parse(), Ok(Input::None));
        for wrong in ["sha256:", "sha256:AB", &format!("sha256:{hex}00")] {
            assert!(wrong.parse::<Input>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn masks_are_hex_or_decimal_and_have_the_first_bit() {
        assert_eq!(features("0x21").map(GuestFeatures::raw), Ok(0x21));
        assert_eq!(features("33").map(GuestFeatures::raw), Ok(0x21));
        assert!(features("0x20").is_err() && features("x").is_err());
    }
}
