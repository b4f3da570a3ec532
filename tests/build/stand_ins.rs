//! The images whose driver comes from NVIDIA's own archive, built from a stand-in for it: a signed
//! flat archive with small packages of the names and files that the recipes speak of. It proves
//! the path, from the second archive's key to modules compiled against the image's kernel. It
//! proves nothing of NVIDIA's packages.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use casemate_measurements::hash::Sha256Hash;
use casemate_tests::{casemate, expect_code, required};

use crate::move_away;

/// The key that the recipe names, which no stand-in can sign with.
const NVIDIA: &str = "EB693B3035CD5710E231E123A4B469963BF863CC";
const VERSION: &str = "580.0-1";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu/nvidia/current";

/// Package, file, contents.
const FILES: [(&str, &str, &str); 10] = [
    ("firmware-nvidia-gsp", "usr/lib/firmware/nvidia/580.0/gsp_ga10x.bin", "stand-in"),
    ("libcuda1", "libcuda.so.1", "stand-in"),
    ("libnvidia-cfg1", "libnvidia-cfg.so.1", "stand-in"),
    ("libnvidia-ml1", "libnvidia-ml.so.1", "stand-in"),
    ("libnvidia-pkcs11-openssl3", "libnvidia-pkcs11-openssl3.so.580", "stand-in"),
    ("libnvidia-ptxjitcompiler1", "libnvidia-ptxjitcompiler.so.1", "stand-in"),
    ("nvidia-modprobe", "usr/bin/nvidia-modprobe", "#!/bin/sh\n"),
    ("nvidia-persistenced", "usr/bin/nvidia-persistenced", "#!/bin/sh\n"),
    ("nvidia-smi", "usr/lib/nvidia/current/nvidia-smi", "#!/bin/sh\n"),
    ("nvidia-kernel-open-dkms", "usr/src/nvidia-580.0/Makefile", MAKEFILE),
];

/// Three modules, compiled by the kernel's own build system as NVIDIA's are.
const MAKEFILE: &str = "obj-m := nvidia.o nvidia-modeset.o nvidia-uvm.o\n\
    modules:\n\t$(MAKE) -C $(SYSOUT) M=$(CURDIR) CC=$(CC) LD=$(LD) modules\n";
const MODULE: &str = "#include <linux/module.h>\n\
    static int __init start(void) { pr_info(\"stand-in\\n\"); return -ENODEV; }\n\
    module_init(start);\nMODULE_LICENSE(\"GPL\");\n";

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Makes a package and returns what the index says of it.
fn package(archive: &Path, name: &str, file: &str, text: &str) -> String {
    let tree = tempfile::tempdir().unwrap();
    let root = tree.path().join(name);
    let path = if file.contains('/') { file.to_owned() } else { format!("{LIBRARIES}/{file}") };
    put(&root, &path, text);
    if text == MAKEFILE {
        for module in ["nvidia", "nvidia-modeset", "nvidia-uvm"] {
            put(&root, &format!("usr/src/nvidia-580.0/{module}.c"), MODULE);
        }
    }
    if path.contains("/bin/") || path.ends_with("nvidia-smi") {
        let _ = expect_code(0, Command::new("chmod").arg("0755").arg(root.join(&path)));
    }
    let control = format!(
        "Package: {name}\nVersion: {VERSION}\nArchitecture: amd64\nMaintainer: A <a@b>\n\
         Description: stand-in\n"
    );
    put(&root, "DEBIAN/control", &control);
    let deb = format!("{name}_{VERSION}_amd64.deb");
    let mut command = Command::new("dpkg-deb");
    command.args(["--root-owner-group", "-Zxz", "--build"]).arg(&root).arg(archive.join(&deb));
    let _ = expect_code(0, &mut command);
    let bytes = std::fs::read(archive.join(&deb)).unwrap();
    let (len, hash) = (bytes.len(), Sha256Hash::of(&bytes));
    format!("{control}Filename: ./{deb}\nSize: {len}\nSHA256: {hash}\n")
}

/// A key of its own, and what it signs.
struct Key {
    home: PathBuf,
    fingerprint: String,
}

impl Key {
    fn make(dir: &Path) -> Self {
        // gpg's sockets need a short path.
        let home = dir.join("gpg");
        std::fs::create_dir(&home).unwrap();
        let _ = expect_code(0, Command::new("chmod").arg("0700").arg(&home));
        let mut key = Self { home, fingerprint: String::new() };
        key.gpg(&["--passphrase", "", "--quick-gen-key", "test", "ed25519", "sign", "never"]);
        let listed = String::from_utf8(key.gpg(&["--with-colons", "--list-keys"])).unwrap();
        let line = listed.lines().find(|line| line.starts_with("fpr:")).unwrap();
        line.split(':').nth(9).unwrap().clone_into(&mut key.fingerprint);
        key
    }

    fn gpg(&self, arguments: &[&str]) -> Vec<u8> {
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(&self.home).arg("--batch").args(arguments);
        expect_code(0, &mut command).stdout
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        let mut kill = Command::new("gpgconf");
        let _ = kill.arg("--homedir").arg(&self.home).args(["--kill", "all"]).status();
    }
}

/// The signed archive in `dir`.
fn archive(dir: &Path, key: &Key) {
    std::fs::create_dir_all(dir).unwrap();
    let stanzas = FILES.map(|(name, file, text)| package(dir, name, file, text));
    let index = stanzas.join("\n");
    std::fs::write(dir.join("Packages"), index).unwrap();
    let _ = expect_code(0, Command::new("gzip").arg("-n").arg(dir.join("Packages")));
    let index = std::fs::read(dir.join("Packages.gz")).unwrap();
    let mut release = "Origin: Stand-in\nDate: Sat, 12 Sep 2026 07:55:41 UTC\nSHA256:\n".to_owned();
    writeln!(release, " {} {} Packages.gz", Sha256Hash::of(&index), index.len()).unwrap();
    std::fs::write(dir.join("Release"), release).unwrap();
    let path = |name: &str| dir.join(name).display().to_string();
    let _ = key.gpg(&["--clearsign", "--output", &path("InRelease"), &path("Release")]);
    std::fs::write(dir.join("key.asc"), key.gpg(&["--armor", "--export"])).unwrap();
}

#[test]
fn images_with_stages_of_a_second_archive_build_from_stand_ins() {
    if !required("images") {
        return eprintln!("skipped: images that compile for minutes are built by `make images`");
    }
    let dir = tempfile::Builder::new().prefix("cm-s").tempdir_in("/var/tmp").unwrap();
    let key = Key::make(dir.path());
    let debs = dir.path().join("archive");
    archive(&debs, &key);
    let place = dir.path().join("place");
    move_away(&place);
    let mirror = format!("nvidia=file://{}", debs.display());
    for name in ["gpu-rtx-pro-6000", "gpu-blackwell"] {
        let recipe = place.join("images").join(name);
        let lock = || {
            let mut command = casemate(["image", "lock"]);
            command.arg(&recipe).args(["--mirror", &mirror]).arg("--keyring");
            command.arg("/usr/share/keyrings/debian-archive-keyring.gpg").arg("--keyring");
            command.arg(debs.join("key.asc"));
            command
        };
        // Only who the recipe names may sign.
        let base = place.join("images/gpu-rtx-pro-6000/image.toml");
        let text = std::fs::read_to_string(&base).unwrap();
        let nvidia = text.replace(&key.fingerprint, NVIDIA);
        assert!(nvidia.contains(NVIDIA));
        std::fs::write(&base, &nvidia).unwrap();
        let refused = expect_code(1, &mut lock());
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.contains(NVIDIA), "{said}");

        std::fs::write(&base, nvidia.replace(NVIDIA, &key.fingerprint)).unwrap();
        let _ = expect_code(0, &mut lock());
        let locked = std::fs::read_to_string(recipe.join("image.lock")).unwrap();
        assert_eq!(locked.matches("archive = \"nvidia\"\n").count(), FILES.len() + 1, "{locked}");

        let release = dir.path().join(name);
        let mut command = casemate(["image", "build", "--platform", "simulated", "--output"]);
        command.arg(&release).arg(&recipe).args(["--mirror", &mirror]);
        let _ = expect_code(0, &mut command);
        let manifest = std::fs::read_to_string(release.join("manifest.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        assert_eq!(manifest["release"]["name"], name);
    }
}
