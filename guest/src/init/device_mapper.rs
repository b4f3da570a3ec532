#![expect(unsafe_code, reason = "the device mapper is driven by ioctls")]
//! Creates the verified root device.
//!
//! The ABI is `include/uapi/linux/dm-ioctl.h` of Linux, version 4: a request is one buffer that
//! starts with a header, and a table is that header, a target and its parameters as text.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout};

use super::verity::VerityPlan;

const CONTROL: &str = "/dev/mapper/control";
const NAME: &[u8] = b"casemate-root";
const TARGET: &[u8] = b"verity";
const VERSION: [u32; 3] = [4, 0, 0];
const READ_ONLY: u32 = 1;
/// How long the device's node may take to appear.
const NODE_WAIT: Duration = Duration::from_secs(5);

/// Why there is no verified device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceMapperError {
    /// The control node could not be opened.
    #[error("cannot open {CONTROL}")]
    Open(#[source] io::Error),
    /// The kernel refused a request.
    #[error("device mapper refused to {step}")]
    Request {
        /// Which request.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The parameters are longer than a request may be.
    #[error("table has {len} bytes, expected at most 4096")]
    TooLong {
        /// Their length.
        len: usize,
    },
    /// The node of the new device did not appear.
    #[error("{} did not appear", path.display())]
    NoNode {
        /// The node.
        path: PathBuf,
    },
}

/// `struct dm_ioctl`.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

const _: () = {
    assert!(size_of::<Header>() == 312);
    assert!(offset_of!(Header, data_size) == 12);
    assert!(offset_of!(Header, data_start) == 16);
    assert!(offset_of!(Header, target_count) == 20);
    assert!(offset_of!(Header, open_count) == 24);
    assert!(offset_of!(Header, flags) == 28);
    assert!(offset_of!(Header, event_nr) == 32);
    assert!(offset_of!(Header, padding) == 36);
    assert!(offset_of!(Header, dev) == 40);
    assert!(offset_of!(Header, name) == 48);
    assert!(offset_of!(Header, uuid) == 176);
    assert!(offset_of!(Header, data) == 305);
};

/// `struct dm_target_spec`.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct TargetSpec {
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; 16],
}

const _: () = {
    assert!(size_of::<TargetSpec>() == 40);
    assert!(offset_of!(TargetSpec, length) == 8);
    assert!(offset_of!(TargetSpec, status) == 16);
    assert!(offset_of!(TargetSpec, next) == 20);
    assert!(offset_of!(TargetSpec, target_type) == 24);
};

mod request {
    use super::Header;

    nix::ioctl_readwrite!(dev_create, 0xfd, 3, Header);
    nix::ioctl_readwrite!(dev_suspend, 0xfd, 6, Header);
    nix::ioctl_readwrite!(table_load, 0xfd, 9, Header);
}

/// Creates the device, loads the table and activates it; returns the node of the device.
pub(super) fn create(plan: &VerityPlan) -> Result<PathBuf, DeviceMapperError> {
    let control =
        OpenOptions::new().read(true).write(true).open(CONTROL).map_err(DeviceMapperError::Open)?;
    let created = submit(&control, Request::Create, header_only(0).as_bytes())?;
    submit(&control, Request::Load, &table_load(plan)?)?;
    submit(&control, Request::Resume, header_only(0).as_bytes())?;
    let path = PathBuf::from(format!("/dev/dm-{}", minor(created.dev)));
    wait_for(&path)?;
    Ok(path)
}

#[derive(Debug, Clone, Copy)]
enum Request {
    Create,
    Load,
    Resume,
}

impl Request {
    const fn step(self) -> &'static str {
        match self {
            Self::Create => "create the root device",
            Self::Load => "load the root device's table",
            Self::Resume => "activate the root device",
        }
    }
}

fn header_only(extra: u32) -> Header {
    let len = u32::try_from(size_of::<Header>()).unwrap_or(u32::MAX);
    let mut header = Header::new_zeroed();
    header.version = VERSION;
    header.data_size = len.saturating_add(extra);
    header.data_start = len;
    header.flags = READ_ONLY;
    header.name[..NAME.len()].copy_from_slice(NAME);
    header
}

/// The bytes of a request that loads the planned table: header, target, parameters, padding.
fn table_load(plan: &VerityPlan) -> Result<Vec<u8>, DeviceMapperError> {
    let too_long = || DeviceMapperError::TooLong { len: plan.table.len() };
    if plan.table.len() > 4096 {
        return Err(too_long());
    }
    let parameters = (plan.table.len() + 1).next_multiple_of(8);
    let extra = u32::try_from(size_of::<TargetSpec>() + parameters).map_err(|_| too_long())?;
    let mut target = TargetSpec::new_zeroed();
    target.length = plan.sectors;
    target.next = extra;
    target.target_type[..TARGET.len()].copy_from_slice(TARGET);
    let mut header = header_only(extra);
    header.target_count = 1;
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(target.as_bytes());
    bytes.extend_from_slice(plan.table.as_bytes());
    bytes.resize(size_of::<Header>() + size_of::<TargetSpec>() + parameters, 0);
    Ok(bytes)
}

/// Sends a request and returns the header that the kernel answers.
fn submit(control: &File, request: Request, bytes: &[u8]) -> Result<Header, DeviceMapperError> {
    // The kernel reads and writes `data_size` bytes, and wants them aligned as the header is.
    let mut words = vec![0_u64; bytes.len().div_ceil(8)];
    words.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
    let (fd, buffer) = (control.as_raw_fd(), words.as_mut_ptr().cast::<Header>());
    // SAFETY: `buffer` points to `bytes.len()` initialised bytes or more, aligned to 8, that
    // live until after the call; `data_size` in their header says exactly `bytes.len()`
    // (`header_only`, `table_load`), and the kernel touches no more than that.
    let outcome = unsafe {
        match request {
            Request::Create => request::dev_create(fd, buffer),
            Request::Load => request::table_load(fd, buffer),
            Request::Resume => request::dev_suspend(fd, buffer),
        }
    };
    let refused = |source: io::Error| DeviceMapperError::Request { step: request.step(), source };
    outcome.map_err(|errno| refused(errno.into()))?;
    let (header, _) = Header::read_from_prefix(words.as_bytes())
        .map_err(|_| refused(io::ErrorKind::InvalidData.into()))?;
    Ok(header)
}

/// The minor number in the kernel's 64-bit encoding of a device number.
const fn minor(dev: u64) -> u64 {
    (dev & 0xff) | ((dev >> 12) & 0xfff_ff00)
}

fn wait_for(path: &Path) -> Result<(), DeviceMapperError> {
    let end = Instant::now() + NODE_WAIT;
    while !path.exists() {
        if Instant::now() >= end {
            return Err(DeviceMapperError::NoNode { path: path.to_owned() });
        }
        sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_request_has_the_kernels_layout() {
        let plan = VerityPlan { sectors: 1040, table: "1 254:0 x".into() };
        let bytes = table_load(&plan).unwrap();
        assert_eq!(bytes.len(), 312 + 40 + 16);
        assert_eq!(bytes[12..16], 368_u32.to_le_bytes());
        assert_eq!(bytes[16..20], 312_u32.to_le_bytes());
        assert_eq!(bytes[20..24], 1_u32.to_le_bytes());
        assert_eq!(bytes[28..32], READ_ONLY.to_le_bytes());
        assert_eq!(&bytes[48..62], b"casemate-root\0");
        assert_eq!(bytes[312 + 8..312 + 16], 1040_u64.to_le_bytes());
        assert_eq!(&bytes[312 + 24..312 + 31], b"verity\0");
        assert_eq!(&bytes[352..362], b"1 254:0 x\0");
        assert!(bytes[362..].iter().all(|b| *b == 0));
    }

    #[test]
    fn an_endless_table_is_refused() {
        let plan = VerityPlan { sectors: 8, table: "x".repeat(4097) };
        assert!(matches!(table_load(&plan), Err(DeviceMapperError::TooLong { len: 4097 })));
    }

    #[test]
    fn minors() {
        assert_eq!(minor(0xfe00), 0);
        assert_eq!(minor(0xfe03), 3);
        assert_eq!(minor(0x10_fe00), 0x100);
    }
}
