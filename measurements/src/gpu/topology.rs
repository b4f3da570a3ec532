//! Do the GPUs and switches of a Hopper machine see each other and nobody else?
//!
//! In the mode PPCIE the links between GPUs and switches carry plain text, so each end must be
//! one that NVIDIA vouches for. A GPU names the switches at its links by the numbers that the
//! switches state of themselves. A switch names its GPUs by numbers too, but no GPU states its
//! own, so of those only the count is held and that all switches name the same ones.
//!
//! Several Blackwell GPUs of one VM are linked to each other too. Their links are encrypted in the mode
//! MPT alone, and that each report states this mode is all that there is to hold.

use super::device::Device;
use super::opaque::{Mode, Pdi};
use crate::gpu_evidence::Architecture;

/// Checks the mesh; the text says what was found.
///
/// # Errors
/// The first link that is not as it should be, in words.
pub fn check(devices: &[Device]) -> Result<String, String> {
    let gpus: Vec<&Device> = devices.iter().filter(|device| device.gpu().is_some()).collect();
    check_blackwells(&gpus)?;
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

/// Checks that several Blackwell GPUs all encrypt what they send each other.
fn check_blackwells(gpus: &[&Device]) -> Result<(), String> {
    let is_blackwell = |gpu: &&&Device| gpu.architecture() == Architecture::Blackwell;
    let blackwells: Vec<&&Device> = gpus.iter().filter(is_blackwell).collect();
    if blackwells.len() < 2 {
        return Ok(());
    }
    for gpu in &blackwells {
        let mode = match gpu.gpu().and_then(|gpu| gpu.mode) {
            Some(Mode::MultiplePassthrough) => continue,
            Some(mode) => format!("is in mode {mode}"),
            None => "states no mode".to_owned(),
        };
        let (id, count, right) = (gpu.identity(), blackwells.len(), Mode::MultiplePassthrough);
        return Err(format!("{id} {mode}, but the links of {count} GPUs need {right}"));
    }
    Ok(())
}

fn text(pdis: &[Pdi]) -> String {
    let texts: Vec<String> = pdis.iter().map(Pdi::to_string).collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(" ") }
}
