//! What is known of each family of GPUs: data in `profiles/gpu.toml`, read into types.

use casemate_measurements::gpu_evidence::chip_of;
use serde::Deserialize;

use crate::inventory::{Device, GpuMode};

/// The data that this program carries.
const SHIPPED: &str = include_str!("../profiles/gpu.toml");

/// Why profiles are refused.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It is not the expected TOML.
    #[error("the profiles are malformed")]
    Malformed(#[from] toml::de::Error),
    /// It is of another version.
    #[error("the profiles have schema {found}, expected {}", Profiles::SCHEMA)]
    Schema {
        /// The version found.
        found: u32,
    },
    /// A family has no chip, or several.
    #[error(
        "the family {family} has device {id:#06x}, expected one of a chip that is known, and the \
         same one for the whole family"
    )]
    Chip {
        /// The family.
        family: String,
        /// The id.
        id: u16,
    },
    /// A device id stands in two families.
    #[error("device {id:#06x} is in the families {first} and {second}, expected one")]
    Twice {
        /// The id.
        id: u16,
        /// One family.
        first: String,
        /// The other.
        second: String,
    },
}

/// A way in which a VM may have GPUs of a family.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// The mode that every one of them is in.
    pub mode: GpuMode,
    /// How many one VM may have.
    pub gpus_per_vm: Vec<u8>,
    /// How many `NVSwitches` must go to the same VM.
    #[serde(default)]
    pub switches: u8,
    /// The least version of the guest's driver.
    pub driver: String,
    /// GiB of the least window of addresses that is known to be enough; 0 where twice the GPUs'
    /// own windows are.
    #[serde(default)]
    pub window_gib: u64,
}

/// A family of GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Family {
    /// What casemate calls it.
    pub name: String,
    /// What NVIDIA calls it.
    pub product: String,
    /// Device ids.
    pub ids: Vec<u16>,
    /// The chip that VMs and their verifiers are promised: that of its device ids.
    #[serde(skip)]
    pub chip: &'static str,
    /// Threads that stay with the host.
    #[serde(default = "usual_host_threads")]
    pub host_threads: u32,
    /// Whether VMs get aligned blocks of the board's GPUs.
    #[serde(default)]
    pub partitions: bool,
    /// GiB of window 2 on boards that were seen.
    pub bar2_gib: u64,
    /// Services that must run on the host.
    #[serde(default)]
    pub host_services: Vec<String>,
    /// How VMs may have them.
    pub shape: Vec<Shape>,
}

const fn usual_host_threads() -> u32 {
    4
}

impl Family {
    /// The shape of a VM with so many of them.
    #[must_use]
    pub fn shape_of(&self, count: usize) -> Option<&Shape> {
        self.shape.iter().find(|shape| shape.gpus_per_vm.iter().any(|n| usize::from(*n) == count))
    }

    /// How many a VM may have, as text.
    #[must_use]
    pub fn counts(&self) -> String {
        let mut all: Vec<u8> = self.shape.iter().flat_map(|s| s.gpus_per_vm.clone()).collect();
        all.sort_unstable();
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        all.join(", ")
    }

    /// Whether a VM may have GPUs of this family in `mode`.
    #[must_use]
    pub fn allows(&self, mode: GpuMode) -> bool {
        self.shape.iter().any(|shape| shape.mode == mode)
    }
}

/// The families, each id in one of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profiles {
    schema: u32,
    family: Vec<Family>,
}

impl Profiles {
    /// The version of the format that this code reads.
    pub const SCHEMA: u32 = 1;

    /// Those that this program carries.
    ///
    /// # Errors
    /// As [`Profiles::parse`]; a test holds that there are none.
    pub fn shipped() -> Result<Self, ProfileError> {
        Self::parse(SHIPPED)
    }

    /// Reads profiles.
    ///
    /// # Errors
    /// When they are malformed, of another version, or name a device twice.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        let mut profiles: Self = toml::from_str(text)?;
        if profiles.schema != Self::SCHEMA {
            return Err(ProfileError::Schema { found: profiles.schema });
        }
        for (index, family) in profiles.family.iter().enumerate() {
            for other in &profiles.family[..index] {
                if let Some(id) = family.ids.iter().find(|id| other.ids.contains(id)) {
                    let (first, second) = (other.name.clone(), family.name.clone());
                    return Err(ProfileError::Twice { id: *id, first, second });
                }
            }
        }
        for family in &mut profiles.family {
            let chip = family.ids.first().and_then(|id| chip_of(*id));
            let other = family.ids.iter().find(|id| chip.is_none() || chip_of(**id) != chip);
            if let Some(id) = other {
                return Err(ProfileError::Chip { family: family.name.clone(), id: *id });
            }
            family.chip = chip.unwrap_or_default();
        }
        Ok(profiles)
    }

    /// The family of a name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Family> {
        self.family.iter().find(|family| family.name == name)
    }

    /// The family of a GPU.
    #[must_use]
    pub fn of(&self, gpu: &Device) -> Option<&Family> {
        self.family.iter().find(|family| family.ids.contains(&gpu.device))
    }

    /// Every family.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.family
    }
}

#[cfg(test)]
mod tests {
    use casemate_measurements::gpu_evidence::GpuSet;

    use super::*;

    #[test]
    fn the_shipped_profiles_are_sound() {
        let profiles = Profiles::shipped().unwrap();
        for family in profiles.families() {
            let chip = GpuSet { chip: family.chip.into(), count: 1, board: None, nvswitches: 0 };
            assert_eq!(chip.fault(), None, "{}", family.name);
            assert!(!family.ids.is_empty() && !family.shape.is_empty(), "{}", family.name);
            for shape in &family.shape {
                assert!(matches!(shape.mode, GpuMode::On | GpuMode::Ppcie), "{}", family.name);
                assert!(!shape.gpus_per_vm.is_empty(), "{}", family.name);
                assert_eq!(shape.switches > 0, shape.mode == GpuMode::Ppcie, "{}", family.name);
            }
        }
    }

    #[test]
    fn a_device_in_two_families_and_unknown_fields_are_refused() {
        let twice = SHIPPED.replace("ids = [0x2bb5]", "ids = [0x2901]");
        assert!(matches!(Profiles::parse(&twice), Err(ProfileError::Twice { id: 0x2901, .. })));
        for ids in ["[0x2bb5, 0x2902]", "[0x2bb5, 0x20b0]", "[0x20b0]"] {
            let mixed = SHIPPED.replace("[0x2bb5]", ids);
            assert!(matches!(Profiles::parse(&mixed), Err(ProfileError::Chip { .. })), "{ids}");
        }
        let unknown = SHIPPED.replacen("\nbar2_gib", "\nbar3_gib", 1);
        let error = Profiles::parse(&unknown).unwrap_err();
        assert!(matches!(error, ProfileError::Malformed(_)), "{error}");
        let newer = SHIPPED.replace("schema = 1\n", "schema = 2\n");
        assert!(matches!(Profiles::parse(&newer), Err(ProfileError::Schema { found: 2 })));
    }
}
