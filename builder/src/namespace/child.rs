#![expect(unsafe_code, reason = "fork, and what runs between fork and exec")]
//! What happens between fork and exec: namespaces, mounts, and the second fork that the process
//! namespace needs.
//!
//! Everything that allocates is done before, in [`prepare`]: after the fork of a process with
//! threads only async-signal-safe calls are allowed.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{ForkResult, chdir, fork, mkdir, pivot_root, sethostname, write};

/// A mount of the program's view.
#[derive(Debug)]
pub(super) struct Bind {
    pub(super) host: CString,
    /// Relative to the root.
    pub(super) inside: CString,
    pub(super) directory: bool,
    pub(super) writable: bool,
}

/// The lines that make the caller root in its own user namespace.
#[derive(Debug)]
pub(super) struct Maps {
    uid: Vec<u8>,
    gid: Vec<u8>,
    root: bool,
}

impl Maps {
    pub(super) fn of_caller() -> Self {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        Self {
            uid: format!("0 {uid} 1").into_bytes(),
            gid: format!("0 {gid} 1").into_bytes(),
            root: uid.is_root(),
        }
    }
}

/// All that the child needs, made before the fork.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) root: CString,
    pub(super) cwd: CString,
    pub(super) binds: Vec<Bind>,
    pub(super) maps: Maps,
}

/// The steps, in the order of their numbers, for errors.
const STEPS: [&str; 12] = [
    "making namespaces",
    "mapping the user",
    "setting the host name",
    "forking",
    "making mounts private",
    "binding the tool root",
    "making /work",
    "binding an input or output",
    "making /dev",
    "mounting /proc",
    "changing the root",
    "entering the working directory",
];

/// Tells which step failed in a child that could not be started.
#[derive(Debug)]
pub(super) struct Failed(File);

impl Failed {
    pub(super) fn step(mut self) -> Option<&'static str> {
        let mut byte = [0];
        self.0.read_exact(&mut byte).ok()?;
        STEPS.get(usize::from(byte[0])).copied()
    }
}

/// Makes `command` run in its own namespaces.
pub(super) fn prepare(command: &mut Command, setup: Setup) -> io::Result<Failed> {
    let (read, report) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let enter = move || {
        enter(&setup).map_err(|(step, errno)| {
            let _ = write(&report, &[step]);
            io::Error::from(errno)
        })
    };
    // SAFETY: `enter` makes system calls with what was allocated before, and nothing else.
    unsafe { command.pre_exec(enter) };
    Ok(Failed(File::from(read)))
}

type Step<T> = Result<T, (u8, Errno)>;

fn at<T>(step: u8, result: nix::Result<T>) -> Step<T> {
    result.map_err(|errno| (step, errno))
}

fn enter(setup: &Setup) -> Step<()> {
    die_with_parent();
    let apart = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    match unshare(apart | CloneFlags::CLONE_NEWUSER) {
        Ok(()) => {
            at(1, write_file(c"/proc/self/setgroups", b"deny"))?;
            at(1, write_file(c"/proc/self/uid_map", &setup.maps.uid))?;
            at(1, write_file(c"/proc/self/gid_map", &setup.maps.gid))?;
        }
        // Root where user namespaces are switched off needs none.
        Err(_) if setup.maps.root => at(0, unshare(apart))?,
        Err(errno) => return Err((0, errno)),
    }
    at(2, sethostname("casemate"))?;
    // SAFETY: the parent only waits and exits; the child goes on as described for `prepare`.
    match at(3, unsafe { fork() })? {
        ForkResult::Parent { child } => wait_and_exit(child.as_raw()),
        ForkResult::Child => {
            die_with_parent();
            view(setup)
        }
    }
}

/// Arranges that nothing outlives `casemate`.
fn die_with_parent() {
    // SAFETY: prctl with plain numbers touches no memory of ours.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// The first process of the two: passes on how the program ended.
fn wait_and_exit(child: libc::pid_t) -> ! {
    // SAFETY: closing descriptors, waiting with a valid pointer and `_exit` are
    // async-signal-safe. Every descriptor goes, or pipes would look open though the program is
    // gone: its own, and the one on which std learns that exec succeeded.
    unsafe {
        libc::close_range(0, libc::c_uint::MAX, 0);
        let mut status = 0;
        while libc::waitpid(child, &raw mut status, 0) < 0 {
            if Errno::last() != Errno::EINTR {
                libc::_exit(125);
            }
        }
        let code = if libc::WIFEXITED(status) {
            libc::WEXITSTATUS(status)
        } else {
            128 + libc::WTERMSIG(status)
        };
        libc::_exit(code)
    }
}

/// Builds what the program sees and enters it.
fn view(setup: &Setup) -> Step<()> {
    let none = None::<&CStr>;
    at(4, mount(none, c"/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))?;
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    at(5, mount(Some(setup.root.as_c_str()), setup.root.as_c_str(), none, bind, none))?;
    at(5, chdir(setup.root.as_c_str()))?;
    at(5, read_only(c"."))?;
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    at(6, mount(Some(c"tmpfs"), c"tmp", Some(c"tmpfs"), safe, Some(c"mode=1777")))?;
    at(6, mount(Some(c"tmpfs"), c"work", Some(c"tmpfs"), safe, Some(c"mode=0755")))?;
    for bind in &setup.binds {
        at(7, bind_in(bind))?;
    }
    at(8, devices())?;
    let proc = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let fresh = mount(Some(c"proc"), c"proc", Some(c"proc"), proc, none);
    // Inside a container whose /proc is masked no fresh one can be mounted: lend the masked one.
    at(9, fresh.or_else(|_| mount(Some(c"/proc"), c"proc", none, bind, none)))?;
    at(10, pivot_root(c".", c"."))?;
    at(10, umount2(c".", MntFlags::MNT_DETACH))?;
    at(11, chdir(setup.cwd.as_c_str()))?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    // SAFETY: prctl with plain numbers touches no memory of ours.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    Ok(())
}

/// Makes the mount at `path` read-only and keeps the flags it has, which a user namespace may
/// not drop.
fn read_only(path: &CStr) -> nix::Result<()> {
    let has = statvfs(path)?.flags();
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    for (seen, keep) in [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ] {
        if has.contains(seen) {
            flags |= keep;
        }
    }
    let none = None::<&CStr>;
    mount(none, path, none, flags, none)
}

fn bind_in(bind: &Bind) -> nix::Result<()> {
    let inside = bind.inside.as_c_str();
    if bind.directory {
        mkdir(inside, Mode::from_bits_truncate(0o755))?;
    } else {
        touch(inside)?;
    }
    let none = None::<&CStr>;
    mount(Some(bind.host.as_c_str()), inside, none, MsFlags::MS_BIND, none)?;
    if bind.writable { Ok(()) } else { read_only(inside) }
}

/// A `/dev` with the devices that programs expect, lent by the host.
fn devices() -> nix::Result<()> {
    let none = None::<&CStr>;
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some(c"tmpfs"), c"dev", Some(c"tmpfs"), safe, Some(c"mode=0755"))?;
    for (host, inside) in [
        (c"/dev/null", c"dev/null"),
        (c"/dev/zero", c"dev/zero"),
        (c"/dev/full", c"dev/full"),
        (c"/dev/random", c"dev/random"),
        (c"/dev/urandom", c"dev/urandom"),
    ] {
        touch(inside)?;
        mount(Some(host), inside, none, MsFlags::MS_BIND, none)?;
    }
    // Where the C library keeps semaphores that processes share.
    mkdir(c"dev/shm", Mode::from_bits_truncate(0o700))?;
    for (target, link) in [
        (c"/proc/self/fd", c"dev/fd"),
        (c"/proc/self/fd/0", c"dev/stdin"),
        (c"/proc/self/fd/1", c"dev/stdout"),
        (c"/proc/self/fd/2", c"dev/stderr"),
    ] {
        // SAFETY: both are NUL-terminated strings.
        Errno::result(unsafe { libc::symlink(target.as_ptr(), link.as_ptr()) })?;
    }
    Ok(())
}

fn touch(path: &CStr) -> nix::Result<()> {
    open(path, OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::from_bits_truncate(0o644))
        .map(drop)
}

fn write_file(path: &CStr, bytes: &[u8]) -> nix::Result<()> {
    let file = open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    write(&file, bytes).map(drop)
}
