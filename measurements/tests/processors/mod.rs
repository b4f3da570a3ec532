//! Processors of every silicon: the least firmware of each, and Milan's chips by their ids alone.

use casemate_measurements::appraisal::{CheckName, Expect, Outcome, Verdict};
use casemate_measurements::evidence::{Base64Bytes, Evidence};
use casemate_measurements::hash::ChipId;
use casemate_measurements::report::SIGNED_LEN;
use casemate_measurements::silicon::ROWS;
use casemate_measurements::tcb::{Product, Tcb};

use crate::amd::{self, Endorsed, Maker};
use crate::chains::by_provider;
use crate::scene::{Scene, refused, scene};

const fn tcb(fmc: u8, bootloader: u8, tee: u8, snp: u8, microcode: u8) -> Tcb {
    Tcb { fmc, bootloader, tee, snp, microcode }
}

/// A VM on a machine with this processor and firmware.
fn on(product: Product, cpuid: (u8, u8, u8), tcb: Tcb) -> Scene {
    let mut scene = scene();
    let mut chip = [0; ChipId::LEN];
    chip[..8].fill(0xc1);
    let mut hardware_id = vec![0xc1; 8];
    if product != Product::Turin {
        chip = [0xc1; ChipId::LEN];
        hardware_id = chip.to_vec();
    }
    scene.fields.cpuid = cpuid;
    scene.fields.chip_id = ChipId::from_bytes(chip);
    scene.fields.tcb = tcb.to_raw(product);
    let endorsed = Endorsed { product: product.name(), hardware_id, tcb, ..Endorsed::genoa() };
    scene.table = Maker::get().table(&endorsed);
    scene
}

/// [`on`], with the chip named by the policy.
fn named(product: Product, cpuid: (u8, u8, u8), tcb: Tcb) -> Scene {
    let mut scene = on(product, cpuid, tcb);
    scene.policy.chips.allow = Expect::Exactly(scene.fields.chip_id);
    scene
}

fn accepted(verdict: &Verdict) {
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
}

#[test]
fn patched_machines_of_every_silicon_are_accepted() {
    let (milan, genoa, turin) = (Product::Milan, Product::Genoa, Product::Turin);
    for (product, cpuid, tcb) in [
        (milan, (0x19, 0x01, 0x01), tcb(0, 4, 0, 27, 0xde)),
        (milan, (0x19, 0x01, 0x02), tcb(0, 4, 0, 27, 0x47)),
        (genoa, (0x19, 0x11, 0x01), tcb(0, 10, 0, 27, 0x56)),
        (genoa, (0x19, 0x11, 0x02), tcb(0, 10, 0, 27, 0x51)),
        // A machine that was seen: EPYC 8004.
        (genoa, (0x19, 0xa0, 0x02), tcb(0, 12, 0, 28, 28)),
        (turin, (0x1a, 0x02, 0x01), tcb(1, 1, 1, 4, 0x51)),
        (turin, (0x1a, 0x11, 0x00), tcb(1, 1, 1, 4, 0x4e)),
    ] {
        accepted(&named(product, cpuid, tcb).verdict());
    }
}

#[test]
fn machines_with_known_holes_are_refused() {
    let (milan, genoa, turin) = (Product::Milan, Product::Genoa, Product::Turin);
    for (product, cpuid, tcb) in [
        // RMPocalypse (AMD-SB-3020) and AMD-SB-3023 are open.
        (genoa, (0x19, 0x11, 0x01), tcb(0, 10, 0, 23, 0x54)),
        (genoa, (0x19, 0x11, 0x01), tcb(0, 10, 0, 26, 0x56)),
        (genoa, (0x19, 0x11, 0x01), tcb(0, 10, 0, 27, 0x55)),
        (milan, (0x19, 0x01, 0x01), tcb(0, 4, 0, 24, 0xdb)),
        (milan, (0x19, 0x01, 0x01), tcb(0, 4, 0, 27, 0xdd)),
        (genoa, (0x19, 0xa0, 0x02), tcb(0, 12, 0, 26, 28)),
        (genoa, (0x19, 0xa0, 0x02), tcb(0, 12, 0, 28, 0x18)),
        (turin, (0x1a, 0x02, 0x01), tcb(1, 1, 1, 4, 0x4e)),
        // A stepping that was never sold has no row.
        (genoa, (0x19, 0x11, 0x00), tcb(0, 10, 0, 99, 0xff)),
    ] {
        refused(&named(product, cpuid, tcb).verdict(), 3, &[CheckName::TcbFloor]);
    }
}

#[test]
fn chips_of_milan_are_accepted_by_their_ids_alone() {
    let (product, cpuid, tcb) = (Product::Milan, (0x19, 0x01, 0x01), tcb(0, 4, 0, 99, 0xff));
    let verdict = on(product, cpuid, tcb).verdict();
    refused(&verdict, 3, &[CheckName::ChipAllowed]);
    let expected = &verdict.check(CheckName::ChipAllowed).unwrap().expected;
    assert!(expected.contains("2605.12990") && expected.contains("chips.allow"), "{expected}");
    accepted(&named(product, cpuid, tcb).verdict());
    let mut other = named(product, cpuid, tcb);
    other.policy.chips.allow = Expect::OneOf(vec![ChipId::from_bytes([0xc2; 64])]);
    refused(&other.verdict(), 3, &[CheckName::ChipAllowed]);
    // A provider's key is endorsed for no chip, so there the id is worth nothing.
    let mut provider = named(product, cpuid, tcb);
    let endorsed =
        Endorsed { name: "SEV-VLEK SIMULATED", product: "Milan", tcb, ..Endorsed::genoa() };
    provider.table.vlek = Some(Maker::get().vcek(&endorsed));
    refused(&provider.judge(&by_provider(&provider)), 3, &[CheckName::ChipAllowed]);
    // Other products may stay open.
    let genoa = on(Product::Genoa, (0x19, 0x11, 0x01), self::tcb(0, 10, 0, 27, 0x56)).verdict();
    assert_eq!(genoa.check(CheckName::ChipAllowed).unwrap().outcome, Outcome::Skipped);
    accepted(&genoa);
}

/// What the VM sends where its firmware writes reports of version 2.
fn of_version_2(scene: &Scene) -> Evidence {
    let mut evidence = scene.evidence();
    let mut signed = [0; SIGNED_LEN];
    signed.copy_from_slice(&evidence.report.0[..SIGNED_LEN]);
    signed[0] = 2;
    signed[0x188..0x18b].fill(0);
    evidence.report = Base64Bytes(amd::sign_bytes(&signed));
    evidence
}

#[test]
fn a_report_that_states_no_silicon_must_be_new_enough_for_all_of_its_product() {
    let judge = |tcb| {
        let scene = on(Product::Genoa, (0x19, 0x11, 0x01), tcb);
        scene.judge(&of_version_2(&scene))
    };
    accepted(&judge(tcb(0, 10, 0, 27, 0x56)));
    for old in [tcb(0, 12, 0, 28, 28), tcb(0, 10, 0, 27, 0x55), tcb(0, 10, 0, 26, 0x56)] {
        let verdict = judge(old);
        refused(&verdict, 3, &[CheckName::TcbFloor]);
        let expected = &verdict.check(CheckName::TcbFloor).unwrap().expected;
        assert!(expected.contains("version 2 does not say"), "{expected}");
    }
}

/// The table that validators read states what is demanded.
#[test]
fn the_documented_floors_are_those_that_hold() {
    let docs = include_str!("../../../docs/validator.md");
    for row in &ROWS {
        let (family, model, stepping) = row.cpuid;
        let Tcb { fmc, bootloader, tee, snp, microcode } = row.floor();
        let mark = if row.microcode.source.contains("another verifier") { " (o)" } else { "" };
        let expected = format!(
            "| `{}` | {family:#04x}, {model:#04x}, {stepping} ({}) | {fmc} | {bootloader} | {tee} | \
             {snp} | {microcode:#04x}{mark} |",
            row.line, row.stepping
        );
        assert!(docs.lines().any(|line| line == expected), "not in docs: {expected}");
    }
}
