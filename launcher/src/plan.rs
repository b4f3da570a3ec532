//! Decides everything about one launch and touches nothing: from a release, a request and the
//! facts of the host to a [`LaunchPlan`] that is executed as it is, or printed.
//!
//! A plan whose launch digest the manifest does not list is refused: such a VM would come up and
//! be believed by nobody.

mod error;

use std::fmt;
use std::time::Duration;

use casemate_measurements::evidence;
use casemate_measurements::hash::{LaunchDigest, Sha256Hash};
use casemate_measurements::kernel_hashes::KernelHashes;
use casemate_measurements::launch::{CpuModel, Shape, VcpuCount, Vmm};
use casemate_measurements::launch_config::{self, LaunchConfig};
use casemate_measurements::manifest::{Manifest, ReferenceValue, artifact};
use casemate_measurements::platform::Platform;
use casemate_measurements::ssh_key::key_line;
use casemate_measurements::stage::Stage;
use serde::{Deserialize, Serialize};

use crate::argument::Arguments;
use crate::committed;
use crate::host::{HostFacts, Kvm, LEAST_QEMU, LEAST_QEMU_SNP, Qemu};
use crate::id_block::MachineIdBlock;
use crate::machine::{Accel, Backing, Console, ExtraDisk, Forward, HashesTable, Machine, Memory};
use crate::network::Network;
use crate::profile::Profiles;
use crate::release::Release;
use crate::shapes;
use crate::state::{VmName, VmPaths};
use crate::topology::{GpuRefusal, GpuRequest, Needs, Passthrough};
pub use error::PlanError;

/// The guest's port for SSH.
pub const SSH_PORT: u16 = 22;

/// Which accelerator is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccelChoice {
    /// KVM where a VM really boots with it, else TCG.
    #[default]
    Auto,
    /// KVM or nothing.
    Kvm,
    /// TCG.
    Tcg,
}

/// How long a boot may take, by phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// From QEMU's start to the first stage code: firmware and kernel.
    pub first_stage: Duration,
    /// From the first stage code to the hand-over to systemd.
    pub handover: Duration,
    /// From the hand-over to readiness.
    pub ready: Duration,
}

impl Timeouts {
    /// What is ample for an accelerator on a loaded host.
    #[must_use]
    pub const fn for_accel(accel: Accel) -> Self {
        let (first_stage, handover, ready) = match accel {
            Accel::Kvm => (60, 60, 120),
            Accel::Tcg => (180, 120, 300),
        };
        Self {
            first_stage: Duration::from_secs(first_stage),
            handover: Duration::from_secs(handover),
            ready: Duration::from_secs(ready),
        }
    }

    /// What is ample for a VM with GPUs on KVM. Its firmware sizes and maps every window, which
    /// took half a minute a GPU with old firmware, and memory that is accepted before use took
    /// 2.5 s a GiB. The guest's own units bound the driver (300 s), its persistence daemon (600 s)
    /// and the agent (300 s): a VM that is slow is not to be taken for one that hangs.
    #[must_use]
    pub fn with_devices(devices: &Passthrough, memory: Memory) -> Self {
        let usual = Self::for_accel(Accel::Kvm);
        let count = u32::try_from(devices.devices().count()).unwrap_or(u32::MAX);
        let windows = Duration::from_mins(1).saturating_mul(count);
        let units = Duration::from_mins(20);
        let accepting = Duration::from_secs(3).saturating_mul(memory.mib() / 1024);
        Self {
            first_stage: usual.first_stage.saturating_add(windows).saturating_add(accepting),
            ready: usual.ready.saturating_add(units).saturating_add(windows),
            ..usual
        }
    }

    /// How long the phase may take that follows `last`.
    #[must_use]
    pub(crate) fn after(&self, last: Option<Stage>) -> Duration {
        match last {
            None => self.first_stage,
            Some(stage) if stage < Stage::Handover => self.handover,
            Some(_) => self.ready,
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchRequest {
    /// The VM's name, also its host name.
    pub name: VmName,
    /// The platform that the caller expects the release to be of.
    pub platform: Platform,
    /// How many vCPUs.
    pub vcpus: VcpuCount,
    /// Which CPU model; without one, the first that the manifest lists with so many vCPUs.
    pub cpu_model: Option<CpuModel>,
    /// How much memory.
    pub memory: Memory,
    /// Keys that may log in, a line of `authorized_keys` each.
    pub ssh_keys: Vec<String>,
    /// Port of 127.0.0.1 that becomes the guest's port 22.
    pub ssh_port: u16,
    /// Port of 127.0.0.1 that becomes the guest's evidence port.
    pub evidence_port: u16,
    /// How the VM reaches others; ports of 127.0.0.1 are forwarded on a user network alone.
    pub network: Network,
    /// Which GPUs.
    pub gpus: Option<GpuRequest>,
    /// Which accelerator.
    pub accel: AccelChoice,
    /// How long a boot may take; without, what suits the accelerator and the VM's size.
    pub timeouts: Option<Timeouts>,
    /// Disks that no release knows of, for tests of what a host may attach.
    pub extra_disks: Vec<ExtraDisk>,
    /// Consoles, for tests of what a host may attach.
    pub consoles: Vec<Console>,
}

/// A launch, decided.
///
/// Fields are public so that tests can play a host that executes another plan than the one it
/// was given; [`crate::start()`] executes what it gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchPlan {
    /// The VM's name.
    pub name: VmName,
    /// Name and version of the release.
    pub release: String,
    /// SHA-256 of the release's manifest.
    pub manifest_sha256: Sha256Hash,
    /// The VM.
    pub machine: Machine,
    /// The launch digest that its reports must carry.
    pub digest: LaunchDigest,
    /// The exact bytes of the launch config, which `HOST_DATA` hashes.
    pub launch_config: String,
    /// Which QEMU.
    pub qemu: Qemu,
    /// What to try, in order; the next only where the one before does not work on this host.
    pub accels: Vec<Accel>,
    /// How long a boot may take; without, what suits the accelerator.
    pub timeouts: Option<Timeouts>,
    /// The table of kernel hashes to place on the simulated platform in place of the true one:
    /// what a cheating host would do. Always `None` in a plan that was made here.
    pub forged_hashes: Option<KernelHashes>,
    /// Where the VM's state lies.
    pub paths: VmPaths,
}

impl LaunchPlan {
    /// Decides.
    ///
    /// # Errors
    /// When the host cannot run such a VM, or no verifier would accept it.
    pub fn new(
        release: &Release,
        request: &LaunchRequest,
        host: &HostFacts,
        paths: &VmPaths,
    ) -> Result<Self, PlanError> {
        let manifest = release.manifest();
        let label = format!("{} {}", manifest.release.name, manifest.release.version);
        let found = manifest.release.platform;
        if found != request.platform {
            let expected = request.platform;
            return Err(PlanError::Platform { release: label, expected, found });
        }
        let (shape, digest) = measured(manifest, &label, request, &host.qemu)?;
        let backing = backing(manifest, host)?;
        check_qemu(&host.qemu, found)?;
        if let (Platform::Snp, Some(linux)) = (found, host.linux) {
            manifest.guest_policy.check_kvm(linux)?;
        }
        let accels = accels(request.accel, &host.kvm, found)?;
        let passthrough = passthrough(manifest, request, host)?;
        if passthrough.is_none() && found == Platform::Snp {
            leave_for_host(request, host)?;
        }
        let boot = |devices: &Passthrough| Timeouts::with_devices(devices, request.memory);
        let config = LaunchConfig {
            schema: LaunchConfig::SCHEMA,
            // One that is no key is refused, with the others, by the config itself.
            ssh_authorized_keys: request
                .ssh_keys
                .iter()
                .map(|line| key_line(line).unwrap_or_else(|_| line.clone()))
                .collect(),
            name: request.name.as_str().to_owned(),
            gpus: passthrough.as_ref().map(|devices| devices.promised.clone()),
        };
        let config = config.to_bytes()?;
        let timeouts = request.timeouts.or_else(|| passthrough.as_ref().map(boot));
        let machine = Machine {
            name: request.name.as_str().to_owned(),
            backing,
            shape,
            memory: request.memory,
            policy: manifest.guest_policy,
            id_block: MachineIdBlock::find(release, &shape, &digest)?,
            host_data: launch_config::host_data(&config),
            firmware: release.path(artifact::FIRMWARE),
            kernel: release.path(artifact::KERNEL),
            initrd: release.path(artifact::INITRD),
            cmdline: manifest.boot.cmdline.clone(),
            root_disk: release.path(artifact::ROOT),
            network: request.network.attach(&request.name),
            forwards: forwards(request)?,
            passthrough,
            extra_disks: request.extra_disks.clone(),
            consoles: request.consoles.clone(),
        };
        check_paths(&machine, &host.qemu)?;
        Ok(Self {
            name: request.name.clone(),
            release: label,
            manifest_sha256: *release.manifest_sha256(),
            machine,
            digest,
            launch_config: String::from_utf8_lossy(&config).into_owned(),
            qemu: host.qemu.clone(),
            accels,
            timeouts,
            forged_hashes: None,
            paths: paths.clone(),
        })
    }

    /// QEMU's arguments with one accelerator.
    #[must_use]
    pub fn arguments(&self, accel: Accel) -> Arguments {
        self.machine.arguments(&self.qemu, &self.paths, accel)
    }

    /// The port of 127.0.0.1 for a port of the guest.
    #[must_use]
    pub fn host_port(&self, guest: u16) -> Option<u16> {
        self.machine.forwards.iter().find(|f| f.guest == guest).map(|f| f.host)
    }
}

impl fmt::Display for LaunchPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        let simulated = match machine.backing.platform() {
            Platform::Snp => "",
            Platform::Simulated => " (SIMULATED: proves nothing)",
        };
        let accels: Vec<String> = self.accels.iter().map(ToString::to_string).collect();
        writeln!(f, "release        {}", self.release)?;
        writeln!(f, "manifest       {}", self.manifest_sha256)?;
        writeln!(f, "platform       {}{simulated}", machine.backing.platform())?;
        writeln!(f, "shape          {}", machine.shape)?;
        writeln!(f, "memory         {}", machine.memory)?;
        if let Some(devices) = &machine.passthrough {
            write!(f, "{devices}")?;
        }
        writeln!(f, "network        {}", machine.network.describe())?;
        writeln!(f, "launch digest  {}", self.digest)?;
        writeln!(f, "guest policy   {} ({})", machine.policy, machine.policy.describe())?;
        let id_block = machine.id_block.as_ref();
        let text = id_block.map(|block| block.describe(&self.digest, machine.policy));
        writeln!(f, "ID block       {}", text.as_deref().unwrap_or("none"))?;
        writeln!(f, "host data      {}", machine.host_data)?;
        writeln!(f, "launch config  {}", self.launch_config)?;
        writeln!(f, "accelerator    {}", accels.join(", else "))?;
        for accel in &self.accels {
            writeln!(f, "\n{} \\\n  {}", self.qemu.path.display(), self.arguments(*accel))?;
        }
        Ok(())
    }
}

/// The shape and its digest, which the manifest must list. On silicon the model must be one that
/// this QEMU knows; the simulated platform only counts it into the digest.
fn measured(
    manifest: &Manifest,
    label: &str,
    request: &LaunchRequest,
    qemu: &Qemu,
) -> Result<(Shape, LaunchDigest), PlanError> {
    if let Some(cpu) = request.cpu_model.filter(|model| model.name().is_none()) {
        return Err(PlanError::NamelessCpu { cpu });
    }
    let fits = |row: &&ReferenceValue| {
        row.vmm == Vmm::Qemu
            && row.vcpus == request.vcpus
            && row.cpu_model.name().is_some()
            && request.cpu_model.is_none_or(|model| model == row.cpu_model)
    };
    let least = |row: &ReferenceValue| match request.platform {
        Platform::Snp => qemu.too_old_for(row.cpu_model),
        Platform::Simulated => None,
    };
    let rows = || manifest.reference_values.iter().filter(fits);
    let usable = rows().find(|row| least(row).is_none());
    if usable.is_none()
        && let Some((cpu, least)) = rows().find_map(|row| Some((row.cpu_model, least(row)?)))
    {
        let (path, found) = (qemu.path.display().to_string(), qemu.version);
        return Err(PlanError::UnknownCpu { cpu, path, found, least });
    }
    let row = usable.ok_or_else(|| {
        let model = request.cpu_model.and_then(CpuModel::name).unwrap_or("any CPU model");
        PlanError::Unlisted {
            release: label.to_owned(),
            shape: format!("{} x {model} on qemu", request.vcpus),
            listed: shapes::listed(manifest),
        }
    })?;
    let shape = row.shape();
    let found = manifest.law.digest(&shape);
    if found != row.measurement {
        let (found, expected) = (Box::new(found), Box::new(row.measurement));
        return Err(PlanError::Digest { shape, found, expected });
    }
    Ok((shape, found))
}

fn backing(manifest: &Manifest, host: &HostFacts) -> Result<Backing, PlanError> {
    match (manifest.release.platform, &host.sev) {
        (Platform::Snp, Ok(sev)) => Ok(Backing::Snp(*sev)),
        (Platform::Snp, Err(reason)) => Err(PlanError::NoSnp { reason: reason.clone() }),
        (Platform::Simulated, _) => {
            let gpa = manifest.law.layout().hashes_table_gpa;
            Ok(Backing::Simulated(HashesTable { gpa }))
        }
    }
}

fn check_qemu(qemu: &Qemu, platform: Platform) -> Result<(), PlanError> {
    let least = match platform {
        Platform::Snp => LEAST_QEMU_SNP,
        Platform::Simulated => LEAST_QEMU,
    };
    if qemu.version >= least {
        return Ok(());
    }
    let (path, found) = (qemu.path.display().to_string(), qemu.version);
    Err(PlanError::OldQemu { path, found, least, platform })
}

/// What to try. An SNP guest is never refused because one before it failed: there is nothing else
/// to run it on, and one guest's failure says little of the next.
fn accels(choice: AccelChoice, kvm: &Kvm, platform: Platform) -> Result<Vec<Accel>, PlanError> {
    let unusable = match kvm {
        Kvm::Absent { reason } => Some(reason.clone()),
        Kvm::Broken { reason, platform: Some(seen) }
            if *seen == platform && platform != Platform::Snp =>
        {
            Some(format!("since this host booted, {reason}"))
        }
        Kvm::Broken { .. } | Kvm::Untried | Kvm::Works => None,
    };
    match (platform, choice, unusable) {
        (Platform::Snp, AccelChoice::Tcg, _) => Err(PlanError::SnpOnTcg),
        (Platform::Snp, _, Some(reason)) => {
            Err(PlanError::NoKvm { reason, hint: "SEV-SNP needs it" })
        }
        // A person who asks for KVM by name gets it tried again, whatever was seen before.
        (_, AccelChoice::Kvm, Some(reason)) if matches!(kvm, Kvm::Absent { .. }) => {
            Err(PlanError::NoKvm { reason, hint: "--accel auto falls back to emulation" })
        }
        (Platform::Snp, _, None) | (_, AccelChoice::Kvm, _) => Ok(vec![Accel::Kvm]),
        (_, AccelChoice::Auto, None) => Ok(vec![Accel::Kvm, Accel::Tcg]),
        (_, AccelChoice::Auto, Some(_)) | (_, AccelChoice::Tcg, _) => Ok(vec![Accel::Tcg]),
    }
}

/// The GPUs, chosen and placed.
fn passthrough(
    manifest: &Manifest,
    request: &LaunchRequest,
    host: &HostFacts,
) -> Result<Option<Passthrough>, PlanError> {
    let Some(wanted) = &request.gpus else { return Ok(None) };
    if request.platform == Platform::Simulated {
        return Err(GpuRefusal::Simulated.into());
    }
    let found = host.gpus.as_deref().ok_or(GpuRefusal::NotLookedAt)?;
    let needs = Needs {
        vcpus: request.vcpus.get().into(),
        memory: request.memory,
        others: host.committed,
        firmware_bits: manifest.firmware_address_bits(),
        qemu: &host.qemu,
    };
    Ok(Some(Passthrough::new(wanted, needs, found, &Profiles::shipped()?)?))
}

/// Whether the host keeps what it needs beside a VM without GPUs. Its processors are shared, its
/// memory is not.
fn leave_for_host(request: &LaunchRequest, host: &HostFacts) -> Result<(), PlanError> {
    let Some(total) = host.memory else { return Ok(()) };
    Ok(host.committed.leave(request.memory, total, committed::kept(total))?)
}

fn forwards(request: &LaunchRequest) -> Result<Vec<Forward>, PlanError> {
    if !matches!(request.network, Network::User | Network::Isolated) {
        return Ok(Vec::new());
    }
    if request.ssh_port == request.evidence_port {
        return Err(PlanError::PortTwice { port: request.ssh_port });
    }
    Ok(vec![
        Forward { host: request.ssh_port, guest: SSH_PORT },
        Forward { host: request.evidence_port, guest: evidence::PORT },
    ])
}

fn check_paths(machine: &Machine, qemu: &Qemu) -> Result<(), PlanError> {
    let own = [&machine.firmware, &machine.kernel, &machine.initrd, &machine.root_disk, &qemu.path];
    let disks = machine.extra_disks.iter().map(|disk| &disk.path);
    match own.into_iter().chain(disks).find(|path| path.to_str().is_none()) {
        None => Ok(()),
        Some(path) => Err(PlanError::Path { path: path.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_accelerators_are_tried() {
        let absent = Kvm::Absent { reason: "no device".into() };
        let seen_on = |platform| Kvm::Broken { reason: "it failed".into(), platform };
        let broken = seen_on(Some(Platform::Simulated));
        let (kvm, tcg) = (Accel::Kvm, Accel::Tcg);
        let of = |choice, kvm: &Kvm| accels(choice, kvm, Platform::Simulated).ok();
        assert_eq!(of(AccelChoice::Auto, &Kvm::Untried), Some(vec![kvm, tcg]));
        assert_eq!(of(AccelChoice::Auto, &Kvm::Works), Some(vec![kvm, tcg]));
        assert_eq!(of(AccelChoice::Auto, &broken), Some(vec![tcg]));
        assert_eq!(of(AccelChoice::Auto, &absent), Some(vec![tcg]));
        assert_eq!(of(AccelChoice::Tcg, &Kvm::Works), Some(vec![tcg]));
        assert_eq!(of(AccelChoice::Kvm, &broken), Some(vec![kvm]));
        assert_eq!(of(AccelChoice::Kvm, &absent), None);
        let snp = |choice, kvm: &Kvm| accels(choice, kvm, Platform::Snp).ok();
        assert_eq!(snp(AccelChoice::Auto, &Kvm::Works), Some(vec![kvm]));
        for seen in [None, Some(Platform::Simulated), Some(Platform::Snp)] {
            assert_eq!(snp(AccelChoice::Auto, &seen_on(seen)), Some(vec![kvm]));
        }
        assert_eq!(snp(AccelChoice::Auto, &absent), None);
        assert_eq!(snp(AccelChoice::Tcg, &Kvm::Works), None);
        // What an SNP guest met, or a version that took any failure for KVM's, says nothing here.
        for seen in [None, Some(Platform::Snp)] {
            assert_eq!(of(AccelChoice::Auto, &seen_on(seen)), Some(vec![kvm, tcg]));
        }
    }

    #[test]
    fn each_phase_has_its_own_time() {
        let times = Timeouts::for_accel(Accel::Tcg);
        assert_eq!(times.after(None), times.first_stage);
        assert_eq!(times.after(Some(Stage::InitStarted)), times.handover);
        assert_eq!(times.after(Some(Stage::Handover)), times.ready);
        assert_eq!(times.after(Some(Stage::KeysMade)), times.ready);
    }
}
