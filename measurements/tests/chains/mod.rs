//! Chains, good and bad by the dozen: each bad one fails the very check that it should.

use casemate_measurements::appraisal::{CheckName, Expect, RevocationPolicy, Verdict};
use casemate_measurements::certificates::CertificateTable;
use casemate_measurements::chain::UnixTime;
use casemate_measurements::evidence::{Base64Bytes, Evidence};
use casemate_measurements::hash::ChipId;
use casemate_measurements::report::SIGNED_LEN;
use casemate_measurements::revocation::{RevocationError, RevocationList};
use casemate_measurements::roots::Roots;
use casemate_measurements::tcb::{Product, Tcb};
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Encode as _, pem};

use crate::amd::{self, Draft, Endorsed, List, Maker, NOW, Scheme, extension, name};
use crate::scene::{Scene, refused, scene};

const YEAR: u64 = 365 * 24 * 60 * 60;
const PRODUCT_NAME: &str = "1.3.6.1.4.1.3704.1.2";
const HARDWARE_ID: &str = "1.3.6.1.4.1.3704.1.4";

fn spl(n: u8) -> String {
    format!("1.3.6.1.4.1.3704.1.3.{n}")
}

/// Holds the verdict on a scene with another table to a check and to words of its finding.
#[track_caller]
fn table_refused(table: CertificateTable, failed: &[CheckName], words: &str) {
    let mut scene = scene();
    scene.table = table;
    let verdict = scene.verdict();
    refused(&verdict, 2, failed);
    let found = &verdict.check(failed[0]).unwrap().found;
    assert!(found.contains(words), "{words}: {found}");
}

fn good() -> CertificateTable {
    Maker::get().table(&Endorsed::genoa())
}

fn with_vcek(vcek: Vec<u8>) -> CertificateTable {
    CertificateTable { vcek: Some(vcek), ..good() }
}

fn vcek_but(change: impl FnOnce(&mut Draft)) -> CertificateTable {
    with_vcek(Maker::get().vcek_but(&Endorsed::genoa(), change))
}

fn ask_but(change: impl FnOnce(&mut Draft)) -> CertificateTable {
    CertificateTable { ask: Some(Maker::get().ask_but(change)), ..good() }
}

/// Puts `value` in the place of an extension's, or removes the extension.
fn set(draft: &mut Draft, oid: &str, value: Option<&[u8]>) {
    let id = ObjectIdentifier::new(oid).unwrap();
    draft.extensions.retain(|extension| extension.extn_id != id);
    draft.extensions.extend(value.map(|value| extension(oid, false, value.to_vec())));
}

#[test]
fn other_signatures_than_amds_are_refused() {
    for (scheme, words) in [
        (Scheme::PssWithSalt(20), "is not signed with RSASSA-PSS, SHA-384"),
        (Scheme::PssWithSalt(0), "is not signed with RSASSA-PSS, SHA-384"),
        (Scheme::PssWithSha256, "is not signed with RSASSA-PSS, SHA-384"),
        (Scheme::Pkcs1, "is not signed with RSASSA-PSS, SHA-384"),
        (Scheme::Pkcs1ThatSaysPss, "is not signed by the A"),
    ] {
        table_refused(vcek_but(|draft| draft.scheme = scheme), &[CheckName::Chain], words);
        table_refused(ask_but(|draft| draft.scheme = scheme), &[CheckName::Chain], words);
        let root = Maker::get().ark_but(|draft| draft.scheme = scheme);
        assert!(Roots::amd().unwrap().with_simulated(&root).is_err(), "{words}");
    }
}

#[test]
fn each_certificate_must_be_valid_now() {
    let spans = [(NOW - YEAR, NOW - 1), (NOW + 1, NOW + YEAR)];
    for (from, to) in spans {
        let span = |draft: &mut Draft| (draft.from, draft.to) = (from, to);
        table_refused(vcek_but(span), &[CheckName::Chain], "VCEK certificate is valid from");
        table_refused(ask_but(span), &[CheckName::Chain], "ASK certificate is valid from");
        let root = Maker::get().ark_but(span);
        let mut scene = scene();
        scene.roots = Roots::amd().unwrap().with_simulated(&root).unwrap();
        scene.table.ark = None;
        let verdict = scene.verdict();
        refused(&verdict, 2, &[CheckName::Chain]);
        assert!(verdict.summary().contains("ARK certificate is valid from"), "{verdict}");
    }
    let mut scene = scene();
    for now in [NOW - 1000, NOW - 1000 + YEAR] {
        // The first and the last second of the key's certificate, whose chain lasts longer.
        scene.now = UnixTime(now);
        scene.table.ask = Some(Maker::get().ask_but(|draft| draft.to = NOW + 2 * YEAR));
        let root = Maker::get().ark_but(|draft| draft.to = NOW + 2 * YEAR);
        scene.roots = Roots::amd().unwrap().with_simulated(&root).unwrap();
        scene.table.ark = Some(root);
        assert_eq!(scene.verdict().exit_code(), 0);
    }
}

#[test]
fn each_link_must_hold() {
    let maker = Maker::get();
    let genoa = Endorsed::genoa();
    let chain = &[CheckName::Chain];
    let no_root = "no root that this verifier trusts";
    let ark = |ark| CertificateTable { ark: Some(ark), ..good() };
    table_refused(ark(maker.look_alike()), chain, no_root);
    table_refused(ark(maker.ask.clone()), chain, no_root);
    table_refused(ark(maker.ark_but(|draft| draft.serial = vec![9])), chain, no_root);
    table_refused(with_vcek(maker.vcek_of_root(&genoa)), chain, "is not signed by the ASK");
    let own = |draft: &mut Draft| draft.issuer = draft.subject.clone();
    table_refused(vcek_but(own), chain, "VCEK certificate names the issuer");
    table_refused(ask_but(own), chain, "ASK certificate names the issuer");
    let of_root = |draft: &mut Draft| draft.issuer = name("ARK SIMULATED");
    table_refused(vcek_but(of_root), chain, "VCEK certificate names the issuer");
    // An intermediate with everything right but the root's signature.
    let own_ask = CertificateTable { ask: Some(maker.look_alike()), ark: None, ..good() };
    table_refused(own_ask, chain, "not signed by the ARK");
    table_refused(ask_but(|draft| draft.extensions.clear()), chain, "no authority");
    for kept in ["2.5.29.19", "2.5.29.15"] {
        let id = ObjectIdentifier::new(kept).unwrap();
        let table = ask_but(|draft| draft.extensions.retain(|one| one.extn_id == id));
        table_refused(table, chain, "no authority");
    }
    let unmarked = ask_but(|draft| draft.subject = name("SEV-Genoa"));
    table_refused(unmarked, chain, "expected SIMULATED in its name");
}

#[test]
fn each_key_must_be_of_its_kind() {
    let maker = Maker::get();
    let rsa = maker.public_of_ask();
    let table = vcek_but(|draft| draft.public = rsa);
    table_refused(table, &[CheckName::Chain], "VCEK certificate has another key");
    let elliptic = amd::chip_public();
    let table = ask_but(|draft| draft.public = elliptic);
    table_refused(table, &[CheckName::Chain], "ASK certificate has another key");
    let small = amd::small_rsa_public();
    let table = ask_but(|draft| draft.public = small);
    table_refused(table, &[CheckName::Chain], "expected RSA 4096");
}

#[test]
fn extensions_are_there_once_and_well_formed() {
    use CheckName::{Chain, Chip, EndorsedTcb};
    let required = [(PRODUCT_NAME.to_owned(), Chain), (HARDWARE_ID.to_owned(), Chip)]
        .into_iter()
        .chain([1, 2, 3, 8].map(|n| (spl(n), EndorsedTcb)));
    for (oid, check) in required {
        let words = format!("extension {oid} is missing");
        table_refused(vcek_but(|draft| set(draft, &oid, None)), &[check], &words);
        let twice = |draft: &mut Draft| {
            let id = ObjectIdentifier::new(&oid).unwrap();
            let one = draft.extensions.iter().find(|one| one.extn_id == id).unwrap().clone();
            draft.extensions.push(one);
        };
        table_refused(vcek_but(twice), &[Chain], &words);
        // A hardware id is its bytes alone; anything else is DER.
        let check = if oid == HARDWARE_ID { Chip } else { Chain };
        for value in [&b""[..], b"\xff", b"\x02\x01", b"\x04\x01\x01"] {
            table_refused(vcek_but(|draft| set(draft, &oid, Some(value))), &[check], &words);
        }
        let critical = |draft: &mut Draft| {
            let id = ObjectIdentifier::new(&oid).unwrap();
            draft.extensions.iter_mut().find(|one| one.extn_id == id).unwrap().critical = true;
        };
        table_refused(vcek_but(critical), &[Chain], &words);
    }
    for n in [1, 2, 3, 8] {
        // 256, -1, and 10 with a needless zero byte.
        for value in [&b"\x02\x02\x01\x00"[..], b"\x02\x01\xff", b"\x02\x02\x00\x0a"] {
            let table = vcek_but(|draft| set(draft, &spl(n), Some(value)));
            table_refused(table, &[Chain], &spl(n));
        }
    }
    for n in 4..=7 {
        let part = |value: u8| value.to_der().unwrap();
        let mut scene = scene();
        scene.table = vcek_but(|draft| set(draft, &spl(n), Some(&part(0))));
        assert_eq!(scene.verdict().exit_code(), 0, "AMD's have them, always zero");
        table_refused(vcek_but(|d| set(d, &spl(n), Some(&part(1)))), &[EndorsedTcb], &spl(n));
    }
    let fmc = vcek_but(|draft| set(draft, &spl(9), Some(&1_u8.to_der().unwrap())));
    table_refused(fmc, &[EndorsedTcb], &spl(9));
    for product in ["", "Venice", "genoa", "Genoa ", "-Genoa"] {
        let endorsed = Endorsed { product, ..Endorsed::genoa() };
        table_refused(Maker::get().table(&endorsed), &[Chain], "for the product");
    }
}

#[test]
fn each_part_of_the_tcb_must_be_the_keys() {
    let genoa = Endorsed::genoa();
    for tcb in [
        Tcb { bootloader: 9, ..genoa.tcb },
        Tcb { tee: 1, ..genoa.tcb },
        Tcb { snp: 24, ..genoa.tcb },
        Tcb { microcode: 85, ..genoa.tcb },
    ] {
        let table = Maker::get().table(&Endorsed { tcb, ..genoa.clone() });
        table_refused(table, &[CheckName::EndorsedTcb], "the report's TCB is");
    }
    // Bytes of the report's TCB that its product reserves.
    for at in 2..6 {
        let mut scene = scene();
        scene.fields.tcb[at] = 1;
        refused(&scene.verdict(), 2, &[CheckName::EndorsedTcb]);
    }
}

#[test]
fn a_chip_cannot_hide_or_borrow_another_key() {
    let mut scene = scene();
    scene.fields.chip_id = ChipId::from_bytes([0; 64]);
    refused(&scene.verdict(), 2, &[CheckName::Chip]);
    for at in [0, 7, 8, 63] {
        let mut id = [0xc1; 64];
        id[at] ^= 1;
        scene.fields.chip_id = ChipId::from_bytes(id);
        refused(&scene.verdict(), 2, &[CheckName::Chip]);
    }
}

/// A scene on a Turin machine.
fn turin() -> (Scene, Endorsed) {
    let mut scene = scene();
    let tcb = Tcb { fmc: 1, bootloader: 1, tee: 1, snp: 4, microcode: 0x51 };
    let mut chip_id = [0; 64];
    chip_id[..8].copy_from_slice(&[0xc1; 8]);
    scene.fields.cpuid = (0x1a, 0x02, 0x01);
    scene.fields.chip_id = ChipId::from_bytes(chip_id);
    scene.fields.tcb = tcb.to_raw(Product::Turin);
    let hardware_id = vec![0xc1; 8];
    let endorsed = Endorsed { product: "Turin", tcb, hardware_id, ..Endorsed::genoa() };
    (scene, endorsed)
}

#[test]
fn turin_has_its_own_layout() {
    let maker = Maker::get();
    let (mut scene, good) = turin();
    scene.table = maker.table(&good);
    assert_eq!(scene.verdict().exit_code(), 0);
    let other = Endorsed { tcb: Tcb { fmc: 2, ..good.tcb }, ..good.clone() };
    scene.table = maker.table(&other);
    refused(&scene.verdict(), 2, &[CheckName::EndorsedTcb]);
    scene.table.vcek = Some(maker.vcek_but(&good, |draft| set(draft, &spl(9), None)));
    refused(&scene.verdict(), 2, &[CheckName::EndorsedTcb]);
    for hardware_id in [vec![0xc1; 64], vec![0xc1; 7], vec![0; 8], vec![0xc2; 8]] {
        scene.table = maker.table(&Endorsed { hardware_id, ..good.clone() });
        refused(&scene.verdict(), 2, &[CheckName::Chip]);
    }
    scene.table = maker.table(&good);
    let mut longer = *scene.fields.chip_id.as_bytes();
    longer[8] = 1;
    scene.fields.chip_id = ChipId::from_bytes(longer);
    refused(&scene.verdict(), 2, &[CheckName::Chip]);
    scene.fields.chip_id = ChipId::from_bytes([0; 64]);
    refused(&scene.verdict(), 2, &[CheckName::Chip]);
    // A report of Turin under a key that is endorsed for Genoa.
    let (mut scene, _) = turin();
    scene.table = maker.table(&Endorsed::genoa());
    refused(&scene.verdict(), 2, &[CheckName::Chain]);
}

/// Evidence whose report says that a provider's key signed it.
pub(crate) fn by_provider(scene: &Scene) -> Evidence {
    let mut evidence = scene.evidence();
    let mut signed = [0; SIGNED_LEN];
    signed.copy_from_slice(&evidence.report.0[..SIGNED_LEN]);
    signed[0x48] |= 1 << 2;
    evidence.report = Base64Bytes(amd::sign_bytes(&signed));
    evidence
}

#[test]
fn a_providers_key_is_endorsed_for_no_chip_and_taken_for_no_other() {
    let maker = Maker::get();
    let mut scene = scene();
    let vlek = maker.vcek(&Endorsed { name: "SEV-VLEK SIMULATED", ..Endorsed::genoa() });
    scene.table = CertificateTable { vcek: None, vlek: Some(vlek), ..good() };
    let evidence = by_provider(&scene);
    let verdict = scene.judge(&evidence);
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    assert!(verdict.check(CheckName::Chip).unwrap().found.contains("VLEK"));
    // The report says whose key it is: the other's place in the table is not looked at.
    let verdict = scene.verdict();
    refused(&verdict, 2, &[CheckName::Chain]);
    assert!(verdict.summary().contains("no VCEK certificate"), "{verdict}");
    scene.table = good();
    let verdict = scene.judge(&by_provider(&scene));
    refused(&verdict, 2, &[CheckName::Chain]);
    assert!(verdict.summary().contains("no VLEK certificate"), "{verdict}");
    let older = Tcb { snp: 22, ..Endorsed::genoa().tcb };
    let older = Endorsed { name: "SEV-VLEK SIMULATED", tcb: older, ..Endorsed::genoa() };
    scene.table = CertificateTable { vlek: Some(maker.vcek(&older)), ..good() };
    refused(&scene.judge(&by_provider(&scene)), 2, &[CheckName::EndorsedTcb]);
}

#[test]
fn files_are_one_certificate_and_nothing_else() {
    let vcek = good().vcek.unwrap();
    let malformed = "VCEK certificate is malformed";
    let chain = &[CheckName::Chain];
    let junk: Vec<u8> = [&vcek[..], b"\0"].concat();
    table_refused(with_vcek(junk), chain, malformed);
    table_refused(with_vcek([&vcek[..], &vcek].concat()), chain, malformed);
    table_refused(with_vcek(vcek[..vcek.len() - 1].to_vec()), chain, malformed);
    table_refused(with_vcek(vec![]), chain, malformed);
    table_refused(with_vcek(vec![0x30, 0x80, 0, 0]), chain, malformed);
    // Announces 4 GiB.
    table_refused(with_vcek(vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), chain, malformed);
    table_refused(with_vcek(vec![0x30; 16 * 1024 + 1]), chain, "has 16385 bytes");
    let text = pem::encode_string("CERTIFICATE", pem::LineEnding::LF, &vcek).unwrap();
    let mut scene = scene();
    scene.table = with_vcek(format!("{text}\n\n").into_bytes());
    assert_eq!(scene.verdict().exit_code(), 0);
    for text in [
        format!("{text}junk"),
        format!("{text}{text}"),
        text.replace("CERTIFICATE", "X509 CRL"),
        text.replace("-----END", "----END"),
        text.replacen('M', "!", 1),
    ] {
        table_refused(with_vcek(text.into_bytes()), chain, malformed);
    }
    // Text before PEM is neither PEM nor DER.
    table_refused(with_vcek(format!("junk\n{text}").into_bytes()), chain, malformed);
    // A serial number may have 20 bytes.
    scene.table = vcek_but(|draft| draft.serial = vec![1; 20]);
    assert_eq!(scene.verdict().exit_code(), 0);
}

/// A scene whose verifier has these lists.
fn judged_by(lists: Vec<RevocationList>) -> Verdict {
    let mut scene = scene();
    scene.policy.revocation = RevocationPolicy::Required;
    scene.lists = lists;
    scene.verdict()
}

fn parsed(list: &List) -> RevocationList {
    RevocationList::parse(&Maker::get().list(list)).unwrap()
}

#[test]
fn a_current_list_that_names_none_passes() {
    // The number zero is every chip's, so it names none.
    for revoked in [vec![], vec![7], vec![0, 3]] {
        let verdict = judged_by(vec![parsed(&List { revoked, ..List::current() })]);
        assert_eq!(verdict.exit_code(), 0, "{verdict}");
        assert!(verdict.check(CheckName::Revocation).unwrap().found.contains("ARK SIMULATED"));
    }
    let verdict = judged_by(vec![parsed(&List::current()), parsed(&List::current())]);
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
}

#[test]
fn without_a_list_nothing_is_judged_and_the_policy_decides() {
    let verdict = judged_by(vec![]);
    refused(&verdict, 3, &[CheckName::RevocationList]);
    let found = &verdict.check(CheckName::Revocation).unwrap().found;
    assert!(found.contains("not judged: no revocation list of ARK SIMULATED given"), "{found}");
    // A list of another root is none.
    let other = List { issuer: "ARK-Genoa", ..List::current() };
    refused(&judged_by(vec![parsed(&other)]), 3, &[CheckName::RevocationList]);
    let mut scene = scene();
    scene.policy.platform = Expect::Any;
    assert_eq!(scene.policy.revocation, RevocationPolicy::WhenGiven);
    assert_eq!(scene.verdict().exit_code(), 0);
}

#[test]
fn what_a_list_names_is_refused() {
    for (serial, words) in [(1, "ARK certificate"), (2, "ASK certificate")] {
        let list = parsed(&List { revoked: vec![9, serial], ..List::current() });
        let verdict = judged_by(vec![parsed(&List::current()), list]);
        refused(&verdict, 2, &[CheckName::Revocation]);
        let found = &verdict.check(CheckName::Revocation).unwrap().found;
        assert!(found.contains(words) && found.contains("was revoked at 2026-"), "{found}");
    }
    let mut scene = scene();
    scene.table = vcek_but(|draft| draft.serial = vec![5]);
    scene.lists = vec![parsed(&List { revoked: vec![5], ..List::current() })];
    let verdict = scene.verdict();
    refused(&verdict, 2, &[CheckName::Revocation]);
    assert!(verdict.summary().contains("VCEK certificate"), "{verdict}");
}

#[test]
fn lists_of_another_time_or_signer_are_refused() {
    let maker = Maker::get();
    for (from, to) in [(NOW - 1000, NOW - 1), (NOW + 1, NOW + 1000)] {
        let verdict = judged_by(vec![parsed(&List { from, to: Some(to), ..List::current() })]);
        refused(&verdict, 2, &[CheckName::Revocation]);
        assert!(verdict.summary().contains("revocation list speaks from"), "{verdict}");
    }
    let forged = RevocationList::parse(&maker.forged_list(&List::current())).unwrap();
    let verdict = judged_by(vec![forged]);
    refused(&verdict, 2, &[CheckName::Revocation]);
    assert!(verdict.summary().contains("is not signed by ARK SIMULATED"), "{verdict}");
    let lies = List { scheme: Scheme::Pkcs1ThatSaysPss, ..List::current() };
    refused(&judged_by(vec![parsed(&lies)]), 2, &[CheckName::Revocation]);
    // A root that may sign certificates and no lists.
    let usage = |draft: &mut Draft| set(draft, "2.5.29.15", Some(&[3, 2, 2, 4]));
    let root = maker.ark_but(usage);
    let mut scene = scene();
    scene.roots = Roots::amd().unwrap().with_simulated(&root).unwrap();
    scene.table.ark = Some(root);
    scene.lists = vec![parsed(&List::current())];
    let verdict = scene.verdict();
    refused(&verdict, 2, &[CheckName::Revocation]);
    assert!(verdict.summary().contains("no such lists"), "{verdict}");
}

#[test]
fn what_is_no_list_is_refused_by_name() {
    let maker = Maker::get();
    let parse = |list: &List| RevocationList::parse(&maker.list(list));
    assert_eq!(parse(&List { to: None, ..List::current() }), Err(RevocationError::Endless));
    // The mark of a list that only says what changed.
    let oid = "2.5.29.27";
    let delta = parse(&List { critical: Some(oid), ..List::current() });
    assert_eq!(delta, Err(RevocationError::Extension { oid: oid.into() }));
    for scheme in [Scheme::Pkcs1, Scheme::PssWithSha256, Scheme::PssWithSalt(32)] {
        let refused = parse(&List { scheme, ..List::current() });
        assert_eq!(refused, Err(RevocationError::SignatureAlgorithm));
    }
    let good = maker.list(&List::current());
    for bytes in [&b""[..], b"junk", &good[..good.len() - 1], &maker.ask] {
        let refused = RevocationList::parse(bytes);
        assert!(matches!(refused, Err(RevocationError::Malformed(_))), "{refused:?}");
    }
    let long = vec![0x30; 256 * 1024 + 1];
    assert!(matches!(RevocationList::parse(&long), Err(RevocationError::TooLong { .. })));
    let text = pem::encode_string("X509 CRL", pem::LineEnding::LF, &good).unwrap();
    assert_eq!(RevocationList::parse(text.as_bytes()), RevocationList::parse(&good));
    let text = text.replace("X509 CRL", "CERTIFICATE");
    assert!(RevocationList::parse(text.as_bytes()).is_err());
}

#[test]
fn a_changed_byte_of_a_list_is_noticed() {
    let good = Maker::get().list(&List { revoked: vec![9], ..List::current() });
    for at in (0..good.len()).step_by(31) {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        let Ok(list) = RevocationList::parse(&bytes) else { continue };
        let verdict = judged_by(vec![list]);
        // With another name it is no list of the root.
        let code = verdict.exit_code();
        assert!(code == 2 || code == 3, "byte {at} changed unnoticed: {verdict}");
    }
}
