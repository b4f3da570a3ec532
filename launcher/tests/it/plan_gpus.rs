//! Plans with GPUs: golden files for a host of each kind, and what is refused with which words.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use casemate_launcher::committed::Committed;
use casemate_launcher::host::{HostFacts, QemuVersion};
use casemate_launcher::inventory::{GpuMode, Inventory};
use casemate_launcher::machine::Memory;
use casemate_launcher::plan::{LaunchPlan, LaunchRequest, PlanError};
use casemate_launcher::release::Release;
use casemate_launcher::state::VmPaths;
use casemate_launcher::topology::{GpuChoice, GpuHost, GpuRefusal, GpuRequest};
use casemate_measurements::launch_config::LaunchConfig;
use casemate_measurements::platform::Platform;

use crate::fixture::{Contents, folder, request, snp_host};
use crate::hosts::{b200, b300, epyc, hgx_h100, hgx_h100_singles, rtx_pro_6000};
use crate::plan::golden;

/// A release with a firmware, a host, and what is asked of them.
struct Case {
    dir: tempfile::TempDir,
    host: HostFacts,
    request: LaunchRequest,
}

/// `count` GPUs of a host whose firmware is stock, or uses so many bits.
fn case(inventory: Inventory, count: u8, firmware_bits: Option<u8>) -> Case {
    let dir = tempfile::tempdir().unwrap();
    let contents = Contents { address_bits: firmware_bits, ..Contents::unbootable(Platform::Snp) };
    contents.write(dir.path());
    let gpus = Some(Box::new(GpuHost { root: "/".into(), inventory, taken: BTreeMap::new() }));
    let choice = GpuChoice::Any { family: None, count };
    let request = LaunchRequest {
        memory: Memory::from_mib(128 * 1024).unwrap(),
        gpus: Some(GpuRequest { choice, board: None }),
        ..request(Platform::Snp, "vm-1")
    };
    Case { dir, host: HostFacts { gpus, ..snp_host() }, request }
}

impl Case {
    fn memory(mut self, gib: u32) -> Self {
        self.request.memory = Memory::from_mib(gib * 1024).unwrap();
        self
    }

    fn host(mut self, change: impl FnOnce(&mut GpuHost)) -> Self {
        change(self.host.gpus.as_mut().unwrap());
        self
    }

    fn these(mut self, addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        self.request.gpus = Some(GpuRequest { choice: GpuChoice::These(addresses), board: None });
        self
    }

    fn plan(&self) -> Result<LaunchPlan, PlanError> {
        let release = Release::open(self.dir.path()).unwrap();
        let paths = VmPaths::new("/run/casemate/vms/vm-1".into()).unwrap();
        LaunchPlan::new(&release, &self.request, &self.host, &paths)
    }

    fn golden(&self, name: &str) {
        let plan = self.plan().unwrap();
        golden(name, &plan, self.dir.path());
        // What is planned is what is written down for the supervisor.
        let json = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<LaunchPlan>(&json).unwrap(), plan);
    }

    fn gpus(&self) -> Vec<String> {
        let plan = self.plan().unwrap();
        plan.machine.passthrough.unwrap().gpus.iter().map(ToString::to_string).collect()
    }

    fn refusal(&self) -> GpuRefusal {
        match self.plan() {
            Err(PlanError::Gpus(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_host_of_each_kind() {
    case(hgx_h100_singles(), 1, None).golden("h100-1-of-8.txt");
    case(hgx_h100(), 8, Some(46)).memory(900).golden("h100-8-ppcie.txt");
    case(rtx_pro_6000(), 1, None).golden("rtx-pro-6000-1-of-8.txt");
    case(b200(), 8, Some(46)).memory(900).golden("b200-8.txt");
    case(b200(), 2, Some(46)).golden("b200-2-of-8.txt");
    case(b300(), 8, Some(46)).memory(900).golden("b300-8.txt");
}

/// Hosts one of whose GPUs cannot be given.
fn one_that_does_not_fit() -> Vec<(&'static str, Case)> {
    vec![
        (
            "held by a driver",
            case(rtx_pro_6000(), 1, None).these(&["0000:1c:00.0"]).host(|h| {
                h.inventory.devices[0].driver = Some("nvidia".into());
            }),
        ),
        (
            "held by other VMs",
            case(rtx_pro_6000(), 1, None).host(|h| {
                let all = h.inventory.devices.iter().map(|d| d.address);
                h.taken = all.map(|a| (a, "VM vm-0 has it".into())).collect();
            }),
        ),
        (
            "foreign devices in the group",
            case(rtx_pro_6000(), 1, None).these(&["0000:1c:00.0"]).host(|h| {
                h.inventory.devices[0].group_mates = vec!["0000:1d:00.0".parse().unwrap()];
            }),
        ),
        (
            "no reset",
            case(rtx_pro_6000(), 1, None)
                .these(&["0000:1c:00.0"])
                .host(|h| h.inventory.devices[0].reset_methods.clear()),
        ),
        (
            "no function-level reset",
            case(rtx_pro_6000(), 1, None)
                .these(&["0000:1c:00.0"])
                .host(|h| h.inventory.devices[0].reset_methods = vec!["bus".into()]),
        ),
        (
            "no window",
            case(rtx_pro_6000(), 1, None)
                .these(&["0000:1c:00.0"])
                .host(|h| h.inventory.devices[0].bars.clear()),
        ),
    ]
}

/// Every refusal and its hint, in one file: the words are what a miner has to go by.
#[test]
fn refusals_say_what_was_found_and_what_to_do() {
    let text = |error: &GpuRefusal| format!("{error}\n  hint: {}\n", error.hint());
    let ppcie = |host: &mut GpuHost, count| {
        for gpu in host.inventory.devices.iter_mut().take(count) {
            gpu.mode = Some(Ok(GpuMode::Ppcie));
        }
    };
    let cases: Vec<(&str, Case)> = vec![
        ("stock firmware, 8 GPUs", case(hgx_h100(), 8, None)),
        ("stock firmware, 1 GPU, too much memory", case(rtx_pro_6000(), 1, None).memory(600)),
        ("stock firmware, B300", case(b300(), 1, None)),
        ("2 H100", case(hgx_h100_singles(), 2, None)),
        ("8 H100 in mode on", case(hgx_h100_singles(), 8, Some(46))),
        ("1 H100 in ppcie", case(hgx_h100(), 1, None)),
        ("mixed modes", case(hgx_h100_singles(), 1, None).host(|h| ppcie(h, 3))),
        (
            "devtools",
            case(rtx_pro_6000(), 1, None).host(|h| {
                for gpu in &mut h.inventory.devices {
                    gpu.mode = Some(Ok(GpuMode::Devtools));
                }
            }),
        ),
        (
            "mode unknown",
            case(rtx_pro_6000(), 1, None).these(&["0000:1c:00.0"]).host(|h| {
                h.inventory.devices[0].mode = Some(Err("resource0: denied".into()));
            }),
        ),
        (
            "a switch is missing",
            case(hgx_h100(), 8, Some(46)).host(|h| _ = h.inventory.devices.pop()),
        ),
        ("no fabric manager", case(b200(), 2, Some(46)).host(|h| h.inventory.services.clear())),
        (
            "no subnet manager",
            case(b200(), 2, Some(46)).host(|h| _ = h.inventory.services.remove("nvlsm")),
        ),
        (
            "fabric given away",
            case(b200(), 2, Some(46)).host(|h| {
                h.inventory.devices.last_mut().unwrap().driver = Some("vfio-pci".into());
            }),
        ),
        ("3 of 8 B200", case(b200(), 3, Some(46))),
        ("no partition", case(b200(), 2, Some(46)).these(&["0000:38:00.0", "0000:54:00.0"])),
        (
            "two families",
            case(b200(), 1, Some(46)).host(|h| {
                h.inventory.devices.extend(hgx_h100_singles().devices);
            }),
        ),
        ("no GPU", case(epyc(25, 17), 1, None)),
        ("too little left", case(rtx_pro_6000(), 1, None).memory(1000)),
        (
            "no iommufd",
            case(rtx_pro_6000(), 1, None).host(|h| {
                h.inventory.iommufd = Err("/dev/iommu: No such file or directory".into());
            }),
        ),
    ];
    let (before, after) =
        cases.split_at(cases.iter().position(|c| c.0 == "a switch is missing").unwrap());
    let found: Vec<String> = before
        .iter()
        .chain(&one_that_does_not_fit())
        .chain(after)
        .map(|(name, case)| format!("{name}\n  {}\n", text(&case.refusal()).trim_end()))
        .collect();
    let found = found.concat();
    let path = folder("golden").join("refusals.txt");
    if std::env::var_os("CASEMATE_BLESS").is_some() {
        fs::write(&path, &found).unwrap();
    }
    assert_eq!(found, fs::read_to_string(&path).unwrap());
}

#[test]
fn what_is_no_matter_of_gpus_is_refused_too() {
    let mut old = case(rtx_pro_6000(), 1, None);
    old.host.qemu.version = QemuVersion { major: 9, minor: 1 };
    assert!(matches!(old.refusal(), GpuRefusal::OldQemu { .. }));
    let mut blind = case(rtx_pro_6000(), 1, None);
    blind.host.gpus = None;
    assert_eq!(blind.refusal(), GpuRefusal::NotLookedAt);
    let others = Committed::default();
    let few = case(rtx_pro_6000(), 1, None).host(|h| h.inventory.cpu.threads = 5);
    assert_eq!(few.refusal(), GpuRefusal::Vcpus { found: 2, threads: 5, kept: 4, others });
    let blackwell = case(b200(), 1, Some(46)).host(|h| h.inventory.cpu.threads = 17);
    assert_eq!(blackwell.refusal(), GpuRefusal::Vcpus { found: 2, threads: 17, kept: 16, others });
    // What other VMs have is given away already.
    let others = Committed { vms: 2, vcpus: 4, memory: 60 << 30 };
    let mut shared = case(rtx_pro_6000(), 1, None).host(|h| h.inventory.cpu.threads = 9);
    shared.host.committed = others;
    let refusal = shared.refusal();
    assert_eq!(refusal, GpuRefusal::Vcpus { found: 2, threads: 9, kept: 4, others });
    assert_eq!(refusal.hint(), "ask for at most 1 vCPUs that the manifest lists");
    let mut full = case(rtx_pro_6000(), 1, None).host(|h| h.inventory.memory.total = 68 << 30);
    full.host.committed = others;
    let refusal = full.refusal();
    let words =
        "leave too little, expected 8192 MiB for the host; 2 VMs have 4 vCPUs and 61440 MiB";
    assert!(refusal.to_string().ends_with(words), "{refusal}");
    let narrow = case(b200(), 8, Some(46)).host(|h| h.inventory.cpu.physical_bits = 42);
    assert!(matches!(narrow.refusal(), GpuRefusal::Space(_)));
    let twice = case(b200(), 2, Some(46)).these(&["0000:1c:00.0", "0000:1c:00.0"]);
    assert!(matches!(twice.refusal(), GpuRefusal::Twice { .. }));
    let absent = case(b200(), 1, Some(46)).these(&["0000:01:00.0"]);
    assert!(matches!(absent.refusal(), GpuRefusal::NotAGpu { .. }));
}

#[test]
fn gpus_of_one_node_are_preferred_and_large_rests_kept() {
    // GPUs 1 to 4 are on node 0, 5 to 8 on node 1. Node 1 has one left: it is filled up.
    let taken = |host: &mut GpuHost, addresses: &[&str]| {
        let addresses = addresses.iter().map(|text| text.parse().unwrap());
        host.taken = addresses.map(|address| (address, "VM vm-0 has it".into())).collect();
    };
    let singles = case(rtx_pro_6000(), 1, None)
        .host(|h| taken(h, &["0000:8c:00.0", "0000:a8:00.0", "0000:c4:00.0"]));
    assert_eq!(singles.gpus(), ["0000:e0:00.0"]);
    let pair = case(b200(), 2, Some(46)).host(|h| taken(h, &["0000:54:00.0"]));
    // The block of the one that is taken has another left: 1 and 2, not 5 to 8.
    assert_eq!(pair.gpus(), ["0000:1c:00.0", "0000:38:00.0"]);
    let four = case(b200(), 4, Some(46)).host(|h| taken(h, &["0000:54:00.0"]));
    assert_eq!(four.gpus(), ["0000:8c:00.0", "0000:a8:00.0", "0000:c4:00.0", "0000:e0:00.0"]);
    let scattered =
        case(b200(), 4, Some(46)).host(|h| taken(h, &["0000:54:00.0", "0000:8c:00.0"])).refusal();
    assert!(matches!(scattered, GpuRefusal::NoPartition { count: 4, .. }), "{scattered}");
    let eight = case(b200(), 8, Some(46)).host(|h| taken(h, &["0000:54:00.0"])).refusal();
    assert!(eight.to_string().contains("0000:54:00.0: VM vm-0 has it"), "{eight}");
}

#[test]
fn what_the_vm_is_promised_is_in_host_data() {
    let plan = case(hgx_h100(), 8, Some(46)).plan().unwrap();
    let config = LaunchConfig::from_bytes(plan.launch_config.as_bytes()).unwrap();
    let promised = config.gpus.unwrap();
    assert_eq!((promised.chip.as_str(), promised.count, promised.nvswitches), ("GH100", 8, 4));
    let mut without = case(hgx_h100(), 8, Some(46));
    without.request.gpus = None;
    let without = without.plan().unwrap();
    assert_ne!(without.machine.host_data, plan.machine.host_data);
    assert_eq!(without.digest, plan.digest, "the topology is not in the digest");
    // A VM with 1 TiB of windows is given more time than one without.
    assert!(plan.timeouts.unwrap().first_stage.as_secs() > 600, "{:?}", plan.timeouts);
    assert_eq!(without.timeouts, None);
}

/// The units of a guest with GPUs are bounded; the host gives up later than all of them.
#[test]
fn a_vm_with_gpus_gets_the_time_that_its_own_units_may_take() {
    let images = concat!(env!("CARGO_MANIFEST_DIR"), "/../images");
    let seconds = |unit: &str, key: &str| -> u64 {
        let path = format!("{images}/gpu-hopper/rootfs/{unit}");
        let text = fs::read_to_string(&path).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("{path} says no {key}")).parse().unwrap()
    };
    let start = |unit: &str| seconds(unit, "TimeoutStartSec");
    let persistenced = start("usr/lib/systemd/system/casemate-persistenced.service");
    let units = start("usr/lib/systemd/system/casemate-gpu.service")
        + persistenced
        + start("etc/systemd/system/casemate-agent.service.d/nvidia.conf");
    assert!(persistenced >= 600, "eight GPUs were seen to take more than two minutes");
    let boot = "etc/systemd/system/multi-user.target.d/nvidia.conf";
    assert!(units < seconds(boot, "JobTimeoutSec"), "the boot is over before its units are");
    let ready = case(hgx_h100_singles(), 1, None).plan().unwrap().timeouts.unwrap().ready;
    assert!(ready.as_secs() > units, "{ready:?}, and the units may take {units} s");
}

#[test]
fn planning_takes_no_time() {
    let case = case(b300(), 8, Some(46));
    let release = Release::open(case.dir.path()).unwrap();
    let paths = VmPaths::new("/run/casemate/vms/vm-1".into()).unwrap();
    let once = || {
        let start = Instant::now();
        let plan = LaunchPlan::new(&release, &case.request, &case.host, &paths).unwrap();
        assert!(!plan.arguments(plan.accels[0]).as_slice().is_empty());
        start.elapsed()
    };
    let least = (0..50).map(|_| once()).min().unwrap();
    eprintln!("plan with 8 B300: {} us", least.as_micros());
    assert!(least.as_millis() < 10, "{least:?}");
}
