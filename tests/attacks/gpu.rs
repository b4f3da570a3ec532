//! The image with the NVIDIA driver, on a host without a GPU.

use casemate_tests::{
    Host, Vm, casemate, expect_code, gpu_release, gpu_release_that_tries, required,
};

use crate::owner::Owner;

/// Runs `remote` in the VM, whose release is in `release`.
fn inside(host: &Host, vm: &Vm, release: &std::path::Path, remote: &str) -> String {
    let output = expect_code(0, &mut vm.ssh_of(host, release, remote));
    String::from_utf8(output.stdout).unwrap()
}

/// It boots and attests like any other: without a GPU there is nothing to do.
#[test]
fn the_gpu_image_attests_without_a_gpu() {
    if !required("images") {
        return eprintln!("skipped: images that compile for minutes are built by `make images`");
    }
    let host = Host::default();
    let release = gpu_release();
    let mut plan = host.plan_of(release, "gpu");
    let owner = Owner::attach(&host, &mut plan, &[]);
    let vm = host.launch(&plan).result.unwrap();
    let mut verify = casemate(["verify", "--format", "json"]);
    verify.arg(vm.evidence().to_string()).arg("--release").arg(release);
    let output = expect_code(0, verify.arg("--trust-simulated").arg(Vm::root()));
    let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict["release"]["name"], "gpu-hopper");

    let run = |remote: &str| inside(&host, &vm, release, remote);
    assert_eq!(run("cat /proc/sys/kernel/modules_disabled"), "1\n");
    // Debian's kernel has SysRq and pstore: they are off, and keys do nothing.
    let settings = "cat /proc/sys/kernel/sysrq /sys/module/pstore/parameters/backend";
    assert_eq!(run(settings), "0\nnull\n");
    owner.press_sysrq(&["p", "l", "c", "o", "b"]);
    assert_eq!(owner.log(), "", "the kernel's log is in the owner's hands");
    let modules = run("ls /usr/lib/modules/$(uname -r)/updates");
    assert_eq!(modules, "nvidia-modeset.ko\nnvidia-uvm.ko\nnvidia.ko\n");
    assert_eq!(run("grep -c nvidia /proc/modules || true"), "0\n");
    // Libraries are found by the names that programs ask for: the tool finds its library, and the
    // library no driver.
    let missing = run("nvidia-smi 2>&1 || true");
    assert!(missing.contains("couldn't communicate with the NVIDIA driver"), "{missing}");
    let missing = run("/usr/lib/casemate/nvml state 2>&1 || true");
    assert!(missing.contains("DriverNotLoaded"), "{missing}");
}

/// The kernel takes the driver, which itself finds no device: version, symbols and ciphers fit.
#[test]
fn the_gpu_image_s_driver_loads_as_far_as_no_device() {
    if !required("images") {
        return eprintln!("skipped: images that compile for minutes are built by `make images`");
    }
    let host = Host::default();
    let release = gpu_release_that_tries();
    let vm = host.launch(&host.plan_of(release, "gpu-tries")).result.unwrap();
    let said = inside(&host, &vm, release, "cat /run/tries");
    // The ciphers said nothing, and the driver only that.
    assert_eq!(said, "modprobe: ERROR: could not insert 'nvidia': No such device\n");
    let ciphers = inside(&host, &vm, release, "cat /proc/crypto");
    for name in ["ecdh-nist-p384", "ecdsa-nist-p384", "sha384"] {
        let line = format!("name         : {name}");
        assert!(ciphers.lines().any(|found| found == line), "{name} is not in:\n{ciphers}");
    }
    let loaded = inside(&host, &vm, release, "cut -d' ' -f1 /proc/modules");
    assert!(loaded.lines().any(|module| module == "gcm"), "gcm is not in:\n{loaded}");
}

/// podman reads what casemate-gpu writes, and gives a container the nodes and the libraries.
#[test]
fn the_gpu_image_s_containers_get_gpus() {
    if !required("images") {
        return eprintln!("skipped: images that compile for minutes are built by `make images`");
    }
    let host = Host::default();
    let release = gpu_release_that_tries();
    let vm = host.launch(&host.plan_of(release, "gpu-containers")).result.unwrap();
    let tree = "set -e; mkdir -p r/usr/bin r/usr/lib64 r/usr/lib/x86_64-linux-gnu; cd r; \
        ln -s usr/lib usr/lib64 usr/bin .; mkdir proc sys dev etc run tmp; \
        cp /usr/bin/ls usr/bin/; cp /usr/lib64/ld-linux-x86-64.so.2 usr/lib64/; \
        for library in libc.so.6 libcap.so.2 libselinux.so.1 libpcre2-8.so.0; do \
        cp /usr/lib/x86_64-linux-gnu/$library usr/lib/x86_64-linux-gnu/; done";
    let _ = inside(&host, &vm, release, tree);
    let run = "podman run --rm --device nvidia.com/gpu=all --network none --rootfs $PWD/r \
        /usr/bin/ls /dev /usr/lib/x86_64-linux-gnu";
    let seen = inside(&host, &vm, release, run);
    for name in [
        "nvidia0",
        "nvidiactl",
        "nvidia-uvm",
        "libcuda.so.1",
        "libnvidia-pkcs11-openssl3.so.550.163.01",
    ] {
        assert!(seen.lines().any(|line| line == name), "{name} is not in:\n{seen}");
    }
    let without = inside(&host, &vm, release, &run.replace("--device nvidia.com/gpu=all", ""));
    // What was mounted left its mount points; the nodes were the container's alone.
    assert!(!without.lines().any(|line| line == "nvidia0"), "{without}");
}
