//! A guest for boot tests: an init of one file that says what a real guest says, made here from
//! source. It needs no module of the kernel that is not built in.

use std::path::Path;
use std::process::Command;

/// What the init does is decided by the measured command line: `test.fail` makes it give up.
const INIT: &str = r#"
use std::ffi::{CString, c_char, c_int, c_ulong, c_void};
use std::fs;
use std::io::{Read, Write};

unsafe extern "C" {
    fn mount(s: *const c_char, t: *const c_char, k: *const c_char, f: c_ulong, d: *const c_void) -> c_int;
    fn reboot(how: c_int) -> c_int;
}

fn mounted(kind: &str, target: &str) {
    let _ = fs::create_dir_all(target);
    let (kind, target) = (CString::new(kind).unwrap(), CString::new(target).unwrap());
    unsafe { mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
}

fn port(name: &str) -> fs::File {
    for entry in fs::read_dir("/sys/class/virtio-ports").unwrap().flatten() {
        let found = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if found.trim() == name {
            let path = std::path::Path::new("/dev").join(entry.file_name());
            return fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        }
    }
    panic!("no port {name}");
}

fn main() {
    mounted("sysfs", "/sys");
    mounted("devtmpfs", "/dev");
    mounted("proc", "/proc");
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap();
    let mut stage = port("casemate.stage");
    stage.write_all(&[0x01, 0xfe, b'\n', 0x02]).unwrap();
    if cmdline.contains("test.fail") {
        stage.write_all(&[0x83]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
        unsafe { reboot(0x4321_fedc) };
    }
    if cmdline.contains("test.off") {
        unsafe { reboot(0x4321_fedc) };
    }
    stage.write_all(&[0x03, 0x04, 0x05, 0x06, 0x10]).unwrap();
    let mut psp = port("casemate.psp");
    for filling in [7_u8, 9] {
        let mut request = b"CMPSP1RQ".to_vec();
        request.extend_from_slice(&[filling; 64]);
        psp.write_all(&request).unwrap();
        let mut head = [0; 12];
        psp.read_exact(&mut head).unwrap();
        assert_eq!(&head[..8], b"CMPSP1RS");
        let mut report = vec![0; u32::from_le_bytes(head[8..].try_into().unwrap()) as usize];
        psp.read_exact(&mut report).unwrap();
        assert_eq!(report[0x50..0x90], [filling; 64]);
        let mut len = [0; 4];
        psp.read_exact(&mut len).unwrap();
        let mut certificates = vec![0; u32::from_le_bytes(len) as usize];
        psp.read_exact(&mut certificates).unwrap();
    }
    stage.write_all(&[0x11, 0x12, 0x13]).unwrap();
    let mut asked = [0];
    loop {
        if stage.read(&mut asked).is_ok_and(|len| len == 1) && asked == [0x70] {
            stage.write_all(&[0x30]).unwrap();
            unsafe { reboot(0x4321_fedc) };
        }
    }
}
"#;

/// The init as an initrd, compiled statically.
pub(crate) fn initrd(dir: &Path) -> Vec<u8> {
    let (source, program) = (dir.join("init.rs"), dir.join("init"));
    std::fs::write(&source, INIT).unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--edition=2024", "-Cpanic=abort", "-Copt-level=1", "-Ctarget-feature=+crt-static"])
        .arg("-o")
        .args([&program, &source])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut archive = Vec::new();
    // Without a console the kernel opens no standard streams, and std needs this in their place.
    add(&mut archive, "dev", 0o040_755, b"");
    add(&mut archive, "dev/null", 0o020_666, b"");
    add(&mut archive, "init", 0o100_755, &std::fs::read(&program).unwrap());
    add(&mut archive, "TRAILER!!!", 0, b"");
    archive
}

/// One file of a cpio archive in the kernel's "newc" format.
fn add(archive: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    let device = if mode & 0o170_000 == 0o020_000 { (1, 3) } else { (0, 0) };
    let len = u32::try_from(data.len()).unwrap();
    let fields = [1, mode, 0, 0, 1, 0, len, 0, 0, device.0, device.1];
    archive.extend_from_slice(b"070701");
    for field in fields.into_iter().chain([u32::try_from(name.len() + 1).unwrap(), 0]) {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(data);
    archive.resize(archive.len().next_multiple_of(4), 0);
}
