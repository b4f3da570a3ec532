//! The transparency page, in a real browser.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use casemate_registry::index::{Change, Entry, Index, IndexFile, Revocation, Time};
use casemate_registry::page::{self, ListedIndex, Module, Release, Site};
use casemate_registry::verify::Policy;

use crate::fixture::{self, Scene};
use crate::keyless::{ISSUER, StandIn, WORKFLOW};
use crate::openssl;
use crate::stores::programs::skip;

const NOW: u64 = 1_790_000_000;

/// What the browser's document is once its scripts ran, and what it had to complain of. The browser
/// does not wait for what it compiles beside its scripts, so it is asked until they have spoken.
fn browsed(page: &Path) -> Option<(String, String)> {
    let since = Instant::now();
    loop {
        let found = browsed_once(page)?;
        let spoke = !found.0.contains("Not verified in this browser: it runs no scripts.");
        if spoke || since.elapsed() > Duration::from_mins(3) {
            return Some(found);
        }
    }
}

fn browsed_once(page: &Path) -> Option<(String, String)> {
    let profile = tempfile::tempdir().unwrap();
    let mut browser = Command::new("chromium");
    browser
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null());
    let Ok(output) = browser.output() else {
        skip("browser", "chromium cannot be started");
        return None;
    };
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (dom, said) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{said}");
    let console = said.lines().filter(|line| line.contains("CONSOLE")).collect::<Vec<_>>();
    Some((dom, console.join("\n")))
}

/// The element `tag` with the id `id`, as the browser has it.
fn element(dom: &str, tag: &str, id: &str) -> String {
    let start = dom.find(&format!("<{tag} id=\"{id}\"")).unwrap_or_else(|| panic!("{dom}"));
    let end = dom[start..].find(&format!("</{tag}>")).unwrap();
    dom[start..start + end].to_owned()
}

/// A site of the scene's releases; the pages by name.
fn site(scene: &Scene, policy: &Policy, index: Option<&IndexFile>) -> Vec<String> {
    site_with(scene, policy, index, None)
}

fn site_with(
    scene: &Scene,
    policy: &Policy,
    index: Option<&IndexFile>,
    module: Option<&Module>,
) -> Vec<String> {
    let read = |name: &str| Release::read(&scene.path(name), Some(policy)).unwrap();
    let releases = [read("release"), read("next")];
    let index = index.map(|file| ListedIndex { file, judgement: file.judge(policy) });
    let files = page::render(&Site { releases: &releases, policy: Some(policy), index, module });
    page::write(&scene.path("site"), &files).unwrap();
    files.into_keys().collect()
}

/// A scene with two releases, of which two keys signed the first: one of each curve.
fn scene() -> Scene {
    let scene = Scene::new();
    fixture::write(&scene.path("next"), "0.2.0");
    let path = scene.path("p384");
    openssl(&["ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out"], &[&path]);
    let public = openssl(&["pkey", "-pubout", "-in"], &[&path]).stdout;
    fs::write(scene.path("p384.pub"), public).unwrap();
    for name in ["p256", "p384"] {
        scene.sign(&scene.signer(name));
    }
    scene
}

#[test]
fn a_browser_verifies_what_keys_signed() {
    let scene = scene();
    let policy = scene.policy(2, &["p256", "p384"], "");
    let names = site(&scene, &policy, None);
    let first = names.iter().find(|name| name.contains("0.1.0")).unwrap();
    let Some((dom, console)) = browsed(&scene.path("site").join(first)) else { return };
    let verdict = element(&dom, "p", "verdict");
    assert!(verdict.contains("class=\"good\""), "{verdict}{console}");
    assert!(verdict.contains("2 of the 2 signers needed"), "{verdict}");
    let table = element(&dom, "table", "verified");
    assert!(table.contains("signed by p256") && table.contains("signed by p384"), "{table}");
    assert_eq!(console, "", "the page's policy forbids something of its own");
    // Where more is demanded than pages judge, they say so.
    let strict = scene.policy(2, &["p256", "p384"], "provenance = \"required\"");
    let again = site(&scene, &strict, None);
    let path = scene.path("site").join(&again[0]);
    let (dom, _) = browsed(&path).unwrap();
    let verdict = element(&dom, "p", "verdict");
    assert!(
        verdict.contains("class=\"warning\"") && verdict.contains("was not judged"),
        "{verdict}"
    );
    assert_eq!(dom.matches("signed provenance that the signers file requires").count(), 3, "{dom}");
    // The one nobody signed says so, and has nothing to verify.
    let other = names.iter().find(|name| name.contains("0.2.0")).unwrap();
    let (dom, _) = browsed(&scene.path("site").join(other)).unwrap();
    assert!(dom.contains("nobody vouches") && !dom.contains("id=\"verdict\""), "{dom}");
    assert!(dom.contains("<td>bash (deb)</td>\n<td>0.1.0</td>\n<td>0.2.0</td>"), "{dom}");
}

#[test]
fn a_browser_refuses_what_was_changed() {
    let scene = scene();
    let policy = scene.policy(1, &["p256", "p384"], "");
    let names = site(&scene, &policy, None);
    let path = scene.path("site").join(&names[0]);
    let page = fs::read_to_string(&path).unwrap();
    // Somebody who serves the page changes a digest that it shows, the manifest, or a signature.
    let digest = page.split("<td class=\"digest\">").nth(1).unwrap()[..96].to_owned();
    let manifest = page.split("\"manifest\":\"").nth(1).unwrap()[..16].to_owned();
    let signature = page.split("\\\"sig\\\":\\\"").nth(1).unwrap()[..24].to_owned();
    let turned = |text: &str| text.chars().rev().collect::<String>();
    for (what, words) in [
        (digest, "the digests shown are not the manifest"),
        (manifest, "Not verified in this browser"),
        (signature, "1 of the 1 signers needed"),
    ] {
        fs::write(&path, page.replacen(&what, &turned(&what), 1)).unwrap();
        let Some((dom, _)) = browsed(&path) else { return };
        let verdict = element(&dom, "p", "verdict");
        assert!(verdict.contains(words), "{what}: {verdict}");
        let good = "<td>signed by ";
        let counted = element(&dom, "table", "verified").matches(good).count();
        assert_eq!(counted, usize::from(words.starts_with('1')), "{dom}");
    }
    // What is said beside the signature is not passed over.
    let log = page.replacen("\\\"tlogEntries\\\":[]", "\\\"tlogEntries\\\":[{}]", 1);
    assert_ne!(log, page);
    fs::write(&path, log).unwrap();
    let (dom, _) = browsed(&path).unwrap();
    let table = element(&dom, "table", "verified");
    assert_eq!(table.matches("it has a log entry or a timestamp").count(), 1, "{table}");
    // Bundles of another release prove nothing.
    for entry in fs::read_dir(scene.path("release/signatures")).unwrap() {
        let from = entry.unwrap().path();
        fs::create_dir_all(scene.path("next/signatures")).unwrap();
        fs::copy(&from, scene.path("next/signatures").join(from.file_name().unwrap())).unwrap();
    }
    let names = site(&scene, &policy, None);
    let other = names.iter().find(|name| name.contains("0.2.0")).unwrap();
    let (dom, _) = browsed(&scene.path("site").join(other)).unwrap();
    let verdict = element(&dom, "p", "verdict");
    assert!(verdict.contains("signed by nobody, 0 of the 1 signers needed"), "{verdict}");
    let table = element(&dom, "table", "verified");
    assert_eq!(table.matches("it is about other files").count(), 2, "{table}");
}

/// The module, compiled without being optimised; `None` with a word where it cannot be.
fn module() -> Option<Module> {
    const TARGET: &str = "wasm32-wasip1";
    let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", TARGET]).current_dir(workspace);
    let library = String::from_utf8(rustc.output().unwrap().stdout).unwrap();
    if !Path::new(library.trim()).is_dir() {
        skip("wasm", &format!("`rustup target add {TARGET}` lets this test compile the module"));
        return None;
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("module");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--locked", "--package", "casemate-registry-wasm", "--target", TARGET])
        .args(["--config", "profile.dev.package.'*'.opt-level=0"])
        .args(["--config", "profile.dev.debug=false"])
        .current_dir(workspace)
        .env("CARGO_TARGET_DIR", &target);
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = target.join(TARGET).join("debug/casemate_registry_wasm.wasm");
    Some(Module::read(&path).unwrap())
}

/// What the browser says of the first release: its verdict, and what it found of each file.
fn verdict(scene: &Scene, policy: &Policy, module: &Module) -> Option<(String, String)> {
    let names = site_with(scene, policy, None, Some(module));
    let first = names.iter().find(|name| name.contains("0.1.0")).unwrap();
    let (dom, console) = browsed(&scene.path("site").join(first))?;
    assert_eq!(console, "", "the page's policy forbids something of its own");
    Some((element(&dom, "p", "verdict"), element(&dom, "table", "verified")))
}

#[test]
fn with_the_module_a_browser_verifies_identities_and_logs_too() {
    let scene = scene();
    let Some(services) = StandIn::start(&scene.path("services")) else { return };
    let Some(module) = module() else { return };
    let [_, path] = scene.sign(&services.signer(WORKFLOW, "signing_config.json"));
    let policy = |root: &str| {
        let text = format!(
            "schema = 1\nthreshold = 2\ntrusted_root = \"{root}\"\n\
             [[signer]]\nname = \"ci\"\nissuer = \"{ISSUER}\"\nsubject = \"{WORKFLOW}\"\n\
             [[signer]]\nname = \"p384\"\nkey = \"p384.pub\"\n"
        );
        scene.read(&text).unwrap()
    };
    let ours = policy("services/trusted_root.json");
    let Some((said, table)) = verdict(&scene, &ours, &module) else { return };
    assert!(said.contains("class=\"good\""), "{said}{table}");
    assert!(said.contains("signed by ci, p384, 2 of the 2 signers needed"), "{said}");
    let ci = format!("signed by ci ({WORKFLOW}), before 20");
    assert!(table.contains(&ci) && table.contains("signed by p384<"), "{table}");
    assert!(table.contains("is no signer's of the policy"), "{table}");

    // Where more is demanded than pages judge, they say so.
    let text = format!("provenance = \"required\"\n{}", ours.source().signers);
    let (said, _) = verdict(&scene, &scene.read(&text).unwrap(), &module).unwrap();
    assert!(said.contains("class=\"warning\"") && said.contains("was not judged"), "{said}");

    // Other people's services vouch for nobody here.
    let _others = StandIn::start(&scene.path("others")).unwrap();
    let (said, table) = verdict(&scene, &policy("others/trusted_root.json"), &module).unwrap();
    assert!(said.contains("class=\"warning\""), "{said}");
    assert!(said.contains("signed by p384, 1 of the 2 signers needed"), "{said}");
    assert!(table.contains("refused: it is not genuine"), "{table}");

    // A log entry that promises something else.
    let mut bundle: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let time = "/verificationMaterial/tlogEntries/0/integratedTime";
    let later: u64 = bundle.pointer(time).unwrap().as_str().unwrap().parse().unwrap();
    *bundle.pointer_mut(time).unwrap() = (later + 1).to_string().into();
    fs::write(&path, bundle.to_string()).unwrap();
    let (said, table) = verdict(&scene, &ours, &module).unwrap();
    assert!(said.contains("1 of the 2 signers needed"), "{said}");
    assert!(table.contains("refused: it is not genuine"), "{table}");
}

#[test]
fn a_module_is_held_to_be_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("module.wasm");
    let error = Module::read(&path).unwrap_err().to_string();
    assert!(error.contains("cannot read"), "{error}");
    for bytes in [b"\0asm\x01\0\0\0".as_slice(), b"casemate_signatures", b""] {
        fs::write(&path, bytes).unwrap();
        let error = Module::read(&path).unwrap_err().to_string();
        assert!(error.contains("make module"), "{error}");
    }
}

#[test]
fn a_site_says_what_the_index_says() {
    let scene = scene();
    let policy = scene.policy(1, &["p256", "p384"], "index = \"casemate\"");
    let entry = |dir: &str, channel: &str| {
        let release = casemate_registry::release::Release::open(&scene.path(dir)).unwrap();
        let named = release.manifest().release.clone();
        Entry {
            name: named.name,
            version: named.version,
            platform: named.platform,
            manifest_sha256: release.manifest_sha256(),
            artifact_sha256: None,
            channels: [channel.to_owned()].into(),
        }
    };
    let (first, second) = (entry("release", "older"), entry("next", "stable"));
    let revoked = Revocation {
        manifest_sha256: first.manifest_sha256,
        reason: "<b>CVE".to_owned(),
        since: Time(NOW),
    };
    let changes = [Change::Add(first), Change::Add(second), Change::Revoke(revoked)];
    let index = Index::empty("casemate").next(changes, Time(NOW), 86_400).unwrap();
    let mut file = IndexFile::new(index).unwrap();
    file.sign(&scene.signer("p256")).unwrap();
    let names = site(&scene, &policy, Some(&file));
    let Some((dom, console)) = browsed(&scene.path("site/index.html")) else { return };
    assert_eq!(console, "");
    assert!(dom.contains("revoked since 2026-09-21T"), "{dom}");
    assert!(dom.contains("&lt;b&gt;CVE") && dom.contains("<td>stable</td>"), "{dom}");
    assert!(dom.contains("p256: 1 of 2 signers, 1 needed"), "{dom}");
    let first = names.iter().find(|name| name.contains("0.1.0")).unwrap();
    let page = fs::read_to_string(scene.path("site").join(first)).unwrap();
    assert!(page.contains("Not to be used: revoked since"), "{page}");
}
