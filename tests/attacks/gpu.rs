//! The image with the NVIDIA driver, on a host without a GPU.

use casemate_tests::{Host, Vm, casemate, expect_code, gpu_release, required};

/// It boots and attests like any other, its driver is loaded as far as "no device", and no module
/// comes in afterwards.
#[test]
fn the_gpu_image_attests_and_its_driver_finds_no_device() {
    if !required("images") {
        return eprintln!("skipped: images that compile for minutes are built by `make images`");
    }
    let host = Host::default();
    let vm = host.launch(&host.plan_of(gpu_release(), "gpu")).result.unwrap();
    let mut verify = casemate(["verify", "--format", "json"]);
    verify.arg(vm.evidence().to_string()).arg("--release").arg(gpu_release());
    let output = expect_code(0, verify.arg("--trust-simulated").arg(Vm::root()));
    let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict["release"]["name"], "gpu-hopper");

    let run = |remote: &str| {
        let mut command = casemate(["ssh"]);
        command.arg(vm.evidence().to_string()).arg("--release").arg(gpu_release());
        command.arg("--trust-simulated").arg(Vm::root());
        command.args(["--ssh-port", &vm.ssh_port().to_string()]).arg("--identity").arg(host.key());
        let output = expect_code(0, command.args(["--", remote]));
        String::from_utf8(output.stdout).unwrap()
    };
    // The driver itself says that there is no device, so the kernel took it, with its symbols.
    let said = run("cat /run/nvidia/load");
    assert!(said.contains("could not insert 'nvidia': No such device"), "{said}");
    let loaded = run("cut -d' ' -f1 /proc/modules");
    for module in ["ecdh_generic", "ecdsa_generic", "sha512_generic"] {
        assert!(loaded.lines().any(|line| line == module), "{module} is not in:\n{loaded}");
    }
    assert_eq!(run("cat /proc/sys/kernel/modules_disabled"), "1\n");
    let modules = run("ls /usr/lib/modules/$(uname -r)/updates");
    assert_eq!(modules, "nvidia-modeset.ko\nnvidia-uvm.ko\nnvidia.ko\n");
    // Libraries are found by the names that programs ask for.
    let missing = run("nvidia-smi 2>&1 || true");
    assert!(missing.contains("NVIDIA driver") || missing.contains("NVML"), "{missing}");
}
