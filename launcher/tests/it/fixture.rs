//! A release that is small and complete: firmware with the tables that decide digests, a kernel
//! with the magic of one, a root disk of zeros.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use casemate_launcher::committed::Committed;
use casemate_launcher::host::{HostFacts, Kvm, Qemu, QemuVersion, SevFacts};
use casemate_launcher::machine::Memory;
use casemate_launcher::network::Network;
use casemate_launcher::plan::{AccelChoice, LaunchRequest};
use casemate_measurements::cmdline::BootParams;
use casemate_measurements::firmware::Firmware;
use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::identity::Identity;
use casemate_measurements::kernel_hashes::KernelHashes;
use casemate_measurements::launch::{GuestFeatures, Shape, VcpuCount, Vmm};
use casemate_measurements::law::Law;
use casemate_measurements::manifest::{Artifact, Boot, Inputs, Manifest, Release, artifact};
use casemate_measurements::platform::Platform;
use casemate_measurements::policy::GuestPolicy;
use casemate_measurements::policy::kvm::LinuxVersion;
use casemate_measurements::verity::Verity;

/// What goes into a release.
#[derive(Debug, Clone)]
pub(crate) struct Contents {
    pub(crate) platform: Platform,
    pub(crate) firmware: Vec<u8>,
    pub(crate) kernel: Vec<u8>,
    pub(crate) initrd: Vec<u8>,
    pub(crate) cmdline: String,
    pub(crate) id_block: Option<Identity>,
    pub(crate) policy: GuestPolicy,
    pub(crate) address_bits: Option<u8>,
    /// The CPU models of its reference values.
    pub(crate) models: &'static [&'static str],
}

impl Contents {
    /// Nothing that boots.
    pub(crate) fn unbootable(platform: Platform) -> Self {
        let mut kernel = vec![0; 4096];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        let (firmware, initrd) = (firmware(), b"initrd".to_vec());
        Self {
            platform,
            firmware,
            kernel,
            initrd,
            cmdline: "console=ttynull".into(),
            id_block: None,
            policy: GuestPolicy::default(),
            address_bits: None,
            models: &["EPYC-v4", "EPYC-Genoa"],
        }
    }

    /// Writes the release.
    pub(crate) fn write(&self, dir: &Path) -> Manifest {
        fs::create_dir_all(dir).unwrap();
        let verity = Verity {
            root_hash: Sha256Hash::of(b"root"),
            salt: "0a0b".parse().unwrap(),
            data_blocks: 1,
            hash_block: 1,
        };
        let params = BootParams { platform: self.platform, verity: verity.clone() };
        let cmdline = params.append_to(&self.cmdline);
        let root = vec![0; 8192];
        let files: BTreeMap<&str, &[u8]> = BTreeMap::from([
            (artifact::CMDLINE, cmdline.as_bytes()),
            (artifact::FIRMWARE, &self.firmware),
            (artifact::INITRD, &self.initrd),
            (artifact::ROOT, &root),
            (artifact::SBOM, b"{}"),
            (artifact::KERNEL, &self.kernel),
        ]);
        let mut artifacts = BTreeMap::new();
        for (name, bytes) in files {
            fs::write(dir.join(name), bytes).unwrap();
            let (sha256, size) = (Sha256Hash::of(bytes), bytes.len() as u64);
            artifacts.insert(name.to_owned(), Artifact { sha256, size });
        }
        let firmware = Firmware::parse(&self.firmware).unwrap();
        let hashes = KernelHashes::of(&self.kernel, &self.initrd, cmdline.as_bytes());
        let law = Law::new(&firmware, &hashes).unwrap();
        let shape = |vcpus, model: &str| Shape {
            vmm: Vmm::Qemu,
            cpu_model: model.parse().unwrap(),
            guest_features: GuestFeatures::SNP_ACTIVE,
            vcpus: VcpuCount::new(vcpus).unwrap(),
        };
        let of_each = |n| self.models.iter().map(move |model| shape(n, model));
        let shapes: Vec<Shape> = [1, 2, 4].into_iter().flat_map(of_each).collect();
        let none = Sha256Hash::of(b"");
        let manifest = Manifest {
            schema: Manifest::SCHEMA,
            release: Release {
                name: "test".into(),
                version: "1.0".into(),
                platform: self.platform,
            },
            artifacts,
            boot: Boot { cmdline, verity },
            inputs: Inputs {
                recipe_sha256: none,
                lock_sha256: none,
                overlay_sha256: none,
                guest_sha256: none,
            },
            firmware_address_bits: self.address_bits,
            guest_policy: self.policy,
            id_block: self.id_block.clone(),
            reference_values: Manifest::table(&law, &shapes),
            law,
        };
        fs::write(dir.join("manifest.json"), manifest.to_bytes().unwrap()).unwrap();
        manifest
    }
}

/// One page of firmware: a table with the three entries that SNP needs, two sections.
fn firmware() -> Vec<u8> {
    let mut bytes = vec![0xff; 4096];
    let sections: [[u32; 3]; 2] = [[0x80_0000, 0x1000, 1], [0x81_0000, 0x1000, 0x10]];
    let header = [u32::from_le_bytes(*b"ASEV"), 16 + 24, 1, 2];
    let metadata: Vec<u8> = header
        .iter()
        .chain(sections.iter().flatten())
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let offset = 1024_usize;
    let start = bytes.len() - offset;
    bytes[start..start + metadata.len()].copy_from_slice(&metadata);
    let mut table = Vec::new();
    let entries: [(&[u32], &str); 3] = [
        (&[0x80_b004], "de71f700 7e1a cb4f 890e68c77e2fb44e"),
        (&[0x81_0c00, 0x400], "1f375572 3b3a 044b 927b1da6efa8d454"),
        (&[1024], "666588dc 4a98 9847 a75e5585a7bf67cc"),
    ];
    for (words, guid) in entries {
        let data: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        table.extend_from_slice(&data);
        table.extend_from_slice(&u16::try_from(data.len() + 18).unwrap().to_le_bytes());
        table.extend_from_slice(&unhex(guid));
    }
    table.extend_from_slice(&u16::try_from(table.len() + 18).unwrap().to_le_bytes());
    table.extend_from_slice(&unhex("de82b596 b21f f745 baeaa366c55a082d"));
    let end = bytes.len() - 32;
    bytes[end - table.len()..end].copy_from_slice(&table);
    bytes
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
}

/// An SNP host with a new QEMU.
pub(crate) fn snp_host() -> HostFacts {
    HostFacts {
        qemu: Qemu {
            path: "/usr/bin/qemu-system-x86_64".into(),
            version: QemuVersion { major: 10, minor: 1 },
            sandbox: true,
        },
        kvm: Kvm::Untried,
        sev: Ok(SevFacts { cbitpos: 51, reduced_phys_bits: 1 }),
        linux: LinuxVersion::from_release("6.12.0"),
        memory: None,
        committed: Committed::default(),
        gpus: None,
    }
}

/// A host with Debian 12's QEMU and no SNP.
pub(crate) fn plain_host() -> HostFacts {
    let mut host = snp_host();
    host.qemu.version = QemuVersion { major: 7, minor: 2 };
    host.sev = Err("no such module".into());
    host
}

/// A request for two vCPUs.
pub(crate) fn request(platform: Platform, name: &str) -> LaunchRequest {
    LaunchRequest {
        name: name.parse().unwrap(),
        platform,
        vcpus: VcpuCount::new(2).unwrap(),
        cpu_model: None,
        memory: Memory::from_mib(1024).unwrap(),
        ssh_keys: vec![
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINKMoZLYIM1iILDmcGCET4hmst6xlvqn760ZMvCs7UG/ me"
                .into(),
        ],
        ssh_port: 2222,
        evidence_port: 8443,
        network: Network::User,
        gpus: None,
        accel: AccelChoice::Auto,
        timeouts: None,
        extra_disks: Vec::new(),
        consoles: Vec::new(),
    }
}

/// A folder of this package.
pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}
