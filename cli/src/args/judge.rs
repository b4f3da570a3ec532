//! `casemate verify`, `ssh`.

use std::path::PathBuf;
use std::time::Duration;

use casemate_measurements::appraisal::Allowance;
use casemate_measurements::hash::{LaunchDigest, Nonce, ReportData};
use casemate_validator::certificates;
use casemate_validator::second_opinion::NvAttest;
use clap::{Args, Subcommand};

use super::{FetchArgs, MemoryArgs, OutputArgs, SignVerdictArgs, WatchArgs};

/// Where certificates and revocation lists come from that are not at hand.
#[derive(Debug, Args)]
pub(crate) struct CertificateArgs {
    /// Revocation list of the root, DER or PEM; may be repeated [default: the cache's, else the key service's]
    #[arg(long, value_name = "FILE")]
    pub(crate) crl: Vec<PathBuf>,
    /// Address of AMD's key service or of a stand-in; what it sends is judged like the VM's
    #[arg(long, value_name = "URL", env = "CASEMATE_KDS", default_value = certificates::AMD)]
    pub(crate) kds: String,
    #[command(flatten)]
    pub(crate) services: ServiceArgs,
}

/// How services are asked.
#[derive(Debug, Args)]
pub(crate) struct ServiceArgs {
    /// Keeps what services sent [default: a directory in the package cache]
    #[arg(long, value_name = "DIR")]
    pub(crate) cert_cache: Option<PathBuf>,
    /// Ask no service: the cache, or nothing
    #[arg(long)]
    pub(crate) offline: bool,
}

/// What GPUs are held to.
#[derive(Debug, Args)]
pub(crate) struct GpuArgs {
    /// Directory with NVIDIA's reference integrity manifests (.swidtag) of the GPUs' drivers and
    /// VBIOSes; each one's signature is verified when it is used
    #[arg(long, value_name = "DIR")]
    pub(crate) gpu_manifests: Option<PathBuf>,
    /// Address of NVIDIA's service of such manifests, or of a stand-in; it is asked for those
    /// that no file and no cache has, of genuine GPUs alone
    #[arg(
        long,
        value_name = "URL",
        env = "CASEMATE_GPU_MANIFESTS",
        default_value = certificates::NVIDIA
    )]
    pub(crate) gpu_manifest_service: String,
}

/// Another verifier of GPU evidence.
#[derive(Debug, Args)]
pub(crate) struct OpinionArgs {
    /// Also have the GPUs judged by NVIDIA's own verifier, `nvattest`: it can refuse, and makes
    /// nothing pass. It asks NVIDIA's services by itself
    #[arg(long, value_name = "PROGRAM")]
    gpu_second_opinion: Option<PathBuf>,
    /// Seconds that it may take, for GPUs and for switches each
    #[arg(long, default_value_t = 120, value_name = "SECONDS", requires = "gpu_second_opinion")]
    gpu_second_opinion_timeout: u64,
}

impl OpinionArgs {
    /// The verifier that was named.
    pub(crate) fn verifier(&self) -> Option<NvAttest> {
        let limit = Duration::from_secs(self.gpu_second_opinion_timeout);
        self.gpu_second_opinion.clone().map(|program| NvAttest { program, limit })
    }
}

/// What a verdict rests on.
#[derive(Debug, Args)]
pub(crate) struct JudgeArgs {
    /// Where the VM serves evidence, as HOST:PORT
    #[arg(required = true)]
    pub(crate) address: Option<String>,
    /// Release with the manifest to expect: a directory, or a reference of one in a store
    /// (oci://, file:///, https://), also by the channel of an index (STORE?channel=NAME); may be
    /// repeated
    #[arg(long, required = true, value_name = "RELEASE")]
    pub(crate) release: Vec<PathBuf>,
    /// What is accepted: a policy file as of `casemate policy init`
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// Differences from the policy that are accepted, by name: stock-host for what nearly every
    /// host shows; `casemate policy init` lists them
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = allowance)]
    pub(crate) allow: Vec<Allowance>,
    /// Believe only releases that enough of these signers signed
    #[arg(long, value_name = "FILE")]
    pub(crate) signers: Option<PathBuf>,
    /// Accept a SIMULATED VM signed under this root certificate. It proves nothing
    #[arg(long, value_name = "ROOT.pem")]
    pub(crate) trust_simulated: Option<PathBuf>,
    /// Public key file: refuse a VM that any other key may log in to; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) only_key: Vec<PathBuf>,
    /// Seconds for the whole exchange
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) certificates: CertificateArgs,
    #[command(flatten)]
    pub(crate) gpus: GpuArgs,
    #[command(flatten)]
    pub(crate) opinion: OpinionArgs,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    #[command(flatten)]
    pub(crate) fetch: FetchArgs,
}

/// `casemate verify`: a VM, or what stands after a word of its own. A host of that name is
/// reached with its port, as `report:8443`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) judge: JudgeArgs,
    #[command(flatten)]
    pub(crate) sign: SignVerdictArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(subcommand)]
    pub(crate) other: Option<VerifyVerb>,
}

/// What else can be verified.
#[derive(Debug, Subcommand)]
pub(crate) enum VerifyVerb {
    /// Judge one attestation report alone: exit 0 genuine, 2 not genuine
    Report(VerifyReportArgs),
    /// Judge evidence of GPUs alone, whosever they are: exit 0 accepted, 2 not genuine, 3 not
    /// acceptable
    Gpu(VerifyGpuArgs),
    /// Verify many VMs over and over; also as `verify --watch FILE`
    #[command(long_flag = "watch")]
    Watch(WatchArgs),
}

fn allowance(name: &str) -> Result<Allowance, String> {
    Allowance::ALL.into_iter().find(|allowance| allowance.name() == name).ok_or_else(|| {
        format!("expected one of {}", Allowance::ALL.map(Allowance::name).join(", "))
    })
}

/// `casemate verify report`
#[derive(Debug, Args)]
pub(crate) struct VerifyReportArgs {
    /// The report: 1184 bytes, as the security processor gives them, or the reply of the device
    /// that has it in it
    pub(crate) report: PathBuf,
    /// Certificate of the key that signed it, VCEK or VLEK, DER or PEM, whatever stands around
    /// it; the rest of its chain may be in the same file [default: the cache's, else the key
    /// service's]
    #[arg(long, value_name = "FILE")]
    pub(crate) vek: Option<PathBuf>,
    /// Certificate of AMD's intermediate, ASK or ASVK; its root may be in the same file, in any
    /// order [default: as for --vek]
    #[arg(long, value_name = "FILE")]
    pub(crate) ask: Option<PathBuf>,
    /// Refuse another report data: 64 bytes as lower-case hex digits
    #[arg(long, value_name = "HEX")]
    pub(crate) report_data: Option<ReportData>,
    /// Refuse another launch digest: 48 bytes as lower-case hex digits
    #[arg(long, value_name = "HEX")]
    pub(crate) measurement: Option<LaunchDigest>,
    /// Judge it as a SIMULATED one signed under this root certificate. It proves nothing
    #[arg(long, value_name = "ROOT.pem")]
    pub(crate) trust_simulated: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) certificates: CertificateArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `casemate verify gpu`
#[derive(Debug, Args)]
pub(crate) struct VerifyGpuArgs {
    /// The evidence: as a VM sends it, or the list that NVIDIA's collector writes
    pub(crate) evidence: PathBuf,
    /// The nonce that the GPUs were asked with: 32 bytes as hex digits
    #[arg(long, value_name = "HEX")]
    pub(crate) nonce: Nonce,
    /// What is accepted of GPUs: the table [gpu] of a policy file
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) gpus: GpuArgs,
    #[command(flatten)]
    pub(crate) opinion: OpinionArgs,
    #[command(flatten)]
    pub(crate) services: ServiceArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `casemate ssh`
#[derive(Debug, Args)]
pub(crate) struct SshArgs {
    #[command(flatten)]
    pub(crate) judge: JudgeArgs,
    /// Port of the VM's sshd on the same host
    #[arg(long, short = 'p', default_value_t = 22, value_name = "PORT")]
    pub(crate) ssh_port: u16,
    /// Private key to log in with
    #[arg(long, short, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// Also connect to a VM that other people's keys may log in to: they can join the session.
    /// Without it and --only-key, your own keys alone are accepted: the one of --identity, those of
    /// your SSH agent, and each ~/.ssh/NAME.pub with its private key beside it
    #[arg(long, conflicts_with = "only_key")]
    pub(crate) any_key: bool,
    /// Command to run instead of a shell
    #[arg(last = true)]
    pub(crate) command: Vec<std::ffi::OsString>,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Verb};
    use super::*;

    fn verify(words: &str) -> Result<VerifyArgs, clap::Error> {
        let words = ["casemate", "verify"].into_iter().chain(words.split_whitespace());
        match Cli::try_parse_from(words)?.verb {
            Verb::Verify(args) => Ok(*args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_vm_is_verified_by_its_address() {
        for address in ["vm:8443", "report:8443", "reports"] {
            let args = verify(&format!("{address} --release dir --timeout 3")).unwrap();
            assert!(args.other.is_none());
            let judge = args.judge;
            assert_eq!((judge.address.as_deref(), judge.timeout), (Some(address), 3));
        }
        assert!(verify("vm:8443").is_err(), "--release is required");
        assert!(verify("").is_err());
    }

    #[test]
    fn a_fleet_is_a_flag_or_a_word() {
        for words in ["--watch targets.toml --rounds 1", "watch targets.toml --at-once 4"] {
            let Some(VerifyVerb::Watch(args)) = verify(words).unwrap().other else { panic!() };
            assert_eq!(args.targets, PathBuf::from("targets.toml"));
        }
        assert!(verify("--watch").is_err() && verify("--watch a --at-once 1").is_err());
    }

    #[test]
    fn releases_and_allowances_are_lists() {
        let args = verify("vm:1 --release a --release b --allow smt-on,tsme-off").unwrap();
        let judge = args.judge;
        assert_eq!((judge.release.len(), judge.allow.len()), (2, 2));
        let error = verify("vm:1 --release a --allow smt").unwrap_err().to_string();
        assert!(error.contains("stock-host"), "{error}");
    }

    #[test]
    fn a_report_is_verified_by_its_file() {
        let args = verify("report file --vek vek --crl one --crl two --format json").unwrap();
        assert!(args.judge.address.is_none());
        let Some(VerifyVerb::Report(args)) = args.other else { panic!() };
        assert_eq!((args.report, args.certificates.crl.len()), ("file".into(), 2));
        for refused in ["report", "report file --vek vek --measurement ab", "--release x report f"]
        {
            assert!(verify(refused).is_err(), "{refused}");
        }
    }
}
