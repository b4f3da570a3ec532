//! `casemate verify report`, by the program itself, on a report that a real processor signed and on
//! the shapes in which other programs write it and its certificates.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use std::path::PathBuf;
use std::process::{Command, Output};

#[path = "../../measurements/tests/vectors/mod.rs"]
mod vectors;

/// A directory with the files of one report of Genoa.
struct Files(tempfile::TempDir);

impl Files {
    /// None, after printing why, without the vectors.
    fn new() -> Option<Self> {
        let files = Self(tempfile::tempdir().unwrap());
        for (name, of) in [
            ("r.bin", "genoa_attestation_report.bin"),
            ("vcek.pem", "genoa_vcek.pem"),
            ("ask.pem", "genoa_ask.pem"),
            ("ark.pem", "genoa_ark.pem"),
        ] {
            files.put(name, &vectors::read(&format!("reports/ms_tav/{of}"))?);
        }
        Some(files)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.path(name), bytes).unwrap();
        name.to_owned()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8(self.bytes(name)).unwrap().trim_end().to_owned()
    }

    /// What the program says of it; it must end with `code`.
    #[track_caller]
    fn verify(&self, code: i32, words: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_casemate"));
        command.current_dir(self.0.path()).args(["verify", "report"]).args(words);
        let Output { status, stdout, stderr } = command.arg("--offline").output().unwrap();
        let said = String::from_utf8([stdout, stderr].concat()).unwrap();
        assert_eq!(status.code(), Some(code), "{words:?}\n{said}");
        said
    }
}

#[test]
fn certificates_are_found_in_whatever_shape_they_are() {
    let Some(files) = Files::new() else { return };
    let [vcek, ask, ark] = ["vcek.pem", "ask.pem", "ark.pem"].map(|name| files.text(name));
    let indented = |text: &str| format!("  {}\n", text.replace('\n', "\n  "));
    let der = |text: &str| {
        let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        let mut command = Command::new("base64");
        let input = files.path("body");
        std::fs::write(&input, body).unwrap();
        command.arg("-d").arg(input).output().unwrap().stdout
    };
    for (name, bytes) in [
        ("text", format!("Certificate:\n    Data:\n{vcek}\n").into_bytes()),
        ("bag", format!("Bag Attributes\n    friendlyName: vcek\n{vcek}\n").into_bytes()),
        ("mark", format!("\u{feff}{vcek}\r\n").into_bytes()),
        ("indented", indented(&vcek).into_bytes()),
        ("lines", vcek.replace('\n', "\r\n").into_bytes()),
        ("json", format!("{{\"vcek\": {vcek:?}}}").into_bytes()),
        ("twice", format!("{vcek}\n{vcek}\n").into_bytes()),
        ("der", der(&vcek)),
    ] {
        let name = files.put(name, &bytes);
        files.verify(0, &["r.bin", "--vek", &name, "--ask", "ask.pem"]);
    }
    // The chain in any order, in either file or in one.
    for (name, chain) in [
        ("chain", format!("{ask}\n{ark}\n")),
        ("reversed", format!("{ark}\n{ask}\n")),
        ("bundle", format!("{vcek}\n{ask}\n{ark}\n")),
    ] {
        let name = files.put(name, chain.as_bytes());
        files.verify(0, &["r.bin", "--vek", "vcek.pem", "--ask", &name]);
    }
    files.verify(0, &["r.bin", "--vek", "bundle"]);
    files.verify(0, &["r.bin", "--vek", "bundle", "--ask", "bundle"]);
    files.put("ders", &[der(&vcek), der(&ask)].concat());
    files.verify(0, &["r.bin", "--vek", "ders"]);
}

/// Whatever the verifier typed and cannot be read says nothing about the report.
#[test]
fn a_file_that_cannot_be_used_is_named_and_judges_nothing() {
    let Some(files) = Files::new() else { return };
    let vcek = files.text("vcek.pem");
    files.put("cut", &vcek.as_bytes()[..vcek.len() / 2]);
    files.put("damaged", vcek.replacen("MII", "MIJ", 1).as_bytes());
    files.put("key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n");
    files.put("empty", b"");
    for (words, expected) in [
        (["r.bin", "--vek", "cut", "--ask", "ask.pem"], "cut off or damaged"),
        (["r.bin", "--vek", "damaged", "--ask", "ask.pem"], "cut off or damaged"),
        (["r.bin", "--vek", "key", "--ask", "ask.pem"], "no certificate in it"),
        (["r.bin", "--vek", "empty", "--ask", "ask.pem"], "no certificate in it"),
        (["r.bin", "--vek", "ask.pem", "--ask", "ask.pem"], "holds an ASK, expected the VCEK"),
        (["r.bin", "--vek", "vcek.pem", "--ask", "ark.pem"], "holds an ARK, expected the ASK"),
        (["r.bin", "--vek", "vcek.pem", "--ask", "vcek.pem"], "holds a VCEK, expected the ASK"),
        (["vcek.pem", "--vek", "vcek.pem", "--ask", "ask.pem"], "holds no report"),
        (["empty", "--vek", "vcek.pem", "--ask", "ask.pem"], "holds no report"),
    ] {
        let said = files.verify(1, &words);
        assert!(said.contains(expected) && !said.contains("genuine"), "{words:?}: {said}");
    }
}

#[test]
fn a_report_is_taken_out_of_the_devices_reply() {
    let Some(files) = Files::new() else { return };
    let report = files.bytes("r.bin");
    let header = [&[0, 0, 0, 0, 0xa0, 4, 0, 0][..], &[0; 24]].concat();
    let certificates = ["--vek", "vcek.pem", "--ask", "ask.pem"];
    let judge = |code, name: &str| files.verify(code, &[&[name], &certificates[..]].concat());
    for (name, bytes) in [
        ("message", [&header[..], &report].concat()),
        ("buffer", [&header[..], &report, &[0; 2784]].concat()),
        ("padded", [&report[..], &[0; 2912]].concat()),
    ] {
        judge(0, &files.put(name, &bytes));
    }
    let mut forged = [&header[..], &report].concat();
    forged[32 + 0x90] ^= 1;
    judge(2, &files.put("forged", &forged));
    for (name, bytes, expected) in [
        ("short", report[..1183].to_vec(), "1183 bytes that are neither a report"),
        ("behind", [&report[..], b"x"].concat(), "1185 bytes that are neither a report"),
        ("refused", [&[0x16, 0, 0, 0][..], &[0; 3996]].concat(), "refused with 0x16"),
        ("newer", [&[6][..], &report[1..]].concat(), "report has version 6, expected 2 to 5"),
    ] {
        let said = judge(1, &files.put(name, &bytes));
        assert!(said.contains(expected) && !said.contains("genuine"), "{name}: {said}");
    }
}

/// The layout is that of version 3, so it is read, and refused for what is wrong with it: the
/// signature, since only the number was changed.
#[test]
fn version_4_is_judged_as_version_3_is() {
    let Some(files) = Files::new() else { return };
    let mut report = files.bytes("r.bin");
    report[0] = 4;
    files.put("r4.bin", &report);
    let said = files.verify(2, &["r4.bin", "--vek", "vcek.pem", "--ask", "ask.pem"]);
    assert!(said.contains("not genuine: report signature"), "{said}");
}

/// Whoever owns a Milan chip can sign any report with it.
#[test]
fn a_genuine_report_of_milan_is_told_to_be_worth_its_custody() {
    let Some(files) = Files::new() else { return };
    for (name, of) in [
        ("m.bin", "milan_attestation_report.bin"),
        ("mv", "milan_vcek.pem"),
        ("ma", "milan_ask.pem"),
    ] {
        files.put(name, &vectors::read(&format!("reports/ms_tav/{of}")).unwrap());
    }
    let said = files.verify(0, &["m.bin", "--vek", "mv", "--ask", "ma"]);
    assert!(said.contains("custody") && said.contains("2605.12990"), "{said}");
    let said = files.verify(0, &["r.bin", "--vek", "vcek.pem", "--ask", "ask.pem"]);
    assert!(!said.contains("custody"), "{said}");
}
