//! `casemate release`, and what asks for signatures elsewhere, by the program itself.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../launcher/tests/it/fixture.rs"]
#[expect(dead_code, reason = "the launcher's own tests use all of it")]
mod fixture;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use casemate_measurements::manifest::Manifest;
use casemate_measurements::platform::Platform;
use fixture::Contents;
use serde_json::{Value, json};

/// A folder with releases, keys and policies, in which the program runs.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { dir: tempfile::tempdir().unwrap() };
        scene.release("release", "1.0.0");
        for name in ["a", "b"] {
            scene.run(0, &["release", "keygen", name]);
        }
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a release that boots nothing.
    fn release(&self, name: &str, version: &str) -> Manifest {
        let dir = self.path(name);
        let mut manifest = Contents::unbootable(Platform::Snp).write(&dir);
        version.clone_into(&mut manifest.release.version);
        fs::write(dir.join("manifest.json"), manifest.to_bytes().unwrap()).unwrap();
        manifest
    }

    fn signers(&self, threshold: usize, names: &[&str]) {
        let head = format!("schema = 1\nthreshold = {threshold}\nindex = \"casemate\"\n");
        let signer = |name: &&str| format!("[[signer]]\nname = \"{name}\"\nkey = \"{name}.pub\"\n");
        let signers = names.iter().map(signer).collect::<Vec<_>>().concat();
        fs::write(self.path("signers.toml"), head + &signers).unwrap();
    }

    /// What it prints, on standard output and beside it; it must end with `code`.
    fn both(&self, code: i32, args: &[&str]) -> (String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_casemate"));
        command.args(args).current_dir(self.dir.path());
        command.env("XDG_STATE_HOME", self.path("state")).env("CASEMATE_CACHE", self.path("cache"));
        let Output { status, stdout, stderr } = command.output().unwrap();
        let (stdout, stderr) =
            (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
        assert_eq!(status.code(), Some(code), "{args:?}\n{stdout}\n{stderr}");
        (stdout, stderr)
    }

    fn run(&self, code: i32, args: &[&str]) -> String {
        let (stdout, stderr) = self.both(code, args);
        if code == 1 { stderr } else { stdout }
    }

    fn json(&self, code: i32, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(code, &[args, &["--format", "json"]].concat())).unwrap()
    }
}

#[test]
fn a_release_is_signed_rebuilt_and_verified() {
    let scene = Scene::new();
    scene.signers(2, &["a", "b"]);
    let verify = ["release", "verify", "release", "--signers", "signers.toml"];
    assert!(scene.run(2, &verify).contains("signed by nobody, 0 of the 2 signers needed"));
    let signed = scene.json(0, &["release", "sign", "release", "--key", "a"]);
    assert_eq!(signed["files"].as_array().unwrap().len(), 2);
    let found = scene.json(2, &verify);
    assert_eq!((&found["trusted"], &found["signers"]), (&json!(false), &json!(["a"])));

    // A rebuilder who got something else signs nothing.
    scene.release("other", "1.0.1");
    let attest = |rebuilt| ["release", "attest", "release", "--rebuilt", rebuilt, "--key", "b"];
    let (stdout, stderr) = scene.both(3, &attest("other"));
    assert!(stdout.contains("differs  manifest.json"), "{stdout}");
    assert!(stderr.contains("nothing was signed"), "{stderr}");
    scene.release("rebuilt", "1.0.0");
    fs::write(scene.path("rebuilt/vmlinuz"), "x").unwrap();
    assert!(scene.run(1, &attest("rebuilt")).contains("rebuilt/vmlinuz"));
    scene.release("rebuilt", "1.0.0");
    scene.run(0, &attest("rebuilt"));
    let text = scene.run(0, &verify);
    assert!(text.contains("signed by a, b: 2 of 2 signers, 2 needed"), "{text}");
    let found = scene.json(0, &verify);
    assert_eq!(found["manifest"][0]["result"], "counts");
    assert_eq!(found["provenance"].as_array().unwrap().len(), 2);

    // Changed after it was signed.
    fs::write(scene.path("release/initrd"), "x").unwrap();
    assert!(scene.run(1, &verify).contains("release/initrd has 1 bytes"));
    let only = [&verify[..], &["--manifest-only"]].concat();
    scene.run(0, &only);
    scene.release("release", "6.6.6");
    let text = scene.run(2, &only);
    assert!(text.contains("says something else"), "{text}");
}

#[test]
fn what_uses_a_release_asks_for_signatures() {
    let scene = Scene::new();
    scene.signers(1, &["a"]);
    let run = ["run", "release", "--ssh-key", "a.pub", "--plan", "--signers", "signers.toml"];
    assert!(scene.both(2, &run).1.contains("NOT trusted"));
    // Nobody listens there: the release is refused before anybody is asked.
    let address = "127.0.0.1:1";
    let verify = ["verify", address, "--release", "release", "--signers", "signers.toml"];
    assert!(scene.both(2, &verify).1.contains("NOT trusted"));
    let ssh = ["ssh", address, "--release", "release", "--signers", "signers.toml"];
    assert!(scene.both(2, &ssh).1.contains("NOT trusted"));
    let fleet = "schema = 1\nreleases = [\"release\"]\n[[target]]\nname = \"one\"\n";
    fs::write(scene.path("fleet.toml"), format!("{fleet}address = {address:?}\n")).unwrap();
    let watch = ["verify", "--watch", "fleet.toml", "--rounds", "1", "--signers", "signers.toml"];
    let (_, said) = scene.both(1, &watch);
    assert!(said.contains("NOT trusted") && said.contains("too few of the signers"), "{said}");
    scene.run(0, &["release", "sign", "release", "--key", "a"]);
    let (asked, said) = scene.both(1, &watch);
    assert!(asked.contains(" one ") && said.contains("is signed by a"), "{asked}{said}");
    let (_, said) = scene.both(1, &verify);
    assert!(said.contains("is signed by a") && said.contains("nothing was judged"), "{said}");
}

#[test]
fn a_release_is_shown_beside_another() {
    let scene = Scene::new();
    scene.signers(1, &["a"]);
    scene.run(0, &["release", "sign", "release", "--key", "a"]);
    let text = scene.run(0, &["release", "show", "release", "--signers", "signers.toml"]);
    for expected in ["test 1.0.0, for snp", "signed by a", "EPYC-Genoa", "1-2, 4", "root.img"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let manifest = scene.release("older", "0.9.0");
    let sbom =
        br#"{"components":[{"name":"bash","version":"5.2","purl":"pkg:deb/debian/bash@5.2"}]}"#;
    let mut json = serde_json::to_value(&manifest).unwrap();
    json["artifacts"]["sbom.json"] = json!({
        "sha256": casemate_measurements::hash::Sha256Hash::of(sbom),
        "size": sbom.len(),
    });
    let older: Manifest = serde_json::from_value(json).unwrap();
    fs::write(scene.path("older/manifest.json"), older.to_bytes().unwrap()).unwrap();
    let since = ["release", "show", "release", "--since", "older"];
    assert!(scene.run(1, &since).contains("not the manifest's"));
    fs::write(scene.path("older/sbom.json"), sbom).unwrap();
    let shown = scene.json(0, &since);
    assert_eq!(shown["since"][0], "test 0.9.0");
    let gone = json!([{"kind": "deb", "name": "bash", "before": "5.2", "now": null}]);
    assert_eq!(shown["since"][1], gone);
    assert_eq!(shown["signed"], Value::Null);
}

#[test]
fn the_public_half_of_a_key_is_printed() {
    let scene = Scene::new();
    scene.signers(1, &["a"]);
    let public = fs::read_to_string(scene.path("a.pub")).unwrap();
    assert_eq!(scene.run(0, &["release", "public-key", "a"]), public);
    let json = scene.json(0, &["release", "public-key", "a"]);
    assert_eq!(json["pem"], public);
    assert_eq!(json["sha256"].as_str().unwrap().len(), 64);
    assert!(scene.run(1, &["release", "public-key", "a.pub"]).contains("a.pub"));
}

#[test]
fn an_index_goes_forward_and_revokes() {
    let scene = Scene::new();
    scene.signers(2, &["a", "b"]);
    let list = ["release", "list", "index.json", "--signers", "signers.toml"];
    let index = |more: &[&'static str]| [&["release", "index", "index.json"], more].concat();
    let new = ["--new", "casemate", "--add", "release", "--channel", "stable", "--key", "a"];
    scene.run(0, &index(&new));
    assert!(scene.run(1, &index(&new)).contains("is there already"));
    assert!(scene.both(2, &list).1.contains("1 of the 2 signers needed"));
    scene.run(0, &index(&["--countersign", "--key", "b"]));
    let text = scene.run(0, &list);
    assert!(text.contains("version 1 of") && text.contains("may be used"), "{text}");
    fs::copy(scene.path("index.json"), scene.path("old.json")).unwrap();

    for name in ["a", "b"] {
        scene.run(0, &["release", "sign", "release", "--key", name]);
    }
    let verify =
        ["release", "verify", "release", "--signers", "signers.toml", "--index", "index.json"];
    scene.run(0, &verify);
    let revoke = ["release", "revoke", "index.json", "--release", "release", "--reason", "leaks"];
    let revoke = [&revoke[..], &["--signers", "signers.toml", "--key", "a"]].concat();
    scene.run(0, &revoke);
    assert!(scene.both(2, &verify).1.contains("index is not trusted"));
    scene.run(0, &index(&["--countersign", "--key", "b"]));
    let (_, said) = scene.both(2, &verify);
    assert!(said.contains("revoked since") && said.contains("leaks"), "{said}");
    let page = ["release", "page", "release", "-o", "site", "--signers", "signers.toml"];
    let listed = [&page[..], &["--index", "index.json"]].concat();
    assert!(scene.run(0, &listed).contains("site/index.html"));
    let site = fs::read_to_string(scene.path("site/index.html")).unwrap();
    assert!(site.contains("leaks") && site.contains("a, b: 2 of 2 signers"), "{site}");
    // Yesterday's index, which was signed by enough.
    fs::copy(scene.path("old.json"), scene.path("index.json")).unwrap();
    let (_, said) = scene.both(2, &list);
    assert!(said.contains("has version 1") && said.contains("version 2 was seen"), "{said}");
    scene.both(2, &listed);
    assert!(scene.run(1, &index(&["--countersign", "--key", "a"])).contains("was seen before"));
    // Somebody who never saw the newer one has no way to know.
    scene.run(0, &[&list[..], &["--state", "elsewhere"]].concat());
    let text = fs::read_to_string(scene.path("signers.toml")).unwrap();
    fs::write(scene.path("signers.toml"), text.replace("casemate", "other")).unwrap();
    assert!(scene.both(2, &list).1.contains("is the index \"casemate\", not \"other\""));
    fs::write(scene.path("signers.toml"), text.replace("index =", "#")).unwrap();
    assert!(scene.run(1, &list).contains("names no index"));
}

/// A store with a signed release that is current in `stable`; the channel's reference.
fn shop(scene: &Scene) -> (String, String) {
    scene.signers(1, &["a"]);
    scene.run(0, &["release", "sign", "release", "--key", "a"]);
    let store = format!("file://{}", scene.path("store").display());
    scene.run(0, &["release", "publish", "release", &store]);
    let index = ["release", "index", "index.json", "--new", "casemate", "--key", "a"];
    scene.run(0, &[&index[..], &["--add", "release", "--channel", "stable"]].concat());
    let put = scene.run(0, &["release", "publish", "index.json", &store]);
    assert!(put.contains("/store#index@sha256:"), "{put}");
    let channel = format!("{store}?channel=stable");
    (store, channel)
}

#[test]
fn a_channel_is_taken_wherever_a_release_is() {
    let scene = Scene::new();
    let (store, channel) = shop(&scene);
    let signers = ["--signers", "signers.toml"];
    let pull = ["release", "pull", &channel, "out"];
    let said = scene.run(1, &pull);
    assert!(
        said.contains("nobody is named whom to believe") && said.contains("--signers"),
        "{said}"
    );
    let pull = [&pull[..], &signers].concat();
    let pulled = scene.json(0, &pull);
    let digest = pulled["manifest"].as_str().unwrap();
    assert_eq!(pulled["reference"], format!("{store}#@sha256:{digest}"));
    let listed = scene.json(0, &[&["release", "list", "index.json"][..], &signers].concat());
    assert_eq!(listed["index"]["releases"][0]["artifact_sha256"], digest);
    for file in ["manifest.json", "root.img"] {
        let [ours, theirs] = ["release", "out"].map(|dir| fs::read(scene.path(dir).join(file)));
        assert_eq!(ours.unwrap(), theirs.unwrap());
    }

    let shown = scene.json(0, &[&["release", "show", &channel][..], &signers].concat());
    assert_eq!(shown["release"]["version"], "1.0.0");
    let verify = [&["release", "verify", &channel][..], &signers].concat();
    assert!(scene.run(0, &verify).contains("signed by a"));
    let mirrored = format!("file://{}#stable", scene.path("mirror").display());
    let mirror = [&["release", "mirror", &channel, &mirrored][..], &signers].concat();
    assert_eq!(scene.json(0, &mirror)["manifest"], digest);
    let copied = format!("file://{}?channel=stable", scene.path("mirror").display());
    let follow = [&["release", "verify", &copied][..], &signers].concat();
    assert!(scene.run(1, &follow).contains("no index under the tag index"));
    scene.release("next", "1.1.0");
    let next = ["release", "index", "index.json", "--add", "next", "--channel", "beta"];
    scene.run(0, &[&next[..], &["--key", "a"], &signers].concat());
    scene.run(0, &["release", "publish", "index.json", &store]);
    let mirror = [&mirror[..], &["--index"]].concat();
    let (_, said) = scene.both(0, &mirror);
    assert!(said.contains("has index casemate version 2 now"), "{said}");
    assert!(said.contains("test 1.1.0 for snp, current in beta, is not there"), "{said}");
    let done = scene.json(0, &mirror);
    assert_eq!((&done["index"], &done["sent"]), (&json!(2), &json!(0)));
    assert!(scene.run(0, &follow).contains("signed by a"));
    let tagged = format!("{store}#latest");
    let release = [&["release", "mirror", &tagged, &mirrored, "--index"][..], &signers].concat();
    assert!(scene.run(1, &release).contains("names none: name it as STORE?channel=NAME"));
    let onto = mirrored.replace("#stable", "#index");
    let onto = [&["release", "mirror", &channel, &onto, "--index"][..], &signers].concat();
    assert!(scene.run(1, &onto).contains("is where the index goes"));
    // Nobody listens there: what is asked for is found first.
    let address = "127.0.0.1:1";
    for verb in ["verify", "ssh"] {
        let args = [&[verb, address, "--release", &channel][..], &signers].concat();
        let (_, said) = scene.both(1, &args);
        assert!(said.contains("?channel=stable is test 1.0.0, "), "{said}");
        assert!(said.contains("is signed by a") && said.contains("nothing was judged"), "{said}");
        // The platform of the verification decides.
        let simulated = [&args[..], &["--trust-simulated", "none.pem"]].concat();
        assert!(scene.both(1, &simulated).1.contains("no release for simulated"));
    }
    let simulated = [&pull[..], &["--platform", "simulated"]].concat();
    assert!(scene.run(1, &simulated).contains("stable for snp"));
    let run = ["run", &channel, "--ssh-key", "a.pub", "--plan", "--platform", "simulated"];
    assert!(scene.both(1, &[&run[..], &signers].concat()).1.contains("no release for simulated"));
    for (wrong, why) in [
        (format!("{store}#1?channel=stable"), "neither a tag nor a digest"),
        (format!("{store}?chanel=stable"), "?channel=NAME"),
        (format!("{channel}&index=other"), "no index under the tag other"),
        (format!("{channel}&image=other"), "name one of them, as in &image=test"),
    ] {
        let args = [&["release", "verify", &wrong][..], &signers].concat();
        assert!(scene.run(1, &args).contains(why), "{wrong}");
    }
    assert!(scene.run(1, &["release", "publish", "release", &channel]).contains("is followed"));
}

#[test]
fn a_channel_goes_forward_and_to_what_enough_signed() {
    let scene = Scene::new();
    let (store, channel) = shop(&scene);
    let signers = ["--signers", "signers.toml"];
    let pull = [&["release", "pull", &channel, "out"][..], &signers].concat();
    scene.run(0, &pull);
    fs::copy(scene.path("index.json"), scene.path("old.json")).unwrap();
    fs::copy(scene.path("store/index.json"), scene.path("layout.json")).unwrap();
    let next = ["release", "index", "index.json", "--key", "a", "--signers", "signers.toml"];

    scene.release("next", "1.1.0");
    scene.run(0, &["release", "publish", "next", &store]);
    scene.run(0, &[&next[..], &["--add", "next", "--channel", "stable"]].concat());
    scene.run(0, &["release", "publish", "index.json", &store]);
    let said = scene.run(1, &["release", "publish", "old.json", &store]);
    assert!(said.contains("readers refuse") && said.contains("has version 1"), "{said}");
    // The index names it, but nobody signed the release itself.
    let (_, said) = scene.both(2, &pull);
    assert!(said.contains("is test 1.1.0") && said.contains("NOT trusted"), "{said}");
    let kept = fs::read(scene.path("out/manifest.json")).unwrap();
    assert_eq!(kept, fs::read(scene.path("release/manifest.json")).unwrap());
    let latest = format!("{store}#latest");
    let other = [&["release", "pull", &latest, "other"][..], &signers].concat();
    assert!(scene.both(2, &other).1.contains("NOT trusted") && !scene.path("other").exists());
    let run = ["run", &channel, "--ssh-key", "a.pub", "--plan"];
    assert!(scene.both(2, &[&run[..], &signers].concat()).1.contains("NOT trusted"));
    scene.run(0, &["release", "sign", "next", "--key", "a"]);
    scene.run(0, &["release", "publish", "next", &store]);
    scene.run(0, &pull);
    let kept = fs::read(scene.path("out/manifest.json")).unwrap();
    assert_eq!(kept, fs::read(scene.path("next/manifest.json")).unwrap());
    // Signatures that were attached since are taken from the store.
    assert!(
        scene.run(0, &[&["release", "verify", &channel][..], &signers].concat()).contains("by a")
    );

    // A mirror has the newer index, which a mirror of the older one does not take away.
    let mirrored = format!("file://{}#stable", scene.path("mirror").display());
    let mirror = ["release", "mirror", &channel, &mirrored, "--index", "--state"];
    scene.run(0, &[&mirror[..], &["here"], &signers].concat());
    let layout = fs::read(scene.path("store/index.json")).unwrap();
    fs::copy(scene.path("layout.json"), scene.path("store/index.json")).unwrap();
    let said = scene.run(1, &[&mirror[..], &["elsewhere"], &signers].concat());
    assert!(said.contains("has version 1") && said.contains("readers refuse"), "{said}");
    let shown = scene.json(0, &["release", "show", &mirrored]);
    assert_eq!(shown["release"]["version"], "1.1.0", "the tag was moved back");
    fs::write(scene.path("store/index.json"), layout).unwrap();

    // The owner of the store turns it back: whoever saw the newer index notices.
    let layout = fs::read(scene.path("store/index.json")).unwrap();
    fs::copy(scene.path("layout.json"), scene.path("store/index.json")).unwrap();
    let (_, said) = scene.both(2, &pull);
    assert!(said.contains("has version 1") && said.contains("version 2 was seen"), "{said}");
    fs::write(scene.path("store/index.json"), layout).unwrap();

    let revoke = ["release", "revoke", "index.json", "--release", "next", "--reason", "leaks"];
    scene.run(0, &[&revoke[..], &["--key", "a"], &signers].concat());
    scene.run(0, &["release", "publish", "index.json", &store]);
    assert!(scene.run(1, &pull).contains("current ones are in none"));
    // An older release is current again, but too old.
    scene.run(0, &[&next[..], &["--add", "release", "--channel", "stable"]].concat());
    scene.run(0, &[&next[..], &["--minimum", "test=1.1.0"]].concat());
    scene.run(0, &["release", "publish", "index.json", &store]);
    assert!(scene.both(2, &pull).1.contains("below the minimum version 1.1.0"));
}

#[test]
fn who_signs_is_exactly_one() {
    let scene = Scene::new();
    for args in [&["--key", "a", "--keyless"][..], &[], &["--key", "a", "--identity-token", "x"]] {
        let args = [&["release", "sign", "release"], args].concat();
        let said = scene.run(1, &args);
        assert!(said.contains("--key") && !scene.path("release/signatures").exists(), "{said}");
    }
    fs::write(scene.path("token"), "no token").unwrap();
    let keyless = ["release", "sign", "release", "--keyless", "--identity-token", "token"];
    assert!(scene.run(1, &keyless).contains("no identity token"));
    fs::write(scene.path("config"), "{}").unwrap();
    let config = ["release", "sign", "release", "--keyless", "--signing-config", "config"];
    assert!(scene.run(1, &config).contains("signing config is refused"));
}
