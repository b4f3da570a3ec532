//! Whether a plan that a client hands over may be executed and published: it must be of the
//! release that it names. The files themselves were held to the manifest when it was planned.

use std::path::{Path, PathBuf};

use casemate_measurements::launch_config;
use casemate_measurements::manifest::{Manifest, ReferenceValue};

use super::restart::Restart;
use super::vm::{Doing, Source, Vm};
use super::wire::RunRequest;
use crate::plan::LaunchPlan;
use crate::publish::files;
use crate::state::StateRoot;

/// Why a plan is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanRefusal {
    /// It is no plan.
    #[error("the plan is malformed")]
    Malformed(#[from] serde_json::Error),
    /// The release cannot be read.
    #[error(transparent)]
    Release(#[from] files::FileError),
    /// Something in the plan is not the release's, or not this daemon's.
    #[error("the plan's {what} is {found}, expected {expected}")]
    Other {
        /// What.
        what: &'static str,
        /// As the plan has it.
        found: String,
        /// As it must be.
        expected: String,
    },
    /// The manifest lists no such launch.
    #[error("the manifest lists no launch digest {digest} for {shape}")]
    Unlisted {
        /// The plan's digest.
        digest: String,
        /// The plan's shape.
        shape: String,
    },
}

/// A VM that may be started.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) release: PathBuf,
    pub(crate) plan: LaunchPlan,
    restart: Restart,
    source: Source,
    source_sha256: Option<String>,
}

impl Accepted {
    /// Holds a request to its release.
    pub(crate) fn check(request: RunRequest, root: &StateRoot) -> Result<Self, PlanRefusal> {
        let plan: LaunchPlan = serde_json::from_value(request.plan)?;
        let release = PathBuf::from(request.release);
        check(&plan, &release, root)?;
        let (restart, source) = (request.restart, Source::Request);
        Ok(Self { release, plan, restart, source, source_sha256: None })
    }

    /// A plan of a file.
    pub(crate) fn of_file(
        release: PathBuf,
        plan: LaunchPlan,
        restart: Restart,
        sha256: String,
    ) -> Self {
        Self { release, plan, restart, source: Source::File, source_sha256: Some(sha256) }
    }

    /// A plan that is executed already.
    pub(crate) fn found(plan: LaunchPlan) -> Self {
        let release = plan.machine.firmware.parent().map(Path::to_owned).unwrap_or_default();
        let (restart, source) = (Restart::never(), Source::Found);
        Self { release, plan, restart, source, source_sha256: None }
    }

    /// The VM, not started.
    pub(crate) fn into_vm(self, now_ms: u64) -> Vm {
        Vm {
            name: self.plan.name.clone(),
            release: self.release,
            plan: self.plan,
            restart: self.restart,
            source: self.source,
            source_sha256: self.source_sha256,
            wanted: false,
            doing: Doing::Stopped,
            reason: None,
            hint: None,
            row: 0,
            restarts: 0,
            next_at_ms: None,
            since_ms: now_ms,
            state: None,
        }
    }
}

fn check(plan: &LaunchPlan, release: &Path, root: &StateRoot) -> Result<(), PlanRefusal> {
    let machine = &plan.machine;
    let same = |what, found: &dyn ToString, expected: &dyn ToString| {
        let (found, expected) = (found.to_string(), expected.to_string());
        if found == expected {
            return Ok(());
        }
        Err(PlanRefusal::Other { what, found, expected })
    };
    let paths = root.vm(&plan.name).map(|paths| paths.dir().display().to_string());
    same("state directory", &plan.paths.dir().display(), &paths.unwrap_or_default())?;
    same("machine name", &machine.name, &plan.name)?;
    let manifest: Manifest = files::manifest(release, &plan.manifest_sha256)?;
    let label = format!("{} {}", manifest.release.name, manifest.release.version);
    same("release", &plan.release, &label)?;
    same("platform", &machine.backing.platform(), &manifest.release.platform)?;
    same("command line", &machine.cmdline, &manifest.boot.cmdline)?;
    same("guest policy", &machine.policy, &manifest.guest_policy)?;
    let host_data = launch_config::host_data(plan.launch_config.as_bytes());
    same("HOST_DATA", &machine.host_data, &host_data)?;
    let row = ReferenceValue::new(machine.shape, plan.digest);
    if manifest.law.digest(&machine.shape) == plan.digest
        && manifest.reference_values.contains(&row)
    {
        return Ok(());
    }
    let (digest, shape) = (plan.digest.to_string(), machine.shape.to_string());
    Err(PlanRefusal::Unlisted { digest, shape })
}
