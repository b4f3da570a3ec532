//! Which shapes a manifest lists, in few words.

use std::collections::BTreeSet;

use casemate_measurements::launch::ranges;
use casemate_measurements::manifest::Manifest;

/// What a manifest lists, in few words: each CPU model with its numbers of vCPUs.
pub(crate) fn listed(manifest: &Manifest) -> String {
    let models: BTreeSet<_> =
        manifest.reference_values.iter().map(|row| (row.vmm, row.cpu_model)).collect();
    let counts = |vmm, model| {
        let rows = manifest.reference_values.iter();
        let rows = rows.filter(|row| (row.vmm, row.cpu_model) == (vmm, model));
        ranges(&rows.map(|row| row.vcpus.get()).collect())
    };
    let texts: Vec<String> = models
        .into_iter()
        .map(|(vmm, model)| format!("{model} on {vmm} with {} vCPUs", counts(vmm, model)))
        .collect();
    texts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_short() {
        assert_eq!(ranges(&BTreeSet::from([1, 2, 3, 4, 8])), "1-4, 8");
        assert_eq!(ranges(&BTreeSet::from([2])), "2");
    }
}
