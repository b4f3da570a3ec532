//! Stage codes: all that a guest ever says to its host about itself, and the one thing that a
//! host may ask of it.
//!
//! One byte each, from a fixed list, written to the virtio-serial port [`PORT`]. They tell a
//! miner how far a boot came and why it ended, and can carry nothing else: no message, no
//! number of the guest's choosing, no log. The other way goes a [`Request`].

use std::fmt;

/// Name of the virtio-serial port that the bytes are written to, in both directions.
pub const PORT: &str = "casemate.stage";

macro_rules! stages {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// How far a guest has come. Codes below 0x80 are progress, the others the end.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Stage { $($(#[$doc])* $name = $code,)* }

        impl Stage {
            /// Every stage, in the order of the codes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// What the code means, for a person.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

stages! {
    /// init runs: firmware and kernel accepted what they were given.
    InitStarted = 0x01, "init started";
    /// The kernel modules of the initrd are loaded.
    ModulesLoaded = 0x02, "kernel modules loaded";
    /// The root disk was found by its serial.
    RootDiskFound = 0x03, "root disk found";
    /// dm-verity is set up over the root disk.
    VerityReady = 0x04, "dm-verity set up";
    /// The root file system is mounted.
    RootMounted = 0x05, "root file system mounted";
    /// init hands over to systemd.
    Handover = 0x06, "handing over to systemd";
    /// The agent runs.
    AgentStarted = 0x10, "agent started";
    /// The launch config was read and its hash is `HOST_DATA`.
    LaunchConfigAccepted = 0x11, "launch config accepted";
    /// The SSH host key and the TLS key exist.
    KeysMade = 0x12, "keys made";
    /// Evidence is served, sshd listens and the VM has an address: it is ready.
    Ready = 0x13, "ready";
    /// There are GPUs, and they are of a kind that this image knows.
    GpusFound = 0x20, "GPUs found";
    /// Each was reset, before any driver saw it.
    GpusReset = 0x21, "GPUs reset";
    /// The driver is bound to each.
    GpusBound = 0x22, "driver bound to every GPU";
    /// Their device nodes exist, and containers can be given them.
    GpusPrepared = 0x23, "GPU device nodes made";
    /// They are those of the launch config, and give evidence.
    GpusChecked = 0x24, "GPUs checked";
    /// The host asked it to power off, and it does: no evidence is served any more.
    ShuttingDown = 0x30, "shutting down";

    /// A kernel module of the initrd could not be loaded.
    ModulesFailed = 0x81, "a kernel module did not load";
    /// The command line lacks a parameter, has one twice, or has one malformed.
    CommandLineRefused = 0x82, "command line refused";
    /// No disk carries the root's serial.
    RootDiskMissing = 0x83, "root disk missing";
    /// More than one disk carries a serial that must be unique.
    DiskAmbiguous = 0x84, "two disks with the same serial";
    /// dm-verity could not be set up.
    VerityFailed = 0x85, "dm-verity failed";
    /// The root file system could not be mounted: wrong bytes or a broken disk.
    RootMountFailed = 0x86, "root file system did not mount";
    /// The hand-over to systemd failed.
    HandoverFailed = 0x87, "hand-over to systemd failed";
    /// The host does not describe the machine: there are no ACPI tables that the kernel takes.
    PlatformRefused = 0x88, "no usable ACPI tables";
    /// No report can be had: no security processor, or it refused.
    ReportUnavailable = 0x90, "no attestation report to be had";
    /// The launch config is missing, malformed, or not the one that `HOST_DATA` names.
    LaunchConfigRefused = 0x91, "launch config refused";
    /// A key could not be made.
    KeysFailed = 0x92, "keys could not be made";
    /// The evidence port could not be served.
    ServeFailed = 0x93, "evidence could not be served";
    /// There are other GPUs than the launch config says, or such as this image cannot attest.
    GpusRefused = 0xa0, "GPUs are not those of the launch config";
    /// A GPU could not be reset, or a driver had seen it before.
    GpuResetFailed = 0xa1, "a GPU could not be reset";
    /// The driver did not load, or did not bind to every GPU in time.
    GpuDriverFailed = 0xa2, "the driver did not bind to every GPU";
    /// Device nodes of GPUs could not be made.
    GpuNodesFailed = 0xa3, "GPU device nodes could not be made";
    /// The driver sees other GPUs than the bus has, they are not confidential, or they give no
    /// evidence.
    GpuCheckFailed = 0xa4, "GPUs failed the check";
}

impl Stage {
    /// The byte on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The stage of a byte; `None` for a byte that is no stage.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|stage| stage.code() == code)
    }

    /// Whether the guest ends with this stage.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        self.code() >= 0x80
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text())
    }
}

/// What a host may ask of a guest that is ready: one byte on [`PORT`]. The guest ignores every
/// other byte. Whoever runs a VM can end it at any time, so this gives him nothing new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Request {
    /// To end its services and to power off.
    PowerOff = 0x70,
}

impl Request {
    /// Every request.
    pub const ALL: &'static [Self] = &[Self::PowerOff];

    /// The byte on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The request of a byte; `None` for a byte that asks for nothing.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|request| request.code() == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_come_back() {
        for stage in Stage::ALL {
            assert_eq!(Stage::from_code(stage.code()), Some(*stage));
        }
        assert_eq!(Stage::from_code(0), None);
        assert_eq!(Stage::from_code(b'\n'), None);
    }
    #[test]
    fn exactly_one_byte_is_a_request() {
        let asks = |code: &u8| Request::from_code(*code).is_some();
        assert_eq!((0..=u8::MAX).filter(asks).collect::<Vec<_>>(), [Request::PowerOff.code()]);
    }
}
