//! `casemate measure` and `casemate explain`, by the program itself.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

#[path = "../../launcher/tests/it/fixture.rs"]
#[expect(dead_code, reason = "the launcher's own tests use all of it")]
mod fixture;
#[path = "../../measurements/tests/vectors/mod.rs"]
mod vectors;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use casemate_measurements::firmware::{Firmware, Layout};
use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::law::OpenLaw;
use casemate_measurements::manifest::Manifest;
use casemate_measurements::platform::Platform;
use fixture::Contents;
use serde_json::Value;

fn casemate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_casemate")).args(args).output().unwrap()
}

/// What it prints; it must end with `code`.
fn run(code: i32, args: &[&str]) -> String {
    let Output { status, stdout, stderr } = casemate(args);
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(status.code(), Some(code), "{args:?}\n{stdout}\n{stderr}");
    if code == 1 { stderr } else { stdout.trim_end().to_owned() }
}

fn json(code: i32, args: &[&str]) -> Value {
    serde_json::from_str(&run(code, &[args, &["--format", "json"]].concat())).unwrap()
}

fn release(dir: &Path) -> Manifest {
    Contents::unbootable(Platform::Snp).write(dir)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The digest of the release in `dir` from its files, however they are named.
fn from_files(dir: &Path, change: &[(&str, &str)]) -> Vec<String> {
    let file = |name: &str| text(&dir.join(name)).to_owned();
    let mut args = vec!["measure".into(), "digest".into()];
    for (option, value) in [
        ("--firmware", file("firmware.fd")),
        ("--kernel", file("vmlinuz")),
        ("--initrd", file("initrd")),
        ("--cmdline-file", file("cmdline")),
        ("--vcpus", "2".into()),
        ("--cpu", "EPYC-v4".into()),
    ] {
        match change.iter().find(|(name, _)| name.split('=').next() == Some(option)) {
            Some((_, "")) => {}
            Some((name, value)) => {
                args.extend([name.split('=').next_back().unwrap().into(), (*value).to_owned()]);
            }
            None => args.extend([option.into(), value]),
        }
    }
    args
}

fn run_files(code: i32, dir: &Path, change: &[(&str, &str)]) -> String {
    let args = from_files(dir, change);
    run(code, &args.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn files_hashes_laws_and_releases_give_one_digest() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = release(dir.path());
    let row = manifest
        .reference_values
        .iter()
        .find(|row| row.vcpus.get() == 2 && row.cpu_model.to_string() == "EPYC-v4");
    let expected = row.unwrap().measurement.to_string();
    let law = dir.path().join("law.json");
    let firmware = dir.path().join("firmware.fd");
    fs::write(&law, run(0, &["measure", "law", "--firmware", text(&firmware)])).unwrap();
    let kernel = format!("sha256:{}", manifest.artifacts["vmlinuz"].sha256);
    let initrd = format!("sha256:{}", manifest.artifacts["initrd"].sha256);
    for change in [
        &[][..],
        &[("--kernel", kernel.as_str()), ("--initrd", &initrd)],
        &[("--firmware=--law", text(&law))],
        &[("--cmdline-file=--cmdline", manifest.boot.cmdline.as_str())],
        &[("--cpu", "23/1/2")],
        &[("--cpu", "0x800f12")],
    ] {
        assert_eq!(run_files(0, dir.path(), change), expected, "{change:?}");
    }
    let shape = ["--vcpus", "2", "--cpu", "EPYC-v4"];
    let whole = dir.path().join("manifest.json");
    for release in [dir.path(), &whole] {
        let args = [&["measure", "digest", text(release)], &shape[..]].concat();
        assert_eq!(run(0, &args), expected);
    }
    fs::write(&law, run(0, &["measure", "law", text(dir.path())])).unwrap();
    let args = [&["measure", "digest", "--law", text(&law)], &shape[..]].concat();
    assert_eq!(run(0, &args), expected, "a release's law needs no file");
    let trailing = format!("{} ", manifest.boot.cmdline);
    let spaced = run_files(0, dir.path(), &[("--cmdline-file=--cmdline", &trailing)]);
    assert_ne!(spaced, expected, "a space at the end is measured");
    let none = run_files(0, dir.path(), &[("--initrd", "none")]);
    assert_eq!(none, run_files(0, dir.path(), &[("--initrd", "")]));
    assert_ne!(none, expected);
}

#[test]
fn a_newline_in_a_file_is_measured_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = release(dir.path());
    let file = dir.path().join("cmdline-with-newline");
    fs::write(&file, format!("{}\n", manifest.boot.cmdline)).unwrap();
    let with = from_files(dir.path(), &[("--cmdline-file", text(&file))]);
    let output = casemate(&with.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(String::from_utf8(output.stderr).unwrap().contains("ends with a newline"));
    let line = format!("{}\n", manifest.boot.cmdline);
    let same = run_files(0, dir.path(), &[("--cmdline-file=--cmdline", &line)]);
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim_end(), same);
}

#[test]
fn what_cannot_be_measured_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    release(dir.path());
    let plain = dir.path().join("plain");
    fs::write(&plain, "no kernel").unwrap();
    for (change, reason) in [
        (&[("--kernel", text(&plain))][..], "is no bzImage"),
        (&[("--kernel", "")], "--kernel is missing"),
        (&[("--firmware", text(&plain))], "whole pages of 4096"),
        (&[("--firmware=--law", text(&plain))], "not a law"),
        (&[("--firmware", "")], "nothing to measure"),
        (&[("--vcpus", "513")], "1 to 512"),
        (&[("--cpu", "EPYC-v99")], "is unknown: expected one of EPYC"),
        (&[("--cpu", "25/17")], "is impossible"),
        (&[("--kernel", "sha256:00")], "64 lower-case hex digits"),
    ] {
        let error = run_files(1, dir.path(), change);
        assert!(error.contains(reason), "{change:?}: {error}");
    }
}

#[test]
fn a_firmware_without_a_page_for_hashes_measures_itself_only() {
    let Some(tail) = vectors::read("firmware/trixie-OVMF.fd.tail") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("OVMF.fd");
    fs::write(&path, tail).unwrap();
    let args = ["measure", "digest", "--firmware", text(&path), "--vcpus", "1", "--cpu", "EPYC"];
    assert_eq!(run(0, &args).len(), 96);
    let kernel = format!("sha256:{}", "00".repeat(32));
    let refused = run(1, &[&args[..], &["--kernel", &kernel]].concat());
    assert!(refused.contains("no SNP_KERNEL_HASHES section"), "{refused}");
}

#[test]
fn every_vector_agrees() {
    let Some(bytes) = vectors::read("digests.json") else { return };
    let digests: Value = serde_json::from_slice(&bytes).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let sha256 = |name: &Value| {
        let sha256 = &digests["inputs"][name.as_str().unwrap()]["sha256"];
        format!("sha256:{}", sha256.as_str().unwrap())
    };
    let mut compared = 0;
    for image in digests["images"].as_array().unwrap() {
        let ovmf = image["ovmf"].as_str().unwrap();
        let tail = vectors::read(&format!("firmware/{ovmf}.tail")).unwrap();
        let firmware = Firmware {
            sha256: sha256(&image["ovmf"])[7..].parse::<Sha256Hash>().unwrap(),
            pages: digests["firmware_state"][ovmf].as_str().unwrap().parse().unwrap(),
            layout: Layout::parse(&tail).unwrap(),
        };
        let law = dir.path().join(format!("{ovmf}.json"));
        fs::write(&law, serde_json::to_vec(&OpenLaw::from(firmware)).unwrap()).unwrap();
        let mut args: Vec<String> = ["measure", "digest", "--law"].map(Into::into).into();
        args.push(text(&law).into());
        for (option, input) in [("--kernel", &image["kernel"]), ("--initrd", &image["initrd"])] {
            if !input.is_null() {
                args.extend([option.into(), sha256(input)]);
            }
        }
        if let Some(line) = image["append"].as_str() {
            args.extend(["--cmdline".into(), line.into()]);
        }
        for vector in digests["vectors"].as_array().unwrap() {
            if vector["image"] != image["id"] {
                continue;
            }
            let (vcpus, features) =
                (vector["vcpus"].to_string(), vector["guest_features"].to_string());
            let vmm = vector["vmm"].as_str().unwrap().to_lowercase();
            let cpu = vector["cpu"].as_str().unwrap();
            let shape =
                ["--vcpus", &vcpus, "--guest-features", &features, "--vmm", &vmm, "--cpu", cpu];
            let args: Vec<&str> = args.iter().map(String::as_str).chain(shape).collect();
            assert_eq!(run(0, &args), vector["digest"].as_str().unwrap(), "{args:?}");
            compared += 1;
        }
    }
    assert_eq!(compared, 111);
}

#[test]
fn a_matrix_is_the_product_and_a_releases_is_its_table() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = release(dir.path());
    let path = text(dir.path());
    let table = json(0, &["measure", "matrix", path]);
    let expected = serde_json::to_value(&manifest.reference_values).unwrap();
    assert_eq!(table["reference_values"], expected);
    let args = [
        "measure",
        "matrix",
        path,
        "--vcpus",
        "1..=3",
        "--cpu",
        "EPYC-v4,25/17/1",
        "--guest-features",
        "0x1,0x21",
        "--vmm",
        "qemu,ec2",
    ];
    let rows = json(0, &args);
    assert_eq!(rows["reference_values"].as_array().unwrap().len(), 3 * 2 * 2 * 2);
    let text = run(0, &args);
    assert!(text.contains("0x21 SNPActive+DebugSwap") && text.contains("0xa10f11"), "{text}");
    assert!(run(1, &["measure", "matrix", path, "--vcpus", "1"]).contains("--cpu"));
}

#[test]
fn exports_of_a_release() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = release(dir.path());
    let path = text(dir.path());
    let export = |format| casemate(&["measure", "matrix", path, "--format", format]).stdout;
    let yaml = String::from_utf8(export("sek8s-yaml")).unwrap();
    let rvps: Value = serde_json::from_slice(&export("rvps")).unwrap();
    let corim = export("corim");
    assert_eq!(rvps["type"], "sample");
    assert_eq!(corim[..3], [0xd9, 0x01, 0xf5], "tag 501");
    for row in &manifest.reference_values {
        assert!(yaml.contains(&row.measurement.to_string()));
        assert!(corim.windows(48).any(|bytes| bytes == row.measurement.as_bytes()));
    }
}

#[test]
fn a_manifest_is_held_to_its_law_and_its_artifacts() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = release(dir.path());
    let path = text(dir.path());
    let verify = ["measure", "verify", path];
    let good = json(0, &verify);
    assert_eq!((&good["agrees"], &good["from_artifacts"]), (&true.into(), &true.into()));
    assert_eq!(good["absent"].as_array().unwrap().len(), 0);

    fs::remove_file(dir.path().join("initrd")).unwrap();
    let less = json(0, &verify);
    assert_eq!(less["absent"], serde_json::json!(["initrd"]));
    assert_eq!(less["from_artifacts"], false);

    fs::write(dir.path().join("initrd"), "another").unwrap();
    let other = json(3, &verify);
    let what: Vec<&str> = other["disagreements"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["what"].as_str().unwrap())
        .collect();
    assert!(what.contains(&"artifacts[\"initrd\"].sha256"), "{what:?}");
    assert!(what.contains(&"law.kernel_hashes.initrd"), "{what:?}");
    let by_artifacts = what.iter().filter(|what| what.ends_with("by the artifacts"));
    assert_eq!(by_artifacts.count(), manifest.reference_values.len());

    release(dir.path());
    let file = dir.path().join("manifest.json");
    let mut changed = manifest.clone();
    changed.reference_values[1].measurement = manifest.reference_values[0].measurement;
    fs::write(&file, casemate_measurements::canonical::to_vec(&changed).unwrap()).unwrap();
    let row = json(3, &verify);
    let expected =
        "reference_values[1].measurement, 2 x EPYC-Genoa, features 0x1, qemu, by the law";
    assert_eq!(row["disagreements"][0]["what"], expected);
    let right = manifest.reference_values[1].measurement.to_string();
    assert_eq!(row["disagreements"][0]["expected"], right);
    assert!(run(3, &verify).contains(expected));

    fs::write(&file, "{}").unwrap();
    assert!(run(1, &verify).contains("is no manifest"));
    assert!(run(1, &["measure", "verify", "/nowhere"]).contains("cannot read /nowhere"));
}

#[test]
fn explanations() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = release(dir.path());
    let path = text(dir.path());
    let explain =
        |digest: &str| ["explain", "--near", path, "--measurement", digest].map(String::from);
    let ask = |code, digest: &str, format: &[&str]| {
        let args = explain(digest);
        run(
            code,
            &args.iter().map(String::as_str).chain(format.iter().copied()).collect::<Vec<_>>(),
        )
    };
    let listed = manifest.reference_values[0].measurement.to_string();
    assert!(ask(0, &listed, &[]).starts_with("It is test 1.0 ("), "{}", ask(0, &listed, &[]));
    let three = run(0, &["measure", "digest", path, "--vcpus", "3", "--cpu", "EPYC-v4"]);
    assert!(ask(0, &three.to_uppercase(), &[]).contains("but 3 vCPUs, listed 1-2, 4"));
    let json: Value = serde_json::from_str(&ask(0, &three, &["--format", "json"])).unwrap();
    assert_eq!(json["found"]["kind"], "shape");
    let unknown = "00".repeat(48);
    let excluded = ask(3, &unknown, &[]);
    assert!(excluded.contains("other command lines"), "{excluded}");
    assert!(excluded.contains("none of"), "{excluded}");
    assert!(ask(1, "00", &[]).contains("96 lower-case hex digits"));
}
