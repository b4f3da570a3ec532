//! Devices of QEMU's own that stand for GPUs and switches: a `pci-testdev` with a window of the
//! same size for each GPU, and further functions of it for the small ones.

use casemate_launcher::inventory::Inventory;
use serde_json::{Value, json};

/// The arguments with a stand-in in place of each device of the host.
pub(crate) fn stand_ins(arguments: &[String], host: &Inventory) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let value = || words.clone().next().cloned().unwrap_or_default();
        if word == "-object" && value().contains("iommufd") {
            words.next();
            continue;
        }
        kept.push(word.clone());
        let parsed: Option<Value> = serde_json::from_str(&value()).ok();
        let Some(device) = parsed.filter(|device| device["driver"] == "vfio-pci") else { continue };
        words.next();
        let address = device["host"].as_str().unwrap().parse().unwrap();
        let found = host.devices.iter().find(|device| device.address == address).unwrap();
        let mut sizes: Vec<u64> =
            found.bars.iter().filter(|bar| bar.prefetchable).map(|bar| bar.size).collect();
        sizes.sort_unstable_by_key(|size| std::cmp::Reverse(*size));
        if sizes.is_empty() {
            // A switch: nothing in the window, and no I/O ports either, of which twelve root ports
            // would need more than there are.
            kept.push(json!({"driver": "edu", "bus": device["bus"]}).to_string());
            continue;
        }
        for (function, size) in sizes.iter().enumerate() {
            if function > 0 {
                kept.push("-device".into());
            }
            let stand_in = json!({
                "driver": "pci-testdev",
                "bus": device["bus"],
                "addr": format!("0.{function}"),
                "multifunction": true,
                "membar": size,
            });
            kept.push(stand_in.to_string());
        }
    }
    kept
}
