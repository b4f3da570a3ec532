//! What a supervisor takes from QEMU before it starts, beside QEMU's own seccomp sandbox: root's
//! identity, the way to get it back, files that it was not given, core dumps, and more memory,
//! processor time and threads than its VM needs.
//!
//! How much of it is possible depends on who started the supervisor, so it is no part of a plan:
//! a daemon writes down what it has to give, and without a daemon it is found out.
#![expect(unsafe_code, reason = "limits take effect between fork and exec")]

use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::libc;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, User};
use serde::{Deserialize, Serialize};

use crate::cgroup::{self, CgroupError, VmCgroup};
use crate::inventory::Address;
use crate::plan::LaunchPlan;
use crate::state::{StateError, StateRoot, VmPaths};

/// The user that QEMU runs as where root starts it and such a user exists.
pub const QEMU_USER: &str = "casemate-qemu";

/// Why QEMU is not confined as it should be, and so not started.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// The user cannot be looked up.
    #[error("QEMU is to run as user {name:?}: {problem}")]
    User {
        /// The user's name.
        name: String,
        /// Why not.
        problem: String,
    },
    /// The user cannot be given what QEMU needs.
    #[error("cannot let QEMU's user reach {}", path.display())]
    Grant {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no control group for the VM.
    #[error("the VM has no control group")]
    Cgroup(#[from] CgroupError),
    /// What the daemon wrote down cannot be read.
    #[error("cannot tell how QEMU is to be confined")]
    State(#[from] StateError),
}

/// How QEMU is confined.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confinement {
    /// The user that QEMU runs as; its own starter's without.
    pub user: Option<String>,
    /// A control group, delegated to the starter, below which each VM gets one.
    pub cgroup: Option<PathBuf>,
}

impl Confinement {
    /// What can be had here: the user [`QEMU_USER`] where root asks and it exists, and the control
    /// group that a service manager delegated.
    #[must_use]
    pub fn detect() -> Self {
        let root = nix::unistd::geteuid().is_root();
        let exists = || User::from_name(QEMU_USER).is_ok_and(|user| user.is_some());
        let user = (root && exists()).then(|| QEMU_USER.to_owned());
        Self { user, cgroup: cgroup::delegated(Path::new("/")) }
    }

    /// The number of the user that QEMU runs as, where it is another than its starter's.
    pub(crate) fn uid(&self) -> Option<u32> {
        let user = User::from_name(self.user.as_deref()?).ok()??;
        Some(user.uid.as_raw()).filter(|uid| *uid != nix::unistd::geteuid().as_raw())
    }

    /// What the daemon of this state root wrote down, else what can be had.
    pub(crate) fn of(root: &StateRoot) -> Result<Self, StateError> {
        Ok(root.read_confinement()?.unwrap_or_else(Self::detect))
    }
}

/// A user, looked up before the fork: nothing can be looked up after it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Account {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Account {
    fn named(name: &str) -> Result<Self, ConfineError> {
        let refuse = |problem: String| ConfineError::User { name: name.to_owned(), problem };
        if !nix::unistd::geteuid().is_root() {
            return Err(refuse("only root can start it as another user".to_owned()));
        }
        let user = User::from_name(name).map_err(|error| refuse(error.to_string()))?;
        let user = user.ok_or_else(|| refuse("there is no such user".to_owned()))?;
        if user.uid.is_root() {
            return Err(refuse("that is root, which it must not be".to_owned()));
        }
        let c_name = CString::new(name).map_err(|error| refuse(error.to_string()))?;
        let groups = nix::unistd::getgrouplist(&c_name, user.gid);
        let groups = groups.map_err(|error| refuse(error.to_string()))?;
        Ok(Self { uid: user.uid, gid: user.gid, groups })
    }
}

/// What one run of QEMU is confined to. Its control group goes with it.
#[derive(Debug)]
pub(crate) struct Confined {
    account: Option<Account>,
    cgroup: Option<VmCgroup>,
}

impl Confined {
    /// Looks up the user, makes the control group, and lets the user reach what QEMU needs of the
    /// VM's directory. Call it once everything in there exists that QEMU opens.
    pub(crate) fn new(plan: &LaunchPlan, how: &Confinement) -> Result<Self, ConfineError> {
        let account = how.user.as_deref().map(Account::named).transpose()?;
        if let Some(account) = &account {
            grant(&plan.paths, account)?;
            if let Some(planned) = &plan.machine.passthrough {
                grant_devices(&planned.host, planned.devices(), account)?;
            }
        }
        let limits = cgroup::Limits::of(&plan.machine);
        let cgroup = how.cgroup.as_deref();
        let cgroup = cgroup.map(|parent| VmCgroup::create(parent, &plan.name, &limits));
        Ok(Self { account, cgroup: cgroup.transpose()? })
    }

    /// Makes `command` start confined.
    pub(crate) fn apply(&self, command: &mut Command) -> Result<(), ConfineError> {
        let processes = self.cgroup.as_ref().map(VmCgroup::processes).transpose()?;
        let account = self.account.clone();
        let hook = move || confine(processes.as_ref(), account.as_ref());
        // SAFETY: the hook makes system calls on values that were made before the fork, and
        // neither allocates nor locks.
        unsafe { command.pre_exec(hook) };
        Ok(())
    }
}

/// Runs in the child, before it becomes QEMU. What needs privileges comes first.
fn confine(processes: Option<&File>, account: Option<&Account>) -> io::Result<()> {
    if let Some(file) = processes {
        nix::unistd::write(file, b"0")?;
    }
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    if let Some(account) = account {
        // Devices that are passed through pin the guest's memory.
        if setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_err() {
            let (_, most) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
            setrlimit(Resource::RLIMIT_MEMLOCK, most, most)?;
        }
        nix::unistd::setgroups(&account.groups)?;
        nix::unistd::setresgid(account.gid, account.gid, account.gid)?;
        nix::unistd::setresuid(account.uid, account.uid, account.uid)?;
    }
    nix::sys::prctl::set_no_new_privs()?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    close_others()
}

/// Marks every file but the standard streams to be closed at exec.
fn close_others() -> io::Result<()> {
    let (first, last, flags) = (3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: the call takes three numbers and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    let error = io::Error::last_os_error();
    // Linux before 5.11 does not know it; what this program opens is closed at exec anyway.
    let unknown = matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL));
    if result == 0 || unknown { Ok(()) } else { Err(error) }
}

/// Lets the user reach the sockets and disks of one VM: it may pass through the directories above
/// without seeing what is in them, and read two files.
fn grant(paths: &VmPaths, account: &Account) -> Result<(), ConfineError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ConfineError::Grant { path, source }
    };
    let set_mode = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed(path))
    };
    let own = |path: &Path, uid: Option<Uid>| {
        let (uid, gid) = (uid.map(Uid::as_raw), Some(account.gid.as_raw()));
        std::os::unix::fs::chown(path, uid, gid).map_err(failed(path))
    };
    for dir in paths.dir().ancestors().skip(1).take(2) {
        set_mode(dir, 0o711)?;
    }
    own(paths.dir(), None)?;
    set_mode(paths.dir(), 0o710)?;
    for path in [paths.launch_disk(), paths.hashes()].iter().filter(|path| path.exists()) {
        own(path, None)?;
        set_mode(path, 0o640)?;
    }
    let sockets = [paths.stage_socket(), paths.qmp_socket(), paths.psp_socket()];
    for path in sockets.iter().filter(|path| path.exists()) {
        own(path, Some(account.uid))?;
    }
    Ok(())
}

/// Lets the user open the devices that are passed through, which are root's alone, and the IOMMU's.
/// They stay so until a device is bound anew; what has a device open keeps others out.
fn grant_devices(
    root: &Path,
    devices: impl Iterator<Item = Address>,
    account: &Account,
) -> Result<(), ConfineError> {
    let grant = |path: &Path| {
        std::os::unix::fs::chown(path, None, Some(account.gid.as_raw()))
            .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o660)))
            .map_err(|source| ConfineError::Grant { path: path.to_owned(), source })
    };
    for device in devices {
        let dir = root.join(format!("sys/bus/pci/devices/{device}/vfio-dev"));
        let failed = |source| ConfineError::Grant { path: dir.clone(), source };
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            grant(&root.join("dev/vfio/devices").join(name))?;
        }
    }
    grant(&root.join("dev/iommu"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;

    /// What a confined `sh` says of itself.
    fn said_by(confined: &Confined, script: &str) -> String {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        confined.apply(&mut command).unwrap();
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    }

    #[test]
    fn nothing_is_inherited_and_nothing_is_regained() {
        let confined = Confined { account: None, cgroup: None };
        let secret = tempfile::tempfile().unwrap();
        // A file that would stay open: without the hook, the child has it.
        let fd = nix::unistd::dup(&secret).unwrap();
        let number = fd.as_raw_fd();
        nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        let script = format!(
            "[ -e /proc/$$/fd/{number} ] && echo open; grep NoNewPrivs /proc/self/status; \
             ulimit -c; umask"
        );
        let said = said_by(&confined, &script);
        assert_eq!(said, "NoNewPrivs:\t1\n0\n0077\n");
        let plain = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(plain.stdout.starts_with(b"open\n"));
    }

    #[test]
    fn devices_are_the_users_to_open_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = ("0000:41:00.0".parse().unwrap(), "0000:42:00.0");
        let nodes = dir.path().join("dev/vfio/devices");
        fs::create_dir_all(&nodes).unwrap();
        let node = |path: PathBuf| {
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        };
        node(dir.path().join("dev/iommu"));
        for (device, name) in [("0000:41:00.0", "vfio3"), (other, "vfio4")] {
            let devices = dir.path().join(format!("sys/bus/pci/devices/{device}/vfio-dev"));
            fs::create_dir_all(devices.join(name)).unwrap();
            node(nodes.join(name));
        }
        // This test's own group: only root may give a file to another.
        let gid = nix::unistd::getegid();
        let account = Account { uid: nix::unistd::geteuid(), gid, groups: Vec::new() };
        grant_devices(dir.path(), std::iter::once(one), &account).unwrap();
        let mode =
            |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("dev/vfio/devices/vfio3"), 0o660);
        assert_eq!(mode("dev/iommu"), 0o660);
        assert_eq!(mode("dev/vfio/devices/vfio4"), 0o600);
        let unbound = "0000:43:00.0".parse().unwrap();
        let refused = grant_devices(dir.path(), std::iter::once(unbound), &account).unwrap_err();
        assert!(refused.to_string().contains("0000:43:00.0"), "{refused}");
    }

    #[test]
    fn root_is_given_up_for_good() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: only root can give up being root");
            return;
        }
        let account = Account::named("nobody").unwrap();
        let (uid, gid) = (account.uid, account.gid);
        let confined = Confined { account: Some(account), cgroup: None };
        let said =
            said_by(&confined, "grep -E '^(Uid|Gid|Groups|CapEff|CapPrm)' /proc/self/status");
        let expected = format!(
            "Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{gid}\t{gid}\t{gid}\t{gid}\nGroups:\t{gid} \n\
             CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n"
        );
        assert_eq!(said, expected);
        assert!(matches!(Account::named("root"), Err(ConfineError::User { .. })));
        let error = Account::named("no-such-user").unwrap_err().to_string();
        assert!(error.contains("no-such-user") && error.contains("no such user"), "{error}");
    }

    #[test]
    fn a_user_reaches_sockets_and_disks_and_nothing_else() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: only root can give files away");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let root = StateRoot::at(&dir.path().join("s")).unwrap();
        let paths = root.vm(&"vm-1".parse().unwrap()).unwrap();
        paths.create().unwrap();
        for path in [paths.launch_disk(), paths.hashes(), paths.plan(), paths.state()] {
            crate::state::write_file(&path, b"x").unwrap();
        }
        let listener = std::os::unix::net::UnixListener::bind(paths.qmp_socket()).unwrap();
        let account = Account::named("nobody").unwrap();
        grant(&paths, &account).unwrap();
        let confined = Confined { account: Some(account), cgroup: None };
        let at = paths.dir().display();
        let script = format!(
            "cat {at}/launch.img {at}/hashes.bin; cat {at}/plan.json {at}/state.json 2>/dev/null; \
             ls {at} {at}/.. 2>/dev/null; touch {at}/new 2>/dev/null; test -w {at}/qmp.sock && \
             echo w"
        );
        assert_eq!(said_by(&confined, &script), "xxw\n");
        drop(listener);
        // What others may only pass through is still private.
        StateRoot::at(&dir.path().join("s")).unwrap();
    }
}
