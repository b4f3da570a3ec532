//! Names of NVIDIA's chips. Launcher, guest and verifier name a GPU in the launch config, and all
//! of them take the name from here.
//!
//! NVIDIA itself writes one chip in several ways. A certificate may name a family, with an X for
//! each digit that it leaves open: the RTX PRO 6000's says `GB20X`, and only the signed report
//! says `GB202`. A certificate of a switch says `LS_10`, its manifest `LS10`.

use super::Architecture;

/// A chip: its lowest and its highest PCI device number, and its name. Ranges are those of
/// NVIDIA's gpu-admin-tools.
const CHIPS: [(u16, u16, &str); 6] = [
    (0x22f0, 0x237f, "GH100"),
    (0x2900, 0x297f, "GB100"),
    (0x2980, 0x29ff, "GB102"),
    (0x2b80, 0x2bff, "GB202"),
    (0x3180, 0x31ff, "GB110"),
    (0x3200, 0x327f, "GB112"),
];

/// The chip of a GPU with the PCI device number `device` of NVIDIA; `None` where it is none that
/// casemate knows.
#[must_use]
pub fn chip_of(device: u16) -> Option<&'static str> {
    let chip = CHIPS.iter().find(|(first, last, _)| (*first..=*last).contains(&device));
    chip.map(|(.., name)| *name)
}

/// What a device with this chip, or of this family of chips, is.
#[must_use]
pub fn architecture_of(chip: &str) -> Option<Architecture> {
    match chip.get(..2) {
        Some("GH") => Some(Architecture::Hopper),
        Some("GB") => Some(Architecture::Blackwell),
        _ if product_of(chip) == "LS10" => Some(Architecture::Ls10),
        _ => None,
    }
}

/// Whether `name` is the name of `chip`, or of its family: `GB20X` names `GB202`.
#[must_use]
pub fn is_named(chip: &str, name: &str) -> bool {
    let fits = |(chip, name): (u8, u8)| chip == name || (name == b'X' && chip.is_ascii_digit());
    chip.len() == name.len() && chip.bytes().zip(name.bytes()).all(fits)
}

/// The chip of a device whose certificate says `certificate` and whose signed report says
/// `report`: a report tells which chip of a family it is, and never that it is of another.
#[must_use]
pub fn chip_named_by<'a>(certificate: &'a str, report: Option<&'a str>) -> &'a str {
    report.filter(|chip| is_named(chip, certificate)).unwrap_or(certificate)
}

/// The name by which manifests are found, whichever way NVIDIA wrote it.
#[must_use]
pub fn product_of(name: &str) -> String {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    letters.map(|letter| letter.to_ascii_uppercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chip_has_an_architecture() {
        for (first, last, name) in CHIPS {
            assert_eq!(chip_of(first), Some(name));
            assert_eq!(chip_of(last), Some(name));
            assert!(architecture_of(name).is_some_and(|a| !a.is_switch()), "{name}");
        }
        assert_eq!(chip_of(0x2bb5), Some("GB202"));
        assert_eq!(chip_of(0x20b0), None);
        assert_eq!(architecture_of("LS_10"), Some(Architecture::Ls10));
        assert_eq!(architecture_of("GR102"), None);
    }

    #[test]
    fn a_family_names_its_chips_and_no_others() {
        for (chip, name, named) in [
            ("GB202", "GB202", true),
            ("GB202", "GB20X", true),
            ("GR102", "GR1XX", true),
            ("GB100", "GB20X", false),
            ("GB2021", "GB20X", false),
            ("GB20", "GB20X", false),
            ("GB20A", "GB20X", false),
            ("GB20X", "GB202", false),
            ("", "", true),
        ] {
            assert_eq!(is_named(chip, name), named, "{chip} {name}");
        }
        assert_eq!(chip_named_by("GB20X", Some("GB202")), "GB202");
        assert_eq!(chip_named_by("GB20X", Some("GB100")), "GB20X");
        assert_eq!(chip_named_by("GB20X", None), "GB20X");
        assert_eq!(chip_named_by("GB100", Some("GB202")), "GB100");
        assert_eq!(product_of("LS_10"), product_of("ls10"));
    }
}
