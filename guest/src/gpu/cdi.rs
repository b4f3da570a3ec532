//! What containers are given of GPUs: a Container Device Interface specification for the GPUs
//! that are there (`podman run --device nvidia.com/gpu=0`, or `=all`).

use std::fs;
use std::io;

use serde_json::{Value, json};

use crate::sysfs::{SysRoot, names};

/// Where podman looks, beside `/etc/cdi`.
pub const PATH: &str = "run/cdi/nvidia.json";

/// What a CUDA program loads, by the names that it asks for, and the tool to look at GPUs. Nothing
/// graphical.
const FILES: [&str; 5] = [
    "usr/bin/nvidia-smi",
    "usr/lib/x86_64-linux-gnu/libcuda.so.1",
    "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
    "usr/lib/x86_64-linux-gnu/libnvidia-ptxjitcompiler.so.1",
    "usr/lib/x86_64-linux-gnu/libnvidia-nvvm.so.4",
];

/// What else it loads, by a name that ends with the driver's version: in confidential-computing
/// mode, what it encrypts by, which in turn loads the container's own OpenSSL 3.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const VERSIONED: &str = "libnvidia-pkcs11-openssl3.so.";

/// Writes the specification for `count` GPUs.
///
/// # Errors
/// When the libraries cannot be listed, or the file cannot be written.
pub fn write(root: &SysRoot, count: usize) -> io::Result<()> {
    let path = root.path(PATH);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, specification(&files(root)?, count).to_string())
}

/// Those of the files that are there.
fn files(root: &SysRoot) -> io::Result<Vec<String>> {
    let mut found: Vec<String> =
        FILES.iter().filter(|file| root.path(file).exists()).map(ToString::to_string).collect();
    let versioned = match names(&root.path(LIBRARIES)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        names => names?,
    };
    let versioned = versioned.into_iter().filter(|name| name.starts_with(VERSIONED));
    found.extend(versioned.map(|name| format!("{LIBRARIES}/{name}")));
    Ok(found)
}

fn specification(files: &[String], count: usize) -> Value {
    let mounts: Vec<Value> = files
        .iter()
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
        let pkcs11 = "usr/lib/x86_64-linux-gnu/libnvidia-pkcs11-openssl3.so.550.163.01";
        for file in [FILES[1], pkcs11, "usr/lib/x86_64-linux-gnu/libc.so.6"] {
            fs::write(root.path(file), b"").unwrap();
        }
        write(&root, 2).unwrap();
        let text = fs::read_to_string(root.path(PATH)).unwrap();
        let read: Value = serde_json::from_str(&text).unwrap();
        let mounts = read["containerEdits"]["mounts"].as_array().unwrap();
        let mounted: Vec<_> = mounts.iter().map(|mount| mount["hostPath"].clone()).collect();
        assert_eq!(mounted, [json!(format!("/{}", FILES[1])), json!(format!("/{pkcs11}"))]);
        let names: Vec<_> =
            read["devices"].as_array().unwrap().iter().map(|d| d["name"].clone()).collect();
        assert_eq!(names, ["0", "1", "all"]);
        let all = read["devices"][2]["containerEdits"]["deviceNodes"].as_array().unwrap();
        assert_eq!(all[1]["path"], "/dev/nvidia1");
    }
}
