//! Makes the verified root `/` and becomes systemd.

use std::convert::Infallible;
use std::ffi::CStr;
use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot, execve};

use super::InitError;
use super::mounts::MOVED;

const SYSTEMD: &CStr = c"/usr/lib/systemd/systemd";

/// Moves the kernel's file systems into `root`, makes it `/` and executes systemd with an empty
/// environment.
pub(super) fn become_systemd(root: &Path) -> Result<Infallible, InitError> {
    // Memory of the initrd that nobody can reach from now on.
    let _ = fs::remove_file("/init");
    for name in MOVED {
        mount(
            Some(&Path::new("/").join(name)),
            &root.join(name),
            None::<&str>,
            MsFlags::MS_MOVE,
            None::<&str>,
        )
        .map_err(failed("move a mount into the new root"))?;
    }
    chdir(root).map_err(failed("enter the new root"))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .map_err(failed("move the new root to /"))?;
    chroot(".").map_err(failed("change the root"))?;
    chdir("/").map_err(failed("enter /"))?;
    execve(SYSTEMD, &[SYSTEMD], &[] as &[&CStr]).map_err(failed("execute systemd"))
}

fn failed(step: &'static str) -> impl FnOnce(Errno) -> InitError {
    move |source| InitError::Handover { step, source }
}
