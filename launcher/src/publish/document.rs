//! What is published of a VM: enough to say what it must measure and where to ask it, nothing of
//! who works in it.

use std::path::PathBuf;

use casemate_measurements::evidence;
use casemate_measurements::gpu_evidence::GpuSet;
use casemate_measurements::hash::{HostData, LaunchDigest, Sha256Hash};
use casemate_measurements::launch::Shape;
use casemate_measurements::launch_config::LaunchConfig;
use casemate_measurements::manifest::ReferenceValue;
use casemate_measurements::platform::Platform;
use casemate_measurements::policy::GuestPolicy;
use serde::Serialize;

use crate::serve::{Doing, Vm};

/// A VM as it is published.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Published {
    name: String,
    state: Doing,
    /// Since when, in milliseconds since 1970.
    since_ms: u64,
    /// The last stage code.
    stage: Option<u8>,
    pub(crate) release: PublishedRelease,
    pub(crate) shape: Shape,
    pub(crate) measurement: LaunchDigest,
    guest_policy: GuestPolicy,
    host_data: HostData,
    gpus: Option<GpuSet>,
    evidence: Option<PublishedEvidence>,
    restarts: u32,
    /// For metrics.
    #[serde(skip)]
    pub(crate) counts: Counts,
}

/// A release as it is published.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PublishedRelease {
    pub(crate) name: String,
    pub(crate) version: String,
    platform: Platform,
    /// Whether what runs on this platform proves anything.
    proves_nothing: bool,
    pub(crate) manifest_sha256: Sha256Hash,
    /// Paths below this publisher.
    files: Vec<String>,
    #[serde(skip)]
    pub(crate) dir: PathBuf,
}

/// Where evidence is asked for.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PublishedEvidence {
    host: String,
    port: u16,
}

/// What only the metrics say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    pub(crate) doing: Option<Doing>,
    pub(crate) restarts: u32,
    pub(crate) ends_in_a_row: u32,
    pub(crate) ready_seconds: Option<f64>,
}

impl Published {
    /// What is published of a VM that others reach at `host`.
    pub(crate) fn new(vm: &Vm, host: &str) -> Self {
        let plan = &vm.plan;
        // The plan's label is `NAME VERSION`, and neither has a space.
        let (name, version) = plan.release.rsplit_once(' ').unwrap_or((&plan.release, ""));
        let config = LaunchConfig::from_bytes(plan.launch_config.as_bytes());
        let platform = plan.machine.backing.platform();
        let port = plan.host_port(evidence::PORT);
        let state = vm.state.as_ref();
        let ready = casemate_measurements::stage::Stage::Ready.code();
        let ready_ms = state.and_then(|state| state.reached_ms.get(&ready));
        Self {
            name: vm.name.to_string(),
            state: vm.doing,
            since_ms: vm.since_ms,
            stage: state.and_then(|state| state.stage).map(|stage| stage.0.code()),
            release: PublishedRelease {
                name: name.to_owned(),
                version: version.to_owned(),
                platform,
                proves_nothing: platform == Platform::Simulated,
                manifest_sha256: plan.manifest_sha256,
                files: Vec::new(),
                dir: vm.release.clone(),
            },
            shape: plan.machine.shape,
            measurement: plan.digest,
            guest_policy: plan.machine.policy,
            host_data: plan.machine.host_data,
            gpus: config.ok().and_then(|config| config.gpus),
            evidence: port.map(|port| PublishedEvidence { host: host.to_owned(), port }),
            restarts: vm.restarts,
            counts: Counts {
                doing: Some(vm.doing),
                restarts: vm.restarts,
                ends_in_a_row: vm.row,
                ready_seconds: ready_ms
                    .map(|ms| std::time::Duration::from_millis(*ms).as_secs_f64()),
            },
        }
    }

    /// Adds the files of the release: looks at the directory.
    pub(crate) fn with_files(mut self) -> Self {
        let hash = self.release.manifest_sha256;
        let names = super::files::names(&self.release.dir).into_iter();
        self.release.files = names.map(|name| format!("/v1/releases/{hash}/{name}")).collect();
        self
    }

    /// The name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The one launch digest that it must have.
    pub(crate) fn reference_value(&self) -> ReferenceValue {
        ReferenceValue::new(self.shape, self.measurement)
    }
}
