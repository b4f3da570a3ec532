//! SIMULATED. The software security processor: measures the bytes that QEMU is given, answers
//! requests for reports on a socket.
//!
//! It plays the part that firmware of the chip plays on an SNP host, so it reads the files
//! themselves and takes no digest from a plan. The guest writes the requests: they are read with
//! bounds and answered one at a time.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use casemate_measurements::firmware::{Firmware, FirmwareError};
use casemate_measurements::hash::{LaunchDigest, ReportData, Sha256Hash};
use casemate_measurements::id_block::IdBlockError;
use casemate_measurements::kernel_hashes::{KernelHashes, KernelHashesError, TABLE_LEN};
use casemate_measurements::law::{Law, LawError};
use casemate_measurements::report::{IdBlockFields, Unsigned};
use casemate_measurements::simulated::{self, REQUEST_LEN, Response};
use rsa::rand_core::{OsRng, RngCore as _};

use crate::authority::Chip;
use crate::machine::Machine;
use crate::release;

/// Why a machine cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum PspError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The firmware is refused.
    #[error("{} cannot be measured", path.display())]
    Firmware {
        /// Which.
        path: PathBuf,
        /// Why.
        source: FirmwareError,
    },
    /// The kernel is refused.
    #[error("{} cannot be measured", path.display())]
    Kernel {
        /// Which.
        path: PathBuf,
        /// Why.
        source: KernelHashesError,
    },
    /// The ID block is refused: the VM never runs.
    #[error("the launch is not finished")]
    IdBlock(#[from] IdBlockError),
    /// Firmware and kernel cannot be measured together.
    #[error("{} and the kernel cannot be measured together", path.display())]
    Law {
        /// The firmware.
        path: PathBuf,
        /// Why.
        source: LawError,
    },
}

/// What a machine measures to, by the bytes that it is started from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Measured {
    /// The table that the firmware finds in memory.
    pub(crate) table: [u8; TABLE_LEN],
    /// The launch digest.
    pub(crate) digest: LaunchDigest,
}

/// Reads the files and measures them. `forged` is a table to place in place of the true one; as
/// on an SNP host, what is placed is what is measured.
pub(crate) fn measure(
    machine: &Machine,
    forged: Option<&KernelHashes>,
) -> Result<Measured, PspError> {
    let path = &machine.firmware;
    let bytes = fs::read(path).map_err(|source| PspError::Read { path: path.clone(), source })?;
    let firmware = Firmware::parse(&bytes)
        .map_err(|source| PspError::Firmware { path: path.clone(), source })?;
    let hashes = match forged {
        Some(hashes) => *hashes,
        None => KernelHashes::from_digests(
            hash(&machine.kernel)?,
            hash(&machine.initrd)?,
            machine.cmdline.as_bytes(),
        ),
    };
    let law = Law::new(&firmware, &hashes)
        .map_err(|source| PspError::Law { path: path.clone(), source })?;
    Ok(Measured { table: hashes.table(), digest: law.digest(&machine.shape) })
}

fn hash(path: &Path) -> Result<Sha256Hash, PspError> {
    let fail = |source| PspError::Read { path: path.to_owned(), source };
    release::hash(&mut fs::File::open(path).map_err(fail)?).map_err(fail)
}

/// SIMULATED: the security processor of one VM.
#[derive(Debug)]
pub(crate) struct Processor {
    chip: Chip,
    fields: Unsigned,
}

impl Processor {
    /// The processor of a machine that was measured: finishes the launch.
    ///
    /// # Errors
    /// When the ID block is not of this launch.
    pub(crate) fn new(
        chip: Chip,
        machine: &Machine,
        digest: LaunchDigest,
    ) -> Result<Self, PspError> {
        let id_block = match &machine.id_block {
            None => IdBlockFields::NONE,
            Some(id_block) => id_block.verify(&digest, machine.policy)?.into(),
        };
        let mut report_id = [0; 32];
        OsRng.fill_bytes(&mut report_id);
        let fields = Unsigned {
            policy: machine.policy,
            measurement: digest,
            host_data: machine.host_data,
            report_id,
            id_block,
            ..Unsigned::genoa()
        };
        Ok(Self { chip, fields })
    }

    fn answer(&self, report_data: ReportData) -> Response {
        let fields = Unsigned { report_data, ..self.fields.clone() };
        let certificates = self.chip.certificates().to_vec();
        Response::Report { report: self.chip.sign(&fields).to_vec(), certificates }
    }

    /// Answers requests until the other end is gone.
    pub(crate) fn serve(&self, stream: &mut (impl Read + Write)) -> io::Result<()> {
        let mut request = [0; REQUEST_LEN];
        loop {
            match stream.read_exact(&mut request) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
            let response = match simulated::decode_request(&request) {
                Ok(report_data) => self.answer(report_data),
                Err(error) => Response::Refused(error.to_string()),
            };
            let bytes = simulated::encode_response(&response).map_err(io::Error::other)?;
            stream.write_all(&bytes)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Authority;
    use crate::id_block::MachineIdBlock;
    use crate::machine::{Backing, HashesTable, Memory};
    use casemate_measurements::certificates::CertificateTable;
    use casemate_measurements::chain::{ChainError, EndorsedKey, UnixTime};
    use casemate_measurements::evidence::Base64Bytes;
    use casemate_measurements::hash::{FamilyId, HostData, ImageId, Sha384Hash};
    use casemate_measurements::id_block::{self, IdBlock, PublicKey};
    use casemate_measurements::launch::{GuestFeatures, Shape, VcpuCount, Vmm};
    use casemate_measurements::platform::Platform;
    use casemate_measurements::policy::GuestPolicy;
    use casemate_measurements::report::Report;
    use casemate_measurements::roots::Roots;
    use casemate_measurements::tcb::Tcb;
    use p384::ecdsa::signature::Signer as _;
    use p384::ecdsa::{Signature, SigningKey};
    use std::os::unix::net::UnixStream;
    use std::time::{SystemTime, UNIX_EPOCH};

    const TCB: Tcb = Tcb { fmc: 0, bootloader: 3, tee: 1, snp: 22, microcode: 72 };

    fn machine() -> Machine {
        Machine {
            name: "vm-1".into(),
            backing: Backing::Simulated(HashesTable { gpa: 0 }),
            shape: Shape {
                vmm: Vmm::Qemu,
                cpu_model: "EPYC-v4".parse().unwrap(),
                guest_features: GuestFeatures::SNP_ACTIVE,
                vcpus: VcpuCount::new(1).unwrap(),
            },
            memory: Memory::from_mib(512).unwrap(),
            policy: GuestPolicy::default(),
            id_block: None,
            host_data: HostData::from_bytes([5; 32]),
            firmware: PathBuf::new(),
            kernel: PathBuf::new(),
            initrd: PathBuf::new(),
            cmdline: String::new(),
            root_disk: PathBuf::new(),
            network: crate::network::Link::User,
            forwards: Vec::new(),
            passthrough: None,
            extra_disks: Vec::new(),
            consoles: Vec::new(),
        }
    }

    fn now() -> UnixTime {
        UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs())
    }

    fn ask(stream: &mut UnixStream, request: &[u8]) -> Response {
        stream.write_all(request).unwrap();
        let mut bytes = Vec::new();
        loop {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            bytes.push(byte[0]);
            if let Ok(Some((response, _))) = simulated::decode_response(&bytes) {
                return response;
            }
        }
    }

    #[test]
    fn reports_are_genuine_under_their_own_root_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("state/simulated");
        let authority = Authority::open_or_make(&kept).unwrap();
        let chip = Authority::open_or_make(&kept).unwrap().chip(TCB).unwrap();
        let digest = LaunchDigest::from_bytes([3; 48]);
        let processor = Processor::new(chip, &machine(), digest).unwrap();
        let (mut guest, mut host) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || processor.serve(&mut host));
        let report_data = ReportData::from_bytes([9; 64]);
        let response = ask(&mut guest, &simulated::encode_request(&report_data));
        let Response::Report { report, certificates } = response else { panic!("{response:?}") };
        assert!(matches!(ask(&mut guest, &[b'x'; REQUEST_LEN]), Response::Refused(_)));
        drop(guest);
        server.join().unwrap().unwrap();

        let report = Report::parse(&report).unwrap();
        assert_eq!(report.report_data(), report_data);
        assert_eq!(report.measurement(), digest);
        assert_eq!(report.host_data(), HostData::from_bytes([5; 32]));
        let table = CertificateTable::parse(&certificates).unwrap();
        let pem = fs::read(kept.join("ark.pem")).unwrap();
        assert_eq!(pem, authority.root_pem().unwrap().into_bytes());
        let roots = Roots::amd().unwrap().with_simulated(&pem).unwrap();
        let verify =
            |roots: &Roots, platform, at| EndorsedKey::verify(&table, &report, platform, roots, at);
        let key = verify(&roots, Platform::Simulated, now()).unwrap();
        assert_eq!(key.check_tcb(&report).unwrap(), TCB);
        assert!(key.check_chip(&report).unwrap());
        key.verify_report(report.clone()).unwrap();
        let mut forged = report.as_bytes().to_vec();
        forged[0x90] ^= 1;
        let forged = Report::parse(&forged).unwrap();
        assert!(matches!(key.verify_report(forged), Err(ChainError::ReportSignature { .. })));

        let amd = Roots::amd().unwrap();
        assert!(verify(&amd, Platform::Simulated, now()).is_err());
        assert!(verify(&roots, Platform::Snp, now()).is_err());
        let late = UnixTime(now().0 + 30 * 365 * 24 * 3600);
        assert!(matches!(
            verify(&roots, Platform::Simulated, late),
            Err(ChainError::Validity { .. })
        ));
        keys_are_private(&kept);
    }

    /// An ID block for a digest, signed by a key of its own; the key's digest.
    fn id_block(digest: LaunchDigest) -> (MachineIdBlock, Sha384Hash) {
        let block = IdBlock {
            launch_digest: digest,
            family_id: FamilyId::from_bytes([0xfa; 16]),
            image_id: ImageId::from_bytes([0x1d; 16]),
            guest_svn: 7,
            policy: GuestPolicy::default(),
        };
        let key = SigningKey::from_slice(&[9; 48]).unwrap();
        let point = key.verifying_key().to_encoded_point(false);
        let public = PublicKey::from_sec1(point.as_bytes()).unwrap();
        let signature: Signature = key.sign(&block.to_bytes());
        let (r, s) = signature.split_bytes();
        let signature = id_block::Signature::from_raw(&[r, s].concat()).unwrap();
        let auth = id_block::auth_bytes(&public, &signature, None);
        let block = Base64Bytes(block.to_bytes().to_vec());
        let auth = Base64Bytes(auth.to_vec());
        (MachineIdBlock { block, auth, author_key_enabled: false }, public.digest())
    }

    #[test]
    fn a_launch_is_finished_with_its_own_block_alone() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_make(&dir.path().join("simulated")).unwrap();
        let finish = |digest, id_block| {
            let machine = Machine { id_block: Some(id_block), ..machine() };
            Processor::new(authority.chip(TCB).unwrap(), &machine, digest)
        };
        let digest = LaunchDigest::from_bytes([3; 48]);
        let (block, key) = id_block(digest);
        let processor = finish(digest, block.clone()).unwrap();
        let answer = processor.answer(ReportData::from_bytes([0; 64]));
        let Response::Report { report, .. } = answer else { panic!("{answer:?}") };
        let report = Report::parse(&report).unwrap();
        assert_eq!(report.id_key_digest(), key);
        assert_eq!((report.guest_svn(), report.has_author_key()), (7, false));
        assert_eq!(report.family_id(), FamilyId::from_bytes([0xfa; 16]));
        assert_eq!(report.image_id(), ImageId::from_bytes([0x1d; 16]));

        let refused = |digest, block| match finish(digest, block) {
            Err(PspError::IdBlock(error)) => error.to_string(),
            other => panic!("{other:?}"),
        };
        let other = LaunchDigest::from_bytes([4; 48]);
        assert!(refused(other, block.clone()).contains("BAD_MEASUREMENT"));
        let mut unsigned = block.clone();
        unsigned.block.0[0x54] ^= 1;
        assert!(refused(digest, unsigned).contains("BAD_SIGNATURE"));
        let mut allowing = block;
        allowing.block.0[0x5a] |= 1 << 3;
        assert!(refused(digest, allowing).contains("POLICY_FAILURE"));
    }

    fn keys_are_private(dir: &Path) {
        use std::os::unix::fs::PermissionsExt as _;
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", path.display());
            let text = fs::read_to_string(&path).unwrap();
            let key = text.contains("PRIVATE KEY");
            assert_eq!(key, path.ends_with("ask.key"), "{}", path.display());
        }
    }
}
