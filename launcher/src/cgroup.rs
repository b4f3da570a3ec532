//! A control group for each VM's QEMU, where a service manager delegated one: most memory,
//! processor time and threads that this VM can need. A QEMU that a guest took over takes no more
//! of the host than the VM was given.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use casemate_measurements::platform::Platform;

use crate::machine::Machine;
use crate::name::VmName;

/// The last part of the control group that the daemon runs in when one is delegated to it: VMs
/// get theirs beside it, since a group with members cannot have limited children.
const OWN: &str = "serve";
/// Beside the guest's memory: firmware, QEMU itself, its translation cache and I/O buffers.
const MEMORY_BESIDE: u64 = 2 << 30;
/// Beside one thread for each vCPU: the main loop and workers for I/O.
const THREADS_BESIDE: u64 = 256;
/// Processors for I/O beside one for each vCPU.
const PROCESSORS_BESIDE: u64 = 2;
/// The length of a period of `cpu.max` in microseconds.
const PERIOD: u64 = 100_000;

/// Why there is no control group.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// It cannot be made.
    #[error("cannot make the control group {}", path.display())]
    Create {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of it cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The most that a VM's QEMU can need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    memory: u64,
    threads: u64,
    processors: u64,
}

impl Limits {
    pub(crate) fn of(machine: &Machine) -> Self {
        let guest = u64::from(machine.memory.mib()) << 20;
        // Of a page that an SNP guest made private, an older QEMU keeps the shared copy too.
        let copies = if machine.backing.platform() == Platform::Snp { 2 } else { 1 };
        let vcpus = u64::from(machine.shape.vcpus.get());
        Self {
            memory: guest.saturating_mul(copies).saturating_add(MEMORY_BESIDE),
            threads: vcpus + THREADS_BESIDE,
            processors: vcpus + PROCESSORS_BESIDE,
        }
    }

    fn files(self) -> [(&'static str, String); 4] {
        [
            ("memory.max", self.memory.to_string()),
            // A guest's memory must not reach a disk.
            ("memory.swap.max", "0".to_owned()),
            ("pids.max", self.threads.to_string()),
            ("cpu.max", format!("{} {PERIOD}", self.processors * PERIOD)),
        ]
    }
}

/// The group that VMs can have theirs under, where a service manager delegated one: this process
/// is in its child [`OWN`] and may make others.
pub(crate) fn delegated(sys: &Path) -> Option<PathBuf> {
    let own = fs::read_to_string(sys.join("proc/self/cgroup")).ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let parent = Path::new(own).parent().filter(|_| own.ends_with(OWN))?;
    let parent = sys.join("sys/fs/cgroup").join(parent);
    let control = parent.join("cgroup.subtree_control");
    OpenOptions::new().write(true).open(&control).ok()?;
    for controller in ["+memory", "+pids", "+cpu"] {
        // One that is not delegated limits nothing; the others do.
        let _ = fs::write(&control, controller);
    }
    Some(parent)
}

/// The control group of one VM; it is removed once its QEMU is gone.
#[derive(Debug)]
pub(crate) struct VmCgroup(PathBuf);

impl VmCgroup {
    pub(crate) fn create(
        parent: &Path,
        name: &VmName,
        limits: &Limits,
    ) -> Result<Self, CgroupError> {
        let path = parent.join(format!("vm-{name}"));
        let made = match fs::create_dir(&path) {
            // What is left of a supervisor that was killed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        };
        made.map_err(|source| CgroupError::Create { path: path.clone(), source })?;
        let group = Self(path);
        for (name, value) in limits.files() {
            let path = group.0.join(name);
            // A controller that is not delegated has no files.
            if path.exists() {
                fs::write(&path, value).map_err(|source| CgroupError::Write { path, source })?;
            }
        }
        Ok(group)
    }

    /// The file that a process enters the group by.
    pub(crate) fn processes(&self) -> Result<File, CgroupError> {
        let path = self.0.join("cgroup.procs");
        let file = OpenOptions::new().write(true).open(&path);
        file.map_err(|source| CgroupError::Write { path, source })
    }
}

impl Drop for VmCgroup {
    fn drop(&mut self) {
        // A process that was killed is a member for a moment longer.
        let until = Instant::now() + Duration::from_secs(1);
        while fs::remove_dir(&self.0)
            .is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
            && Instant::now() < until
        {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt as _;

    const LIMITS: Limits = Limits { memory: 3 << 30, threads: 258, processors: 4 };

    /// A host under `sys` where this process is in group `own`.
    fn host(sys: &Path, own: &str) {
        let group = sys.join("sys/fs/cgroup").join(own.trim_start_matches('/'));
        fs::create_dir_all(&group).unwrap();
        fs::write(group.parent().unwrap().join("cgroup.subtree_control"), "").unwrap();
        fs::create_dir_all(sys.join("proc/self")).unwrap();
        fs::write(sys.join("proc/self/cgroup"), format!("1:name=x:/y\n0::{own}\n")).unwrap();
    }

    #[test]
    fn what_is_delegated_is_found_and_nothing_else() {
        let sys = tempfile::tempdir().unwrap();
        host(sys.path(), "/system.slice/casemate.service/serve");
        let parent = delegated(sys.path()).unwrap();
        assert_eq!(parent, sys.path().join("sys/fs/cgroup/system.slice/casemate.service"));
        host(sys.path(), "/user.slice/session");
        assert_eq!(delegated(sys.path()), None);
        assert_eq!(delegated(&sys.path().join("absent")), None);
    }

    #[test]
    fn limits_are_written_where_the_controller_is() {
        let parent = tempfile::tempdir().unwrap();
        let name = "vm-1".parse().unwrap();
        let dir = parent.path().join("vm-vm-1");
        fs::create_dir(&dir).unwrap();
        for file in ["memory.max", "pids.max", "cpu.max", "cgroup.procs"] {
            fs::write(dir.join(file), "").unwrap();
        }
        let group = VmCgroup::create(parent.path(), &name, &LIMITS).unwrap();
        group.processes().unwrap();
        let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap();
        assert_eq!(read("memory.max"), (3_u64 << 30).to_string());
        assert_eq!(read("pids.max"), "258");
        assert_eq!(read("cpu.max"), "400000 100000");
        assert!(!dir.join("memory.swap.max").exists());
    }

    #[test]
    fn a_process_enters_a_real_group_and_leaves_none_behind() {
        let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let real = mounts.into_iter().find(|path| path.join("cgroup.procs").exists());
        let name = "casemate-test".parse().unwrap();
        let Some(group) = real.and_then(|at| VmCgroup::create(at, &name, &LIMITS).ok()) else {
            println!("skipped: no control group can be made here");
            return;
        };
        let file = group.processes().unwrap();
        let mut command = std::process::Command::new("grep");
        command.args(["^0::", "/proc/self/cgroup"]);
        let hook = move || nix::unistd::write(&file, b"0").map(drop).map_err(io::Error::from);
        #[expect(unsafe_code, reason = "as the supervisor does")]
        // SAFETY: one write to a file that is open.
        unsafe {
            command.pre_exec(hook);
        }
        let said = command.output().unwrap();
        assert!(String::from_utf8_lossy(&said.stdout).contains("vm-casemate-test"), "{said:?}");
        let path = group.0.clone();
        drop(group);
        assert!(!path.exists());
    }
}
