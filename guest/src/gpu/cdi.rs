//! What containers are given of GPUs: a Container Device Interface specification for the GPUs
//! that are there (`podman run --device nvidia.com/gpu=0`, or `=all`).

use std::fs;
use std::io;

use serde_json::{Value, json};

use crate::sysfs::SysRoot;

/// Where podman looks, beside `/etc/cdi`.
pub const PATH: &str = "run/cdi/nvidia.json";

/// What a CUDA program loads, by the names that it asks for, and the tool to look at GPUs. Nothing
/// graphical.
const FILES: [&str; 6] = [
    "usr/bin/nvidia-smi",
    "usr/lib/x86_64-linux-gnu/libcuda.so.1",
    "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
    "usr/lib/x86_64-linux-gnu/libnvidia-pkcs11-openssl3.so",
    "usr/lib/x86_64-linux-gnu/libnvidia-ptxjitcompiler.so.1",
    "usr/lib/x86_64-linux-gnu/libnvidia-nvvm.so.4",
];

/// Writes the specification for `count` GPUs.
pub(super) fn write(root: &SysRoot, count: usize) -> io::Result<()> {
    let path = root.path(PATH);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, specification(root, count).to_string())
}

fn specification(root: &SysRoot, count: usize) -> Value {
    let mounts: Vec<Value> = FILES
        .into_iter()
        .filter(|file| root.path(file).exists())
        .map(|file| {
            let path = format!("/{file}");
            let options = ["ro", "nosuid", "nodev", "bind"];
            json!({ "hostPath": path, "containerPath": path, "options": options })
        })
        .collect();
    let nodes = |nodes: Vec<Value>| json!({ "deviceNodes": nodes });
    let node = |index: usize| json!({ "path": format!("/dev/nvidia{index}") });
    let mut devices: Vec<Value> = (0..count)
        .map(|i| json!({ "name": i.to_string(), "containerEdits": nodes(vec![node(i)]) }))
        .collect();
    devices.push(json!({ "name": "all", "containerEdits": nodes((0..count).map(node).collect()) }));
    json!({
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "containerEdits": {
            "deviceNodes": [
                { "path": "/dev/nvidiactl" },
                { "path": "/dev/nvidia-uvm" },
                { "path": "/dev/nvidia-uvm-tools" },
            ],
            "mounts": mounts,
        },
        "devices": devices,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_there_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let root = SysRoot::new(dir.path());
        fs::create_dir_all(root.path("usr/lib/x86_64-linux-gnu")).unwrap();
        fs::write(root.path(FILES[1]), b"").unwrap();
        write(&root, 2).unwrap();
        let text = fs::read_to_string(root.path(PATH)).unwrap();
        let read: Value = serde_json::from_str(&text).unwrap();
        let mounts = read["containerEdits"]["mounts"].as_array().unwrap();
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0]["hostPath"], "/usr/lib/x86_64-linux-gnu/libcuda.so.1");
        let names: Vec<_> =
            read["devices"].as_array().unwrap().iter().map(|d| d["name"].clone()).collect();
        assert_eq!(names, ["0", "1", "all"]);
        let all = read["devices"][2]["containerEdits"]["deviceNodes"].as_array().unwrap();
        assert_eq!(all[1]["path"], "/dev/nvidia1");
    }
}
