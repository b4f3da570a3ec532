//! The metrics, in the text format that Prometheus reads.

use std::fmt;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::document::Published;
use crate::serve::Doing;

/// The type of the text.
pub(crate) const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct DoingLabel(Doing);

impl EncodeLabelValue for DoingLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.name().encode(encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByState {
    state: DoingLabel,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByVm {
    vm: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Info {
    vm: String,
    release: String,
    version: String,
    measurement: String,
}

/// The metrics of these VMs.
pub(crate) fn text(vms: &[Published]) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("casemate");
    let states = Family::<ByState, Gauge>::default();
    for doing in Doing::ALL {
        let count = vms.iter().filter(|vm| vm.counts.doing == Some(doing)).count();
        let gauge = states.get_or_create(&ByState { state: DoingLabel(doing) });
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    let restarts = Family::<ByVm, Counter>::default();
    let row = Family::<ByVm, Gauge>::default();
    let ready = Family::<ByVm, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
    let info = Family::<Info, Gauge>::default();
    for vm in vms {
        let by = ByVm { vm: vm.name().to_owned() };
        restarts.get_or_create(&by).inc_by(vm.counts.restarts.into());
        row.get_or_create(&by).set(vm.counts.ends_in_a_row.into());
        if let Some(seconds) = vm.counts.ready_seconds {
            ready.get_or_create(&by).set(seconds);
        }
        let labels = Info {
            vm: vm.name().to_owned(),
            release: vm.release.name.clone(),
            version: vm.release.version.clone(),
            measurement: vm.measurement.to_string(),
        };
        info.get_or_create(&labels).set(1);
    }
    registry.register("vms", "VMs by what they do", states);
    registry.register("vm_restarts", "How often a VM was started again", restarts);
    registry.register("vm_ends_in_a_row", "How often a VM ended in a row", row);
    registry.register("vm_ready_seconds", "From QEMU's start until evidence was served", ready);
    registry.register("vm_info", "What a VM must measure", info);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}
