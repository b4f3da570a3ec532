//! How long a VM may take, by how much memory it has: firmware may accept all of an SNP guest's
//! memory before anything else runs, and the host needs time to take it back.

use std::time::Duration;

use casemate_measurements::platform::Platform;

use crate::machine::{Accel, Memory};
use crate::plan::Timeouts;

/// For each GiB of an SNP guest until its first word: eager acceptance was seen to take 2.5 s.
const ACCEPT_GIB: Duration = Duration::from_secs(4);
/// For each GiB until QEMU, told to quit, is gone.
const RELEASE_GIB: Duration = Duration::from_millis(100);

fn gib(memory: Memory) -> u32 {
    memory.mib().div_ceil(1024)
}

/// How long the phases of a boot may take.
pub(crate) fn boot(platform: Platform, memory: Memory, accel: Accel) -> Timeouts {
    let mut timeouts = Timeouts::for_accel(accel);
    if platform == Platform::Snp {
        timeouts.first_stage += ACCEPT_GIB * gib(memory);
    }
    timeouts
}

/// How long QEMU gets to go: `least`, and more for much memory.
pub(crate) fn release(memory: Memory, least: Duration) -> Duration {
    least + RELEASE_GIB * gib(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_guests_get_more_time() {
        let memory = |gib: u32| Memory::from_mib(gib * 1024).unwrap();
        let first = |platform, gib| boot(platform, memory(gib), Accel::Kvm).first_stage;
        // The slowest boot seen: 512 GiB, 20 minutes.
        assert!(first(Platform::Snp, 512) > Duration::from_mins(30));
        assert!(first(Platform::Snp, 2) < Duration::from_secs(70));
        let simulated = first(Platform::Simulated, 512);
        assert_eq!(simulated, Timeouts::for_accel(Accel::Kvm).first_stage);
        let least = Duration::from_secs(5);
        assert_eq!(release(memory(2), least), least + Duration::from_millis(200));
        assert!(release(memory(512), least) > Duration::from_secs(50));
    }
}
