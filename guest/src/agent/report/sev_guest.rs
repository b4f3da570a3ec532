#![expect(unsafe_code, reason = "the SEV-SNP guest device is driven by an ioctl")]
//! Reports through `/dev/sev-guest`.
//!
//! The ABI is `include/uapi/linux/sev-guest.h` of Linux. The certificate table comes from the
//! host and is passed on as bytes: a parser that followed its offsets here could be led out of
//! the table, to the keys.

use std::fs::File;
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use casemate_measurements::evidence::REPORT_LEN;
use casemate_measurements::hash::ReportData;
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout};

use super::{Quote, ReportError};

/// The device, below the root.
pub(super) const DEVICE: &str = "dev/sev-guest";
/// Most bytes of certificates that Linux passes on: `SEV_FW_BLOB_MAX_SIZE`.
const CERTIFICATES: usize = 0x4000;
/// The privilege level at which this guest runs and for which it asks.
const VMPL: u32 = 0;

/// `struct snp_ext_report_req`, which begins with `struct snp_report_req`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ExtendedRequest {
    user_data: [u8; 64],
    vmpl: u32,
    reserved: [u8; 28],
    certs_address: u64,
    certs_len: u32,
    padding: u32,
}

const _: () = {
    assert!(size_of::<ExtendedRequest>() == 112);
    assert!(offset_of!(ExtendedRequest, vmpl) == 64);
    assert!(offset_of!(ExtendedRequest, certs_address) == 96);
    assert!(offset_of!(ExtendedRequest, certs_len) == 104);
};

/// `struct snp_report_resp`, with the fields of `MSG_REPORT_RSP` (document 56860) named.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Response {
    status: u32,
    report_size: u32,
    reserved: [u8; 24],
    report: [u8; REPORT_LEN],
    rest: [u8; 4000 - 32 - REPORT_LEN],
}

const _: () = {
    assert!(size_of::<Response>() == 4000);
    assert!(offset_of!(Response, report_size) == 4);
    assert!(offset_of!(Response, report) == 32);
};

/// `struct snp_guest_request_ioctl`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct GuestRequest {
    msg_version: u8,
    padding: [u8; 7],
    req_data: u64,
    resp_data: u64,
    fw_error: u32,
    vmm_error: u32,
}

const _: () = {
    assert!(size_of::<GuestRequest>() == 32);
    assert!(offset_of!(GuestRequest, req_data) == 8);
    assert!(offset_of!(GuestRequest, resp_data) == 16);
    assert!(offset_of!(GuestRequest, fw_error) == 24);
    assert!(offset_of!(GuestRequest, vmm_error) == 28);
};

mod request {
    use super::GuestRequest;

    nix::ioctl_readwrite!(get_ext_report, b'S', 2, GuestRequest);
}

/// Asks the security processor for a report, and the host for its certificates.
pub(super) fn report(device: &Path, data: &ReportData) -> Result<Quote, ReportError> {
    let io_error = |action, source| ReportError::Io { action, path: device.to_owned(), source };
    let file = File::open(device).map_err(|source| io_error("open", source))?;
    let mut certificates = vec![0_u8; CERTIFICATES];
    let mut request = ExtendedRequest::new_zeroed();
    request.user_data = *data.as_bytes();
    request.vmpl = VMPL;
    request.certs_address = certificates.as_mut_ptr().expose_provenance() as u64;
    request.certs_len = 0x4000;
    let mut response = Response::new_zeroed();
    let mut call = GuestRequest::new_zeroed();
    call.msg_version = 1;
    call.req_data = (&raw mut request).expose_provenance() as u64;
    call.resp_data = (&raw mut response).expose_provenance() as u64;
    // SAFETY: `call`, `request`, `response` and `certificates` have the layouts and lengths that
    // the ABI names, live until after the call, and are not touched during it.
    let outcome = unsafe { request::get_ext_report(file.as_raw_fd(), &raw mut call) };
    if call.fw_error != 0 || call.vmm_error != 0 {
        return Err(ReportError::Firmware { firmware: call.fw_error, vmm: call.vmm_error });
    }
    outcome.map_err(|errno| io_error("ask", io::Error::from(errno)))?;
    if response.status != 0 {
        return Err(ReportError::Firmware { firmware: response.status, vmm: 0 });
    }
    let found = usize::try_from(response.report_size).unwrap_or(usize::MAX);
    if found != REPORT_LEN {
        return Err(ReportError::Length { found });
    }
    Quote::new(&response.report, certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_such_device_is_an_error() {
        let data = ReportData::from_bytes([0; 64]);
        let missing = report(Path::new("/nonexistent/sev-guest"), &data).unwrap_err();
        assert_eq!(missing.to_string(), "cannot open /nonexistent/sev-guest");
        let other = report(Path::new("/dev/null"), &data).unwrap_err();
        assert_eq!(other.to_string(), "cannot ask /dev/null");
    }
}
