//! NVIDIA's admin tool, which alone can set a GPU's mode: an exchange with the GPU's own
//! processor. One at a time on a host, with a time limit, and never believed: whoever calls it
//! reads the mode again.

use std::path::Path;
use std::time::Duration;

use crate::inventory::{Address, Device, GpuMode};
use crate::outside::Program;

use super::DeviceError;
use super::ledger::Ledger;

/// How long the tool may take for one device. One that hangs in the kernel is killed after it.
const LIMIT: Duration = Duration::from_mins(2);
/// How long others may work with it: a host has twelve devices at most.
const PATIENCE: Duration = Duration::from_mins(24);

/// The tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminTool {
    program: Program,
    limit: Duration,
}

impl AdminTool {
    /// The tool at this path: a program, or a Python script by its name.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let program = if path.extension().is_some_and(|extension| extension == "py") {
            // Isolated: no variable and no folder of a user adds to what root runs.
            Program::new("python3").with(["-E", "-s"]).with([path])
        } else {
            Program::new(path)
        };
        Self { program, limit: LIMIT }
    }

    /// With another time limit, for tests.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sets a mode and resets the device, as the tool says.
    pub(super) fn set(
        &self,
        device: &Device,
        mode: GpuMode,
        ledger: &Ledger,
    ) -> Result<(), DeviceError> {
        let _lock = ledger.lock_within("tool.lock", PATIENCE)?;
        let address = device.address;
        let arguments = arguments(address, device.is_switch(), present(device), mode)?;
        self.program
            .clone()
            .with(arguments)
            .run(b"", self.limit)
            .map(drop)
            .map_err(|source| DeviceError::Tool { address, mode, source })
    }
}

fn present(device: &Device) -> Option<GpuMode> {
    device.mode.as_ref()?.as_ref().ok().copied()
}

/// What the tool is told. Its two modes exclude each other, and it turns the other off itself
/// when one is turned on.
fn arguments(
    address: Address,
    is_switch: bool,
    present: Option<GpuMode>,
    mode: GpuMode,
) -> Result<[String; 4], DeviceError> {
    let ppcie =
        |value: &str| (format!("--set-ppcie-mode={value}"), "--reset-after-ppcie-mode-switch");
    let cc = |value: &str| (format!("--set-cc-mode={value}"), "--reset-after-cc-mode-switch");
    let (set, reset) = match (mode, is_switch) {
        (GpuMode::Ppcie, _) => ppcie("on"),
        (GpuMode::On | GpuMode::Off, true) => ppcie("off"),
        (GpuMode::Off, false) if present == Some(GpuMode::Ppcie) => ppcie("off"),
        (GpuMode::On, false) => cc("on"),
        (GpuMode::Off, false) => cc("off"),
        (GpuMode::Devtools | GpuMode::Invalid, _) => {
            return Err(DeviceError::UnwantedMode { mode });
        }
    };
    Ok(["--devices".to_owned(), address.to_string(), set, reset.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tool_is_told() {
        let address = "0000:41:00.0".parse().unwrap();
        let told = |is_switch, present, mode| {
            arguments(address, is_switch, present, mode).map(|words| words[2..].join(" ")).ok()
        };
        let cc_on = Some("--set-cc-mode=on --reset-after-cc-mode-switch".to_owned());
        assert_eq!(told(false, Some(GpuMode::Off), GpuMode::On), cc_on);
        assert_eq!(told(false, Some(GpuMode::Ppcie), GpuMode::On), cc_on);
        let off = told(false, Some(GpuMode::Ppcie), GpuMode::Off).unwrap();
        assert!(off.starts_with("--set-ppcie-mode=off"), "{off}");
        let switch = told(true, Some(GpuMode::Ppcie), GpuMode::On).unwrap();
        assert!(switch.starts_with("--set-ppcie-mode=off"), "{switch}");
        assert!(told(true, None, GpuMode::Ppcie).unwrap().starts_with("--set-ppcie-mode=on"));
        for mode in [GpuMode::Devtools, GpuMode::Invalid] {
            assert_eq!(told(false, Some(GpuMode::Off), mode), None);
        }
    }
}
