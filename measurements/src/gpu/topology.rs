//! Do the GPUs and switches of a Hopper machine see each other and nobody else?
//!
//! In the mode PPCIE the links between GPUs and switches carry plain text, so each end must be
//! one that NVIDIA vouches for. A GPU names the switches at its links by the numbers that the
//! switches state of themselves. A switch names its GPUs by numbers too, but no GPU states its
//! own, so of those only the count is held and that all switches name the same ones.

use super::device::Device;
use super::opaque::{Mode, Pdi};

/// Checks the mesh; the text says what was found.
///
/// # Errors
/// The first link that is not as it should be, in words.
pub fn check(devices: &[Device]) -> Result<String, String> {
    let gpus: Vec<&Device> = devices.iter().filter(|device| device.gpu().is_some()).collect();
    let mut switches: Vec<(Pdi, &Device)> =
        devices.iter().filter_map(|device| Some((device.pdi()?, device))).collect();
    switches.sort_unstable_by_key(|(pdi, _)| *pdi);
    if let Some([(pdi, _), _]) = switches.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(format!("two switches state the number {pdi}"));
    }
    let expected: Vec<Pdi> = switches.iter().map(|(pdi, _)| *pdi).collect();
    for gpu in &gpus {
        let protected = gpu.gpu().and_then(|gpu| gpu.mode) == Some(Mode::ProtectedPcie);
        if protected == switches.is_empty() {
            let (id, count) = (gpu.identity(), switches.len());
            let mode = if protected { "in" } else { "not in" };
            return Err(format!("{id} is {mode} mode PPCIE, found {count} switches"));
        }
        if gpu.neighbours() != expected {
            let (id, found) = (gpu.identity(), text(gpu.neighbours()));
            return Err(format!("{id} is linked to switches {found}, not {}", text(&expected)));
        }
    }
    let seen = switches.first().map_or(&[][..], |(_, switch)| switch.neighbours());
    for (_, switch) in &switches {
        let (id, found) = (switch.identity(), switch.neighbours());
        if found != seen {
            return Err(format!("{id} is linked to other GPUs than {}", switches[0].1.identity()));
        }
        if found.len() != gpus.len() {
            return Err(format!("{id} is linked to {} GPUs, not {}", found.len(), gpus.len()));
        }
    }
    Ok(format!("{} GPUs linked to {} switches and to nothing else", gpus.len(), switches.len()))
}

fn text(pdis: &[Pdi]) -> String {
    let texts: Vec<String> = pdis.iter().map(Pdi::to_string).collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(" ") }
}
