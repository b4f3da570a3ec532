//! The directory of wanted VMs: a file `NAME.toml` for each. A VM whose file appears is started,
//! one whose file goes is stopped. A file that changes while its VM runs changes nothing before
//! the VM was stopped: a VM that works for someone is not taken from him by an edit.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::keep::Trouble;
use super::manager::{Command, Manager};
use super::request::Accepted;
use super::vm::{EventKind, NewEvent, Source};
use crate::devices::Devices;
use crate::host::{HostFacts, free_port};
use crate::launch_file::LaunchFile;
use crate::plan::{LaunchPlan, LaunchRequest};
use crate::release::Release;
use crate::state::{StateRoot, VmName};
use crate::stopping::DEFAULT_TIME;
use casemate_measurements::causes::in_one_line;
use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::platform::Platform;
use casemate_measurements::ssh_key::key_lines;

/// Most bytes of a file.
const MAX_FILE: u64 = 256 * 1024;
/// Most files.
const MAX_FILES: usize = 256;

/// The directory, and what of it was seen already.
#[derive(Debug)]
pub(crate) struct Wanted {
    dir: PathBuf,
    /// The bytes of each file that were tried or spoken of.
    seen: BTreeMap<VmName, String>,
    /// Why the directory could not be read the last time.
    pub(super) unread: Option<Trouble>,
}

impl Wanted {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), seen: BTreeMap::new(), unread: None }
    }

    /// The files, by the name of their VM.
    fn read(&self) -> io::Result<BTreeMap<VmName, Vec<u8>>> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&self.dir)?.take(MAX_FILES) {
            let path = entry?.path();
            let stem = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".toml"));
            let Some(name) = stem.and_then(|stem| stem.parse::<VmName>().ok()) else { continue };
            let mut bytes = Vec::new();
            // One that is being replaced is there at the next look.
            let Ok(file) = fs::File::open(&path) else { continue };
            file.take(MAX_FILE).read_to_end(&mut bytes)?;
            files.insert(name, bytes);
        }
        Ok(files)
    }
}

/// Plans what a file asks for. Hashes the release, so it takes long.
fn plan(
    name: &VmName,
    bytes: &[u8],
    sha256: &str,
    folder: &Path,
    root: &StateRoot,
) -> Result<Accepted, Box<dyn std::error::Error>> {
    let mut file = LaunchFile::parse(std::str::from_utf8(bytes)?)?;
    file.relative_to(folder);
    let missing =
        |what: &str| format!("it has no {what}, expected one in a file of this directory");
    if file.name.as_ref().is_some_and(|other| other != name) {
        return Err("its name is not the file's own: leave it out".into());
    }
    let release = Release::open(&file.release.ok_or_else(|| missing("release"))?)?;
    for path in file.ssh_key_files {
        let text =
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let keys = key_lines(&text);
        let refused = |error| format!("{}: {}", path.display(), in_one_line(&error));
        file.ssh_keys.extend(keys.map_err(refused)?);
    }
    if file.ssh_keys.is_empty() {
        return Err(missing("SSH key").into());
    }
    let port = |port: Option<u16>| port.map_or_else(free_port, Ok);
    let request = LaunchRequest {
        name: name.clone(),
        platform: file.platform.unwrap_or(Platform::Snp),
        vcpus: file.cpus.ok_or_else(|| missing("cpus"))?,
        cpu_model: file.cpu_model,
        memory: file.memory.ok_or_else(|| missing("memory"))?,
        ssh_keys: file.ssh_keys,
        ssh_port: port(file.ssh_port)?,
        evidence_port: port(file.evidence_port)?,
        network: file.network.unwrap_or_default(),
        gpus: file.gpus,
        accel: file.accel.unwrap_or_default(),
        timeouts: None,
        extra_disks: Vec::new(),
        consoles: Vec::new(),
    };
    let mut host = HostFacts::probe(Path::new("/"), root, None)?;
    if request.gpus.is_some() {
        host.gpus = Some(Box::new(Devices::offer_of_this_machine(&host)?));
    }
    let plan = LaunchPlan::new(&release, &request, &host, &root.vm(name)?)?;
    let restart = file.restart.unwrap_or_default();
    Ok(Accepted::of_file(release.dir().to_owned(), plan, restart, sha256.to_owned()))
}

impl Manager {
    /// Compares the directory of wanted VMs with what there is.
    pub(super) fn look_at_wanted(&mut self) {
        let Some(wanted) = &mut self.wanted else { return };
        wanted.unread = None;
        let files = match wanted.read() {
            Ok(files) => files,
            Err(error) => {
                let text = format!("{} cannot be read: {error}", wanted.dir.display());
                let public = "the directory of wanted VMs cannot be read".to_owned();
                wanted.unread = Some(Trouble { text, public });
                return;
            }
        };
        let gone: Vec<VmName> = self
            .vms
            .values()
            .filter(|entry| entry.vm.source == Source::File && entry.vm.wanted)
            .map(|entry| entry.vm.name.clone())
            .filter(|name| !files.contains_key(name))
            .collect();
        for name in gone {
            // One that cannot be recorded is stopped at the next look.
            let _ = self.stop(&name, DEFAULT_TIME);
        }
        for (name, bytes) in files {
            let sha256 = Sha256Hash::of(&bytes).to_string();
            let seen = self.wanted.as_ref().and_then(|wanted| wanted.seen.get(&name));
            let known = self.vms.get(&name).and_then(|entry| entry.vm.source_sha256.as_ref());
            if seen == Some(&sha256) || known == Some(&sha256) {
                continue;
            }
            if self.vms.get(&name).is_some_and(|entry| entry.vm.doing.is_live()) {
                self.note_once(&name, &sha256, "its file says something else: stop the VM first");
                continue;
            }
            if let Some(wanted) = &mut self.wanted {
                wanted.seen.insert(name.clone(), sha256.clone());
            }
            let (root, sender) = (self.root.clone(), self.sender.clone());
            let folder = self.wanted.as_ref().map(|wanted| wanted.dir.clone()).unwrap_or_default();
            std::thread::spawn(move || {
                let planned = plan(&name, &bytes, &sha256, &folder, &root);
                let planned = planned.map_err(|error| in_one_line(&*error));
                let _ = sender.send(Command::Planned(Box::new((name, sha256, planned))));
            });
        }
    }

    /// Says what is wrong with a file, once for each of its contents.
    fn note_once(&mut self, name: &VmName, sha256: &str, text: &str) {
        let Some(wanted) = &mut self.wanted else { return };
        let said = format!("live {sha256}");
        if wanted.seen.get(name) == Some(&said) {
            return;
        }
        wanted.seen.insert(name.clone(), said);
        self.note(Some(name), &NewEvent::new(EventKind::Refused, text));
    }

    /// A file was planned, or is refused.
    pub(super) fn planned(
        &mut self,
        name: &VmName,
        sha256: &str,
        result: Result<Accepted, String>,
    ) {
        let text = match result {
            Ok(accepted) => match self.accept(accepted) {
                Ok(_) => return,
                Err(super::manager::Refused::Conflict { message, .. }) => message,
                Err(super::manager::Refused::Records(problem)) => {
                    // Tried again at the next look.
                    if let Some(wanted) = &mut self.wanted {
                        wanted.seen.remove(name);
                    }
                    problem
                }
                Err(super::manager::Refused::Unknown(name)) => format!("{name} is unknown"),
            },
            Err(problem) => problem,
        };
        let event = NewEvent::new(EventKind::Refused, format!("{text} (file {sha256:.12})"));
        self.note(Some(name), &event);
    }
}
