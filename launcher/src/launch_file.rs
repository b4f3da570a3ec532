//! `launch.toml`: what a person wants launched, in a file. Strict: an unknown field is an error,
//! and every value is checked here, so what it becomes needs no second look.
//!
//! Nothing in it is measured. What the VM is promised of it (name, keys, GPUs) goes into the
//! launch config, whose hash is `HOST_DATA`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use casemate_measurements::launch::{CpuModel, VcpuCount};
use casemate_measurements::platform::Platform;
use serde::Deserialize;

use crate::machine::Memory;
use crate::network::{Interface, Mac, Network};
use crate::plan::AccelChoice;
use crate::serve::restart::Restart;
use crate::state::VmName;
use crate::topology::{GpuChoice, GpuRequest};

/// Most bytes of such a file.
pub const MAX_LEN: usize = 256 * 1024;
/// Ports that are open on a bridge where nothing else is said: SSH and evidence.
const USUAL_PORTS: [u16; 2] = [22, casemate_measurements::evidence::PORT];

/// Why a `launch.toml` is refused.
#[derive(Debug, thiserror::Error)]
pub enum LaunchFileError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is too long.
    #[error("{} has {len} bytes, expected at most {MAX_LEN}", path.display())]
    TooLong {
        /// Which.
        path: PathBuf,
        /// Its length.
        len: usize,
    },
    /// It is not what is expected.
    #[error("{} is no launch.toml", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// Why.
        source: ContentError,
    },
}

/// Why the text of a `launch.toml` is refused.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// It is not the expected TOML.
    #[error("it is malformed")]
    Malformed(#[from] toml::de::Error),
    /// It is of another version.
    #[error("schema is {found}, expected {}", LaunchFile::SCHEMA)]
    Schema {
        /// The version found.
        found: u32,
    },
    /// A value is not what is expected there.
    #[error("{field} is {found}, expected {expected}")]
    Value {
        /// Where.
        field: &'static str,
        /// The value found.
        found: String,
        /// What should stand there.
        expected: String,
    },
}

/// What a person wants launched; what is absent is decided elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LaunchFile {
    /// The release directory, absolute or relative to the folder of the file. The daemon needs it
    /// of a file in its directory of wanted VMs; `run` is given it beside the file.
    pub release: Option<PathBuf>,
    /// When a daemon starts the VM again.
    pub restart: Option<Restart>,
    /// The VM's name.
    pub name: Option<VmName>,
    /// The platform that the release must be of.
    pub platform: Option<Platform>,
    /// vCPUs.
    pub cpus: Option<VcpuCount>,
    /// The model that each claims to be.
    pub cpu_model: Option<CpuModel>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Lines of `authorized_keys`.
    pub ssh_keys: Vec<String>,
    /// Files with such lines, absolute or relative to the folder of the `launch.toml`.
    pub ssh_key_files: Vec<PathBuf>,
    /// The port of 127.0.0.1 that becomes the guest's port 22.
    pub ssh_port: Option<u16>,
    /// The port of 127.0.0.1 that becomes the guest's evidence port.
    pub evidence_port: Option<u16>,
    /// Accelerator.
    pub accel: Option<AccelChoice>,
    /// GPUs.
    pub gpus: Option<GpuRequest>,
    /// Network.
    pub network: Option<Network>,
}

impl LaunchFile {
    /// The version of the format that this code reads.
    pub const SCHEMA: u32 = 1;

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or as [`LaunchFile::parse`].
    pub fn read(path: &Path) -> Result<Self, LaunchFileError> {
        let fail = |source| LaunchFileError::Read { path: path.to_owned(), source };
        let text = fs::read_to_string(path).map_err(fail)?;
        if text.len() > MAX_LEN {
            return Err(LaunchFileError::TooLong { path: path.to_owned(), len: text.len() });
        }
        let mut file = Self::parse(&text)
            .map_err(|source| LaunchFileError::Content { path: path.to_owned(), source })?;
        file.relative_to(path.parent().unwrap_or(Path::new(".")));
        Ok(file)
    }

    /// Makes the paths in it those of files in `folder`.
    pub(crate) fn relative_to(&mut self, folder: &Path) {
        for path in self.ssh_key_files.iter_mut().chain(&mut self.release) {
            *path = folder.join(&path);
        }
    }

    /// Reads the text of one.
    ///
    /// # Errors
    /// When it is malformed, of another version, or has a value that cannot be.
    pub fn parse(text: &str) -> Result<Self, ContentError> {
        let raw: Raw = toml::from_str(text)?;
        if raw.schema != Self::SCHEMA {
            return Err(ContentError::Schema { found: raw.schema });
        }
        let cpus = |count| value("cpus", &count, VcpuCount::new(count));
        Ok(Self {
            release: raw.release,
            restart: raw.restart,
            name: parsed("name", raw.name)?,
            platform: raw.platform.as_deref().map(platform).transpose()?,
            cpus: raw.cpus.map(cpus).transpose()?,
            cpu_model: parsed("cpu_model", raw.cpu_model)?,
            memory: parsed("memory", raw.memory)?,
            ssh_keys: raw.ssh_keys,
            ssh_key_files: raw.ssh_key_files,
            ssh_port: raw.ssh_port,
            evidence_port: raw.evidence_port,
            accel: raw.accel.map(Into::into),
            gpus: raw.gpus.map(RawGpus::check).transpose()?,
            network: raw.network.map(RawNetwork::check).transpose()?,
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    schema: u32,
    release: Option<PathBuf>,
    restart: Option<Restart>,
    name: Option<String>,
    platform: Option<String>,
    cpus: Option<u64>,
    cpu_model: Option<String>,
    memory: Option<String>,
    #[serde(default)]
    ssh_keys: Vec<String>,
    #[serde(default)]
    ssh_key_files: Vec<PathBuf>,
    ssh_port: Option<u16>,
    evidence_port: Option<u16>,
    accel: Option<RawAccel>,
    gpus: Option<RawGpus>,
    network: Option<RawNetwork>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawAccel {
    Auto,
    Kvm,
    Tcg,
}

impl From<RawAccel> for AccelChoice {
    fn from(accel: RawAccel) -> Self {
        match accel {
            RawAccel::Auto => Self::Auto,
            RawAccel::Kvm => Self::Kvm,
            RawAccel::Tcg => Self::Tcg,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGpus {
    family: Option<String>,
    count: Option<u8>,
    #[serde(default)]
    addresses: Vec<String>,
    board: Option<String>,
}

impl RawGpus {
    fn check(self) -> Result<GpuRequest, ContentError> {
        let choice = match (self.count, self.addresses.is_empty()) {
            (Some(0) | None, true) => {
                let found = self.count.map_or("absent".to_owned(), |count| count.to_string());
                return Err(refused("gpus.count", &found, &"1 at least, or gpus.addresses"));
            }
            (Some(count), true) => GpuChoice::Any { family: self.family, count },
            (None, false) if self.family.is_none() => {
                let address = |text: &String| value("gpus.addresses", text, text.parse());
                GpuChoice::These(self.addresses.iter().map(address).collect::<Result<_, _>>()?)
            }
            (_, false) => {
                let expected = "alone, without gpus.count and gpus.family";
                return Err(refused("gpus.addresses", &"given", &expected));
            }
        };
        Ok(GpuRequest { choice, board: self.board })
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind", deny_unknown_fields)]
enum RawNetwork {
    User {},
    Isolated {},
    Tap { bridge: String, mac: Option<String>, open: Option<Vec<u16>> },
    Macvtap { parent: String, mac: Option<String> },
}

impl RawNetwork {
    fn check(self) -> Result<Network, ContentError> {
        Ok(match self {
            Self::User {} => Network::User,
            Self::Isolated {} => Network::Isolated,
            Self::Tap { bridge, mac, open } => Network::Tap {
                bridge: value("network.bridge", &bridge, bridge.parse::<Interface>())?,
                mac: parsed::<Mac>("network.mac", mac)?,
                open: open.unwrap_or_else(|| USUAL_PORTS.into()),
            },
            Self::Macvtap { parent, mac } => Network::Macvtap {
                parent: value("network.parent", &parent, parent.parse::<Interface>())?,
                mac: parsed::<Mac>("network.mac", mac)?,
            },
        })
    }
}

fn refused(
    field: &'static str,
    found: &dyn std::fmt::Display,
    expected: &dyn std::fmt::Display,
) -> ContentError {
    let found = found.to_string().chars().take(80).collect();
    ContentError::Value { field, found, expected: expected.to_string() }
}

fn platform(name: &str) -> Result<Platform, ContentError> {
    let known = Platform::from_name(name);
    known.ok_or_else(|| refused("platform", &name, &"snp or simulated"))
}

/// A value that its type's own words refuse.
fn value<T, E: std::fmt::Display>(
    field: &'static str,
    found: &dyn std::fmt::Display,
    result: Result<T, E>,
) -> Result<T, ContentError> {
    result.map_err(|error| refused(field, found, &format!("another: {error}")))
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    field: &'static str,
    text: Option<String>,
) -> Result<Option<T>, ContentError> {
    text.map(|text| value(field, &text, text.parse())).transpose()
}

#[cfg(test)]
mod tests {
    use crate::serve::restart::When;

    use super::*;

    const FULL: &str = r#"
        schema = 1
        release = "/srv/out"
        restart = {when = "always"}
        name = "vm-1"
        platform = "snp"
        cpus = 16
        cpu_model = "EPYC-Genoa"
        memory = "128G"
        ssh_keys = ["ssh-ed25519 AAAA me"]
        ssh_key_files = ["key.pub"]
        ssh_port = 2222
        evidence_port = 8443
        accel = "kvm"

        [gpus]
        family = "h100-sxm"
        count = 1
        board = "G520_0200_885"

        [network]
        kind = "tap"
        bridge = "br0"
        mac = "02:00:5e:10:00:01"
        open = [22]
    "#;

    #[test]
    fn every_field_is_read() {
        let file = LaunchFile::parse(FULL).unwrap();
        assert_eq!(file.release.as_deref(), Some(Path::new("/srv/out")));
        assert_eq!(file.restart.map(|restart| restart.when), Some(When::Always));
        assert_eq!(file.cpus.map(VcpuCount::get), Some(16));
        assert_eq!(file.memory.map(Memory::mib), Some(128 * 1024));
        let gpus = file.gpus.unwrap();
        let choice = GpuChoice::Any { family: Some("h100-sxm".into()), count: 1 };
        assert_eq!((gpus.choice, gpus.board.as_deref()), (choice, Some("G520_0200_885")));
        let Some(Network::Tap { bridge, mac, open }) = file.network else { panic!() };
        assert_eq!((bridge.as_str(), open), ("br0", vec![22]));
        assert_eq!(mac.map(|mac| mac.to_string()).as_deref(), Some("02:00:5e:10:00:01"));
        assert_eq!(LaunchFile::parse("schema = 1").unwrap(), LaunchFile::default());
        let named = "schema = 1\n[gpus]\naddresses = [\"0000:41:00.0\"]";
        let choice = LaunchFile::parse(named).unwrap().gpus.unwrap().choice;
        assert_eq!(choice, GpuChoice::These(vec!["0000:41:00.0".parse().unwrap()]));
        let alone = LaunchFile::parse("schema = 1\nnetwork = {kind = \"isolated\"}").unwrap();
        assert_eq!(alone.network, Some(Network::Isolated));
        let tap = "schema = 1\nnetwork = {kind = \"tap\", bridge = \"br0\"}";
        let Some(Network::Tap { open, .. }) = LaunchFile::parse(tap).unwrap().network else {
            panic!()
        };
        assert_eq!(open, [22, 8443]);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (from, to, said) in [
            ("schema = 1", "schema = 2", "schema is 2"),
            ("schema = 1", "", "malformed"),
            ("cpus = 16", "cpus = 0", "cpus is 0"),
            ("cpus = 16", "cpu = 16", "malformed"),
            ("\"128G\"", "\"128\"", "memory is 128"),
            ("\"vm-1\"", "\"../x\"", "name is ../x"),
            ("\"snp\"", "\"SNP\"", "platform is SNP"),
            ("\"EPYC-Genoa\"", "\"Xeon\"", "cpu_model is Xeon"),
            ("\"kvm\"", "\"xen\"", "malformed"),
            ("count = 1", "count = 0", "gpus.count is 0"),
            ("count = 1", "", "gpus.count is absent"),
            ("count = 1", "addresses = [\"0000:41:00.0\"]", "gpus.addresses is given"),
            ("\"tap\"", "\"bridge\"", "malformed"),
            ("\"br0\"", "\"br0;reboot\"", "network.bridge is br0;reboot"),
            ("02:00:5e", "03:00:5e", "network.mac is 03"),
            ("open = [22]", "open = [65536]", "malformed"),
            ("bridge = \"br0\"", "parent = \"br0\"", "malformed"),
        ] {
            assert!(FULL.contains(from), "{from}");
            let error = LaunchFile::parse(&FULL.replacen(from, to, 1)).unwrap_err();
            assert!(error.to_string().contains(said), "{to}: {error}");
        }
    }

    #[test]
    fn key_files_lie_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("launch.toml");
        fs::write(&path, FULL).unwrap();
        let file = LaunchFile::read(&path).unwrap();
        assert_eq!(file.ssh_key_files, [dir.path().join("key.pub")]);
        let missing = LaunchFile::read(&dir.path().join("absent")).unwrap_err();
        assert!(missing.to_string().contains("absent"), "{missing}");
    }
}
