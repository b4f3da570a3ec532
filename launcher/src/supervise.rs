//! Watches over one VM for its whole life, in a process of its own: starts QEMU, follows the boot
//! by stage codes, plays the simulated security processor, takes orders to stop.
//!
//! What decides whether KVM works is a VM that boots on it, not the device node: where a VM
//! cannot run its first instructions on KVM, the next accelerator of the plan is tried. KVM is
//! only called broken, until the host boots again, when that very VM then runs without it, and for
//! VMs of its platform alone: any other failure can be the guest's, the release's or another VM's.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use casemate_measurements::causes::in_one_line;
use casemate_measurements::platform::Platform;
use casemate_measurements::silicon::Line;
use casemate_measurements::stage::Stage;
use casemate_measurements::tcb::Tcb;

use crate::attach::Attached;
use crate::authority::{Authority, AuthorityError, ROOT_FILE};
use crate::complaint::{self, Complaint};
use crate::confine::{ConfineError, Confinement};
use crate::devices::DeviceError;
use crate::host::{self, Kvm};
use crate::machine::Accel;
use crate::network::AttachError;
use crate::plan::LaunchPlan;
use crate::process::ProcessId;
use crate::progress::{Event, Starter};
use crate::psp::{self, Processor, PspError};
use crate::qmp::QmpError;
use crate::state::{self, EndedBy, KnownKvm, Phase, StateError, VmPaths, VmState};
use crate::watch::{Outcome, Watch};

/// The TCB of the simulated chip.
const TCB: Tcb = Line::Genoa.row().floor();

/// Why a VM did not come up.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// The directory holds no plan.
    #[error("{} holds no plan: it is written by `casemate run`", dir.display())]
    NoPlan {
        /// The directory.
        dir: PathBuf,
    },
    /// State cannot be kept.
    #[error("cannot keep the state of the VM")]
    State(#[from] StateError),
    /// The VM does not get its devices.
    #[error("the VM does not get its devices")]
    Devices(#[from] DeviceError),
    /// The VM has no network.
    #[error("the VM has no network")]
    Network(#[from] AttachError),
    /// The simulated authority cannot be had.
    #[error("the simulated security processor has no keys")]
    Authority(#[from] AuthorityError),
    /// The machine cannot be measured.
    #[error("the simulated security processor cannot measure the VM")]
    Psp(#[from] PspError),
    /// QEMU cannot be confined.
    #[error("QEMU cannot be confined")]
    Confine(#[from] ConfineError),
    /// A socket cannot be made.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// QEMU cannot be started.
    #[error("cannot start {}", path.display())]
    Spawn {
        /// Which QEMU.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// QEMU ended during the boot.
    #[error("QEMU ended ({status}) after {}{}{said}", last(*stage), because(*complaint))]
    QemuDied {
        /// How.
        status: String,
        /// The last stage reached.
        stage: Option<Stage>,
        /// The cause, where QEMU's words name one that is known.
        complaint: Option<Complaint>,
        /// What QEMU itself said, if it never came to run the guest.
        said: String,
    },
    /// The guest gave up.
    #[error("the guest gave up: {stage} (stage {:#04x})", stage.code())]
    Guest {
        /// The stage code that it ended with.
        stage: Stage,
    },
    /// The guest ended by itself during the boot.
    #[error("the guest ended ({reason}) after {}", last(*stage))]
    GuestEnded {
        /// QEMU's word for why.
        reason: String,
        /// The last stage reached.
        stage: Option<Stage>,
    },
    /// A phase took too long.
    #[error("no progress for {} s after {} (accelerator {accel})", waited.as_secs(), last(*stage))]
    Timeout {
        /// The last stage reached.
        stage: Option<Stage>,
        /// How long was waited.
        waited: Duration,
        /// The accelerator.
        accel: Accel,
    },
    /// The accelerator failed and no other is planned.
    #[error("KVM did not run the VM: {reason}")]
    KvmBroken {
        /// How that showed.
        reason: String,
    },
    /// QEMU's processor stopped in the middle.
    #[error("QEMU stopped the VM ({status}) after {}{}", last(*stage), because(*complaint))]
    Stopped {
        /// QEMU's status.
        status: String,
        /// The last stage reached.
        stage: Option<Stage>,
        /// The cause, where QEMU's words name one that is known.
        complaint: Option<Complaint>,
    },
    /// An SNP guest asked to be ended.
    #[error(
        "the guest asked to be ended (SEV termination, set {set:#x}, code {code:#x}: {}) after {}",
        complaint::termination(*set, *code), last(*stage)
    )]
    Terminated {
        /// Whose codes they are.
        set: u64,
        /// Why.
        code: u64,
        /// The last stage reached.
        stage: Option<Stage>,
    },
    /// QEMU's monitor talks nonsense.
    #[error("QEMU's monitor cannot be used")]
    Qmp(#[from] QmpError),
    /// Who started the VM went away before it was up.
    #[error("the VM was given up by who started it after {}", last(*stage))]
    Abandoned {
        /// The last stage reached.
        stage: Option<Stage>,
    },
    /// The VM was stopped during its boot.
    #[error("the VM was stopped after {}", last(*stage))]
    StoppedEarly {
        /// The last stage reached.
        stage: Option<Stage>,
    },
}

fn last(stage: Option<Stage>) -> String {
    stage.map_or_else(|| "QEMU's start".to_owned(), |stage| format!("stage \"{stage}\""))
}

fn because(complaint: Option<Complaint>) -> String {
    let meaning = complaint.map_or("", |complaint| complaint.meaning);
    if meaning.is_empty() { String::new() } else { format!(": {meaning}") }
}

impl SuperviseError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Timeout { stage: None, .. } => Some(
                "firmware and kernel did not come up. Either the host is too slow or overloaded, \
                 or the firmware refuses a kernel, initrd or command line that does not hash to \
                 its table, which it does in silence",
            ),
            Self::Timeout { stage: Some(stage), .. } if *stage < Stage::Handover => {
                Some("the initrd waits for a device: is root.img readable and on a healthy disk?")
            }
            Self::Timeout { .. } => Some("systemd or the agent hangs: give more memory or vCPUs"),
            Self::KvmBroken { .. } => {
                Some("use --accel auto, which emulates a SIMULATED VM where KVM does not run it")
            }
            Self::Terminated { set: 0, code: 2, .. } | Self::Terminated { set: 1, .. } => Some(
                "the release does not fit this processor or its firmware: try a newer release, and \
                 update the BIOS",
            ),
            Self::GuestEnded { stage: Some(stage), .. } if *stage < Stage::Handover => {
                Some("a kernel panic, as after a changed byte of root.img: fetch the release again")
            }
            Self::GuestEnded { stage: None, .. } => {
                Some("the kernel did not start: give more memory, or fetch the release again")
            }
            Self::Guest { stage } => Some(stage_hint(*stage)),
            Self::Devices(error) => Some(error.hint()),
            Self::Network(error) => Some(error.hint()),
            Self::QemuDied { complaint, .. } | Self::Stopped { complaint, .. } => {
                complaint.map(|complaint| complaint.hint)
            }
            _ => None,
        }
    }
}

fn stage_hint(stage: Stage) -> &'static str {
    match stage {
        Stage::VerityFailed | Stage::RootMountFailed => {
            "root.img is not what the command line's root hash says: fetch the release again"
        }
        Stage::RootDiskMissing | Stage::DiskAmbiguous => {
            "attach each casemate disk exactly once, by its serial"
        }
        Stage::LaunchConfigRefused => {
            "the disk with the launch config is not the one that HOST_DATA names: start anew"
        }
        Stage::ReportUnavailable => {
            "the security processor gave no report: on SNP, check the host's firmware and kernel"
        }
        _ => "the release does not fit this host, or is damaged: fetch or build it again",
    }
}

/// Executes the plan in `dir` and watches over the VM until it ends. Called in a process of its
/// own, which [`crate::start()`] starts.
///
/// # Errors
/// When the VM does not come up; who started it is told, too.
pub fn supervise(dir: &Path) -> Result<(), SuperviseError> {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let paths = VmPaths::new(dir)?;
    let plan: LaunchPlan = state::read_json(&paths.plan())?
        .ok_or_else(|| SuperviseError::NoPlan { dir: paths.dir().to_owned() })?;
    let mut starter = Starter::new(UnixStream::connect(paths.start_socket()).ok());
    let mut state = first_state(&plan);
    let outcome = Attached::new(&plan, &mut starter).and_then(|attached| {
        let outcome = execute(&plan, &mut state, &mut starter);
        drop(attached);
        outcome
    });
    match outcome {
        Ok((reason, by)) => {
            state.phase = Phase::Ended { reason, by, hint: None };
            // Whoever asked to stop may have removed the directory already.
            let _ = paths.write_state(&state);
            Ok(())
        }
        Err(error) => {
            let by = match error {
                SuperviseError::StoppedEarly { .. } => EndedBy::Order,
                _ => EndedBy::Failure,
            };
            let (reason, hint) = (in_one_line(&error), error.hint().map(str::to_owned));
            state.phase = Phase::Ended { reason, by, hint };
            let _ = paths.write_state(&state);
            starter.failed(&error, error.hint());
            Err(error)
        }
    }
}

fn first_state(plan: &LaunchPlan) -> VmState {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    VmState {
        schema: VmState::SCHEMA,
        name: plan.name.clone(),
        release: plan.release.clone(),
        platform: plan.machine.backing.platform(),
        phase: Phase::Booting,
        stage: None,
        accel: plan.accels.first().copied().unwrap_or(Accel::Tcg),
        forwards: plan.machine.forwards.clone(),
        digest: plan.digest,
        host_data: plan.machine.host_data,
        supervisor: ProcessId::own(),
        qemu: None,
        started: now.as_secs(),
        reached_ms: BTreeMap::new(),
    }
}

/// Tries the accelerators in turn; returns how the VM ended, once it did.
fn execute(
    plan: &LaunchPlan,
    state: &mut VmState,
    starter: &mut Starter,
) -> Result<(String, EndedBy), SuperviseError> {
    plan.paths.write_state(state)?;
    let measured = match plan.machine.backing.platform() {
        Platform::Snp => None,
        Platform::Simulated => {
            let measured = psp::measure(&plan.machine, plan.forged_hashes.as_ref())?;
            state::write_file(&plan.paths.hashes(), &measured.table)?;
            Some(measured)
        }
    };
    let confinement = Confinement::of(&plan.paths.root()?)?;
    let control = crate::channel::listen(&plan.paths.control_socket())?;
    let mut broken = String::from("the plan names no accelerator");
    let mut suspicion = None;
    for (index, accel) in plan.accels.iter().copied().enumerate() {
        state.accel = accel;
        let processor = match measured {
            None => None,
            Some(measured) => Some(processor(plan, measured.digest, starter)?),
        };
        let watch = Watch::start(plan, state, starter, &control, processor, accel, &confinement)?;
        let outcome = watch.suspecting(suspicion.take()).until_the_end()?;
        match outcome {
            Outcome::Ended { reason, by } => return Ok((reason, by)),
            Outcome::KvmFailed { reason, passing } => {
                suspicion = (!passing).then(|| reason.clone());
                if index + 1 < plan.accels.len() {
                    starter.send(Duration::ZERO, Event::KvmBroken { reason: reason.clone() });
                }
                broken = reason;
            }
        }
    }
    Err(SuperviseError::KvmBroken { reason: broken })
}

fn processor(
    plan: &LaunchPlan,
    digest: casemate_measurements::hash::LaunchDigest,
    starter: &mut Starter,
) -> Result<Processor, SuperviseError> {
    let dir = Authority::default_dir()?;
    if !dir.join(ROOT_FILE).exists() {
        starter.send(Duration::ZERO, Event::MakingSimulatedRoot);
    }
    let chip = Authority::open_or_make(&dir)?.chip(TCB)?;
    Ok(Processor::new(chip, &plan.machine, digest)?)
}

/// Keeps what was learnt of KVM until the host boots again.
pub(crate) fn keep_kvm(plan: &LaunchPlan, kvm: Kvm) -> Result<(), StateError> {
    let boot_id = host::boot_id(Path::new("/"));
    plan.paths.root()?.write_kvm(&KnownKvm { boot_id, kvm })
}
