//! What the owner attaches to a VM beyond what was planned: tables, disks, keyboards, screens. The
//! guest must not interpret, open or answer any of it, and must not write to any of it.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use casemate_measurements::stage::Stage;
use casemate_tests::{Host, Vm, expect_code, release, skip};
use serde_json::json;

use crate::owner::Owner;

/// What a tenant has in memory and in a file's name, and no file of the host may have.
const CANARY: &str = "canary-5b1f07c2";

/// Definition blocks that the kernel of Linux loads beside the DSDT.
const BLOCKS: [&str; 3] = ["SSDT", "PSDT", "OSDT"];

/// Compiles a definition block of the host. `None`, with a word, where no iasl is installed.
fn definition_block(host: &Host, signature: &str) -> Option<PathBuf> {
    let source = host.dir().join(format!("{signature}.asl"));
    let text = include_str!("acpi/block.asl");
    let text =
        text.replace("SIGNATURE", signature).replace("NAME", &format!("D{}", &signature[..3]));
    std::fs::write(&source, text).unwrap();
    let compiled =
        Command::new("iasl").arg("-p").arg(source.with_extension("")).arg(&source).output();
    let Ok(output) = compiled else {
        skip("iasl", "no iasl is installed");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    Some(source.with_extension("aml"))
}

/// A disk with a partition table whose one partition looks like a file system with a label.
fn disk(host: &Host, name: &str) -> PathBuf {
    let path = host.dir().join(name);
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(8 << 20).unwrap();
    // An MBR: one entry of type 0x83 from sector 2048, and the magic.
    let mut entry = [0_u8; 16];
    entry[4] = 0x83;
    entry[8..12].copy_from_slice(&2048_u32.to_le_bytes());
    entry[12..16].copy_from_slice(&4096_u32.to_le_bytes());
    file.write_all_at(&entry, 446).unwrap();
    file.write_all_at(&[0x55, 0xaa], 510).unwrap();
    // The superblock of ext4: its magic and a label.
    file.write_all_at(&0xef53_u16.to_le_bytes(), 2048 * 512 + 1024 + 0x38).unwrap();
    file.write_all_at(b"owner", 2048 * 512 + 1024 + 0x78).unwrap();
    path
}

/// Every device here that a host can attach, with files for what they write.
fn everything(host: &Host) -> Option<Vec<String>> {
    let mut words: Vec<String> = Vec::new();
    let mut add = |text: String| words.extend(text.split(' ').map(str::to_owned));
    let dir = host.dir().display().to_string();
    for signature in BLOCKS {
        add(format!("-acpitable file={}", definition_block(host, signature)?.display()));
    }
    add(format!("-chardev file,id=port402,path={dir}/port402"));
    add("-device isa-debugcon,iobase=0x402,chardev=port402".to_owned());
    for (id, device) in [
        ("pciserial", "pci-serial"),
        ("isaserial", "isa-serial"),
        ("parallel", "isa-parallel"),
        ("usbserial", "usb-serial"),
    ] {
        add(format!("-chardev file,id={id},path={dir}/{id}"));
        if id == "usbserial" {
            add("-device qemu-xhci -device usb-kbd -device usb-tablet".to_owned());
        }
        add(format!("-device {device},chardev={id}"));
    }
    add(format!(
        "-chardev file,id=hvc,path={dir}/hvc -device virtio-serial-pci,id=more,max_ports=4"
    ));
    add("-device virtconsole,bus=more.0,chardev=hvc".to_owned());
    for (id, device) in [
        ("nvme", "nvme,serial=casemate-root,drive=nvme"),
        ("blk", "virtio-blk-pci,serial=owner,drive=blk"),
        ("usb", "usb-storage,drive=usb"),
        ("sata", "ide-hd,drive=sata,bus=ide.0"),
        ("scsi", "scsi-hd,drive=scsi"),
    ] {
        add(format!("-drive if=none,id={id},format=raw,file={}", disk(host, id).display()));
        if id == "scsi" {
            add("-device virtio-scsi-pci".to_owned());
        }
        add(format!("-device {device}"));
    }
    add("-device VGA,romfile= -device virtio-keyboard-pci -device virtio-balloon-pci".to_owned());
    add("-device virtio-rng-pci -device pvpanic -device e1000e,romfile= -device edu".to_owned());
    add("-machine vmport=on -device vmcoreinfo -device vmgenid".to_owned());
    Some(words)
}

/// What the tenant sees of a command in the guest.
fn inside(host: &Host, vm: &Vm, remote: &str) -> String {
    let output = expect_code(0, &mut vm.ssh(host, remote));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_the_owner_attaches_is_neither_read_nor_written() {
    let host = Host::default();
    let mut plan = host.plan("deaf");
    let Some(arguments) = everything(&host) else { return };
    let owner = Owner::attach(&host, &mut plan, &arguments);
    let root = host.dir().join("root.img");
    std::fs::copy(release().join("root.img"), &root).unwrap();
    plan.machine.root_disk.clone_from(&root);
    let seen = host.launch(&plan);
    let vm = seen.result.unwrap();

    nothing_is_interpreted(&host, &vm);
    nothing_is_opened(&host, &vm);
    no_key_commands_the_kernel(&host, &vm, &owner);
    nothing_leaves_when_the_kernel_panics(&host, &vm, &owner, &root);
}

fn nothing_is_interpreted(host: &Host, vm: &Vm) {
    let said = std::fs::read(host.dir().join("port402")).unwrap();
    assert_eq!(said, b"", "AML of the host ran");
    let tables = inside(host, vm, "ls -p /sys/firmware/acpi/tables | grep -v /");
    assert_eq!(tables, "APIC\nDSDT\nFACP\nMCFG\n");
    let devices = inside(host, vm, "ls /sys/bus/acpi/devices");
    assert!(devices.contains("PNP0A08:00"), "{devices}");
    assert!(!devices.contains("ACPI0004"), "a device of the host's tables exists: {devices}");
}

fn nothing_is_opened(host: &Host, vm: &Vm) {
    let drivers = "for d in /sys/bus/pci/devices/*; do [ -e $d/driver ] && \
                   basename $(readlink $d/driver); done | sort -u";
    assert_eq!(inside(host, vm, drivers), "virtio-pci\n");
    let virtio = "for d in /sys/bus/virtio/devices/*; do [ -e $d/driver ] && \
                  basename $(readlink $d/driver); done | sort -u";
    assert_eq!(inside(host, vm, virtio), "virtio_blk\nvirtio_console\nvirtio_net\n");
    // What QEMU offers of a network device and no kernel of ours takes: offloads at run time (2),
    // announcements (21). A character for each feature.
    let features = "cat /sys/bus/virtio/drivers/virtio_net/virtio*/features";
    let features = inside(host, vm, features);
    let taken = |bit: usize| features.as_bytes()[bit] == b'1';
    assert!(taken(5) && taken(32) && !taken(2) && !taken(21), "{features}");
    // The root, its tree, the launch config and the owner's: whole disks, no partition of any.
    let partitions = inside(host, vm, "tail -n +3 /proc/partitions | awk '{print $4}'");
    let partitioned = |name: &str| name.starts_with("vd") && name.len() > 3;
    assert!(partitions.lines().all(|name| !partitioned(name)), "{partitions}");
    assert!(!partitions.contains("nvme") && !partitions.contains("sd"), "{partitions}");
    assert_eq!(
        inside(host, vm, "ls -d /dev/disk /dev/input /dev/tty0 /dev/fb0 2>/dev/null; true"),
        ""
    );
    // The null console's line names no device that takes a byte.
    let consoles = inside(host, vm, "cat /proc/consoles 2>/dev/null; true");
    assert!(consoles.lines().all(|line| line.starts_with("ttynull")), "{consoles}");
}

fn no_key_commands_the_kernel(host: &Host, vm: &Vm, owner: &Owner) {
    assert_eq!(inside(host, vm, "ls /proc/sys/kernel/sysrq 2>/dev/null; true"), "");
    owner.press_sysrq(&["t", "c"]);
    let attach = json!({"driver": "usb-mouse", "id": "late"});
    owner.ask(&[
        json!({"execute": "system_powerdown"}),
        json!({"execute": "inject-nmi"}),
        json!({"execute": "device_add", "arguments": attach}),
    ]);
    assert_eq!(inside(host, vm, "echo alive"), "alive\n");
}

/// The owner makes the kernel panic, with a tenant's secret in memory: no file of his has any of it.
fn nothing_leaves_when_the_kernel_panics(host: &Host, vm: &Vm, owner: &Owner, root: &Path) {
    let remote =
        format!("touch /tmp/{CANARY}; (exec -a {CANARY} sleep 1000) >/dev/null 2>&1 & true");
    let _ = inside(host, vm, &remote);
    let disk = std::fs::OpenOptions::new().write(true).open(root).unwrap();
    let blocks = Vm::manifest().boot.verity.data_blocks;
    for block in 1..blocks {
        disk.write_all_at(&[0xff; 16], block * 4096).unwrap();
    }
    let _ = vm.ssh(host, "cat $(find /usr -type f) | wc -c").output().unwrap();
    owner.wait_for_the_end();
    for name in ["port402", "pciserial", "isaserial", "parallel", "usbserial", "hvc"] {
        let bytes = std::fs::read(host.dir().join(name)).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("Linux") && !text.contains(CANARY), "{name}: {text:.400}");
    }
    assert_eq!(owner.log(), "", "the kernel's log is in the owner's hands");
    for name in ["nvme", "blk", "usb", "sata", "scsi"] {
        let found = std::fs::read(host.dir().join(name)).unwrap();
        let text = String::from_utf8_lossy(&found);
        assert!(!text.contains(CANARY) && !text.contains("Linux"), "{name} was written");
    }
}

/// A DSDT of the host makes the firmware publish no table at all: the VM ends, and says at what.
#[test]
fn without_acpi_tables_the_vm_ends() {
    let host = Host::default();
    let mut plan = host.plan("no-tables");
    let Some(dsdt) = definition_block(&host, "DSDT") else { return };
    let port = host.dir().join("port402");
    let arguments = [
        "-acpitable".to_owned(),
        format!("file={}", dsdt.display()),
        "-chardev".to_owned(),
        format!("file,id=port402,path={}", port.display()),
        "-device".to_owned(),
        "isa-debugcon,iobase=0x402,chardev=port402".to_owned(),
    ];
    let _ = Owner::attach(&host, &mut plan, &arguments);
    let seen = host.launch(&plan);
    assert!(seen.result.is_err(), "the VM came up: {:?}", seen.stages);
    assert_eq!(seen.stages, [Stage::InitStarted, Stage::PlatformRefused]);
    assert_eq!(std::fs::read(port).unwrap(), b"", "AML of the host ran");
}
