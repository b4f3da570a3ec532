//! What manages the fabric of a board of GPUs on the host: Fabric Manager, the subnet manager
//! NVLSM, and the mode that Fabric Manager is configured for.
//!
//! Stock installs have no unit for NVLSM: the start script of Fabric Manager's unit starts both,
//! so NVLSM is a process in that unit's control group (NVIDIA's Fabric Manager user guide). A
//! second one on the same fabric breaks it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Fact, files};

/// Fabric Manager's name, in profiles and of its unit.
pub(crate) const FABRIC_MANAGER: &str = "nvidia-fabricmanager";
/// The subnet manager's name: in profiles, of its process, and of its unit where it has one.
pub(crate) const SUBNET_MANAGER: &str = "nvlsm";
/// Fabric Manager's configuration, where its package installs it.
const CONFIG: &str = "usr/share/nvidia/nvswitch/fabricmanager.cfg";
/// How deep control groups of one unit are looked into.
const DEPTH: usize = 4;

/// Where the subnet manager runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SubnetManager {
    /// In the control group of Fabric Manager's unit, which starts it.
    FabricManager,
    /// In a unit of its own.
    OwnUnit,
    /// In neither.
    Absent,
}

/// What manages the fabric, beyond the services that run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fabric {
    /// Where NVLSM runs.
    pub subnet_manager: SubnetManager,
    /// `FABRIC_MODE` of Fabric Manager's configuration: 0 for bare metal, 1 for VMs that share
    /// the board's switches.
    pub mode: Fact<u8>,
}

pub(super) fn probe(root: &Path) -> Fabric {
    let unit = |name: &str| root.join(format!("sys/fs/cgroup/system.slice/{name}.service"));
    let is_subnet_manager = |pid: &String| {
        let name = files::text(&root.join("proc").join(pid).join("comm"));
        name.is_ok_and(|name| name == SUBNET_MANAGER)
    };
    let subnet_manager = if processes(&unit(FABRIC_MANAGER)).iter().any(is_subnet_manager) {
        SubnetManager::FabricManager
    } else if processes(&unit(SUBNET_MANAGER)).is_empty() {
        SubnetManager::Absent
    } else {
        SubnetManager::OwnUnit
    };
    Fabric { subnet_manager, mode: mode(&root.join(CONFIG)) }
}

/// Which of the services run that profiles name.
pub(super) fn services(root: &Path, fabric: &Fabric) -> BTreeMap<String, bool> {
    let unit = root.join(format!("sys/fs/cgroup/system.slice/{FABRIC_MANAGER}.service"));
    let subnet_manager = fabric.subnet_manager != SubnetManager::Absent;
    [(FABRIC_MANAGER, !processes(&unit).is_empty()), (SUBNET_MANAGER, subnet_manager)]
        .map(|(name, runs)| (name.to_owned(), runs))
        .into()
}

/// The processes of a control group and of those below it.
fn processes(group: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut groups = vec![(group.to_owned(), 0)];
    while let Some((dir, depth)) = groups.pop() {
        let text = files::text(&dir.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.split_whitespace().map(str::to_owned));
        if depth < DEPTH {
            let below = files::entries(&dir).into_iter().filter(|path: &PathBuf| path.is_dir());
            groups.extend(below.map(|path| (path, depth + 1)));
        }
    }
    found
}

/// `FABRIC_MODE` of a configuration; Fabric Manager takes 0 where it is not set.
fn mode(config: &Path) -> Fact<u8> {
    let text = files::text(config)?;
    let mut values = text.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == "FABRIC_MODE").then(|| value.trim())
    });
    match values.next_back() {
        None => Ok(0),
        Some(value) => value.parse().map_err(|_| {
            let value: String = value.chars().take(20).collect();
            format!("{}: FABRIC_MODE is {value:?}, expected a number", config.display())
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    const FABRIC_MANAGER_UNIT: &str =
        "sys/fs/cgroup/system.slice/nvidia-fabricmanager.service/cgroup.procs";

    #[test]
    fn the_subnet_manager_is_found_where_stock_installs_start_it() {
        for (files, expected) in [
            (&[][..], SubnetManager::Absent),
            (
                &[(FABRIC_MANAGER_UNIT, "70\n71\n"), ("proc/71/comm", "nvlsm\n")],
                SubnetManager::FabricManager,
            ),
            (
                &[
                    (FABRIC_MANAGER_UNIT, ""),
                    (
                        "sys/fs/cgroup/system.slice/nvidia-fabricmanager.service/sub/cgroup.procs",
                        "71\n",
                    ),
                    ("proc/71/comm", "nvlsm\n"),
                ],
                SubnetManager::FabricManager,
            ),
            // Fabric Manager alone, and a process of that name elsewhere.
            (
                &[
                    (FABRIC_MANAGER_UNIT, "70\n"),
                    ("proc/70/comm", "nv-fabricmanage\n"),
                    ("proc/71/comm", "nvlsm\n"),
                ],
                SubnetManager::Absent,
            ),
            (
                &[("sys/fs/cgroup/system.slice/nvlsm.service/cgroup.procs", "71\n")],
                SubnetManager::OwnUnit,
            ),
        ] {
            let root = tree(files);
            let found = probe(root.path());
            assert_eq!(found.subnet_manager, expected, "{files:?}");
            let runs = services(root.path(), &found);
            assert_eq!(runs["nvlsm"], expected != SubnetManager::Absent);
        }
    }

    #[test]
    fn the_mode_is_what_the_configuration_says_last() {
        let at = |text: &str| probe(tree(&[(CONFIG, text)]).path()).mode;
        assert_eq!(at("LOG_LEVEL=4\n#FABRIC_MODE=0\nFABRIC_MODE = 1\n"), Ok(1));
        assert_eq!(at("FABRIC_MODE=1\nFABRIC_MODE=0\n"), Ok(0));
        assert_eq!(at("LOG_LEVEL=4\n"), Ok(0));
        assert!(at("FABRIC_MODE=x\n").unwrap_err().contains("\"x\""));
        assert!(probe(tree(&[]).path()).mode.unwrap_err().contains("fabricmanager.cfg"));
    }
}
