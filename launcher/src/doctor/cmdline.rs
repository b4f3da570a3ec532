//! Which words of the kernel's command line keep SNP from being used, read as the kernel reads
//! them: `-` and `_` are one character in names, booleans come in several spellings, what is
//! said last holds, and nothing behind `--` is the kernel's.
//!
//! Sources: Linux 6.17, lib/cmdline.c (`next_arg`), lib/kstrtox.c (`kstrtobool`),
//! arch/x86/kernel/pci-dma.c (`iommu_setup`), drivers/iommu/amd/init.c
//! (`parse_amd_iommu_options`), arch/x86/virt/svm/cmdline.c (`init_sev_config`).

use std::collections::BTreeMap;

/// Modules without which there is no SNP.
const MODULES: [&str; 3] = ["ccp", "kvm", "kvm_amd"];

/// The words in force that keep SNP from being used, in their order.
pub(super) fn forbidding(cmdline: &str) -> Vec<String> {
    let mut state = InForce::default();
    for (at, word) in words(cmdline).iter().enumerate() {
        if word == "--" {
            break;
        }
        state.take(at, word);
    }
    let mut found: Vec<(usize, String)> = state.for_good;
    found.extend(state.passthrough);
    found.extend(state.second_tables);
    found.extend(state.modules.into_values());
    found.sort();
    found.into_iter().map(|(_, word)| word).collect()
}

/// A word and its place.
type Placed = (usize, String);

/// What the words so far have set.
#[derive(Debug, Default)]
struct InForce {
    /// What nothing later takes back.
    for_good: Vec<Placed>,
    /// The word that has the IOMMU pass everything through.
    passthrough: Option<Placed>,
    /// The word that has it use page tables of version 2.
    second_tables: Option<Placed>,
    /// By parameter of `kvm_amd`: the word that switches it off.
    modules: BTreeMap<String, Placed>,
}

impl InForce {
    fn take(&mut self, at: usize, word: &str) {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let name = name.replace('-', "_");
        let placed = || (at, word.to_owned());
        let parts = || value.unwrap_or_default().split(',');
        match name.as_str() {
            // The kernel compares beginnings here.
            "iommu" => {
                for part in parts() {
                    if part.starts_with("off") {
                        self.for_good.push(placed());
                    } else if part.starts_with("pt") {
                        self.passthrough = Some(placed());
                    } else if part.starts_with("nopt") {
                        self.passthrough = None;
                    }
                }
            }
            "iommu.passthrough" => match value.and_then(boolean) {
                Some(true) => self.passthrough = Some(placed()),
                Some(false) => self.passthrough = None,
                None => {}
            },
            "amd_iommu" => {
                for part in parts() {
                    if part.starts_with("off") {
                        self.for_good.push(placed());
                    } else if part.starts_with("pgtbl_v2") {
                        self.second_tables = Some(placed());
                    } else if part.starts_with("pgtbl_v1") {
                        self.second_tables = None;
                    }
                }
            }
            "sev" if parts().any(|part| part == "nosnp") => self.for_good.push(placed()),
            // A module's parameter without a value is switched on.
            "kvm_amd.sev" | "kvm_amd.sev_es" | "kvm_amd.sev_snp" => {
                match value.map_or(Some(true), boolean) {
                    Some(true) => drop(self.modules.remove(&name)),
                    Some(false) => drop(self.modules.insert(name, placed())),
                    None => {}
                }
            }
            "module_blacklist" | "modprobe.blacklist"
                if parts().any(|part| MODULES.contains(&part.replace('-', "_").as_str())) =>
            {
                self.for_good.push(placed());
            }
            _ => {}
        }
    }
}

/// A boolean, as the kernel reads it; `None` for what it refuses and so passes over.
fn boolean(text: &str) -> Option<bool> {
    let mut letters = text.chars().map(|c| c.to_ascii_lowercase());
    match (letters.next()?, letters.next()) {
        ('y' | 't' | '1' | 'e', _) | ('o', Some('n')) => Some(true),
        ('n' | 'f' | '0' | 'd', _) | ('o', Some('f')) => Some(false),
        _ => None,
    }
}

/// The words, divided by white space outside of quotation marks, without those.
fn words(cmdline: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for letter in cmdline.chars() {
        match letter {
            '"' => quoted = !quoted,
            letter if letter.is_ascii_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            letter => word.push(letter),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_switches_snp_off_in_any_spelling() {
        for word in [
            "iommu=pt",
            "iommu=force,pt",
            "iommu=off",
            "iommu.passthrough=1",
            "iommu.passthrough=on",
            "iommu.passthrough=y",
            "iommu.passthrough=Yes",
            "iommu.passthrough=true",
            "iommu.passthrough=ON",
            "amd_iommu=force_enable,pgtbl_v2",
            "amd_iommu=off",
            "amd-iommu=off",
            "kvm_amd.sev_snp=0",
            "kvm-amd.sev-snp=off",
            "kvm_amd.sev=n",
            "kvm_amd.sev_es=False",
            "sev=debug,nosnp",
            "module_blacklist=nouveau,ccp",
            "modprobe.blacklist=kvm-amd",
            "\"iommu=pt\"",
        ] {
            assert_eq!(forbidding(&format!("quiet {word} ro")), [word.trim_matches('"')], "{word}");
        }
        for words in [
            "",
            "quiet ro",
            "iommu=nopt",
            "iommu=soft",
            "amd_iommu=on",
            "iommu.passthrough=0",
            "iommu.passthrough=off",
            "iommu.passthrough=maybe",
            "iommu.passthrough",
            "iommu.strict=1",
            "kvm_amd.sev_snp",
            "kvm_amd.sev_snp=Y",
            "kvm_amd.nested=0",
            "module_blacklist=nouveau",
            "root=\"a b iommu=pt\"",
            "quiet -- iommu=pt",
        ] {
            assert_eq!(forbidding(words), [""; 0], "{words}");
        }
    }

    #[test]
    fn what_is_said_last_holds() {
        for (words, expected) in [
            ("iommu=pt iommu=nopt", &[][..]),
            ("iommu=nopt iommu=pt", &["iommu=pt"]),
            ("iommu=pt iommu.passthrough=off", &[]),
            ("iommu.passthrough=0 iommu=pt", &["iommu=pt"]),
            ("iommu.passthrough=1 iommu.passthrough=maybe", &["iommu.passthrough=1"]),
            ("amd_iommu=pgtbl_v2 amd_iommu=pgtbl_v1", &[]),
            ("amd_iommu=off amd_iommu=pgtbl_v1", &["amd_iommu=off"]),
            ("kvm_amd.sev_snp=0 kvm_amd.sev-snp=1", &[]),
            ("kvm_amd.sev_snp=1 kvm_amd.sev=0", &["kvm_amd.sev=0"]),
            ("iommu=off iommu=pt", &["iommu=off", "iommu=pt"]),
        ] {
            assert_eq!(forbidding(words), expected, "{words}");
        }
    }
}
