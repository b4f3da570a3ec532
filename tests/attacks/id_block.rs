//! A release that names its ID key, from `casemate id-block keygen` to a verdict on a running VM.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha384Hash;
use casemate_measurements::manifest::{FILE_NAME, Manifest, artifact};
use casemate_tests::{Host, Vm, casemate, expect_code, release};

/// The shared release, naming a key that must have signed.
fn naming(dir: &Path, key: Sha384Hash) -> PathBuf {
    std::fs::create_dir(dir).unwrap();
    for name in artifact::ALL {
        symlink(release().join(name), dir.join(name)).unwrap();
    }
    let mut manifest: Manifest = Vm::manifest();
    manifest.id_block.as_mut().unwrap().id_keys = vec![key];
    std::fs::write(dir.join(FILE_NAME), manifest.to_bytes().unwrap()).unwrap();
    dir.to_owned()
}

fn json(output: &std::process::Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_vm_is_vouched_for_by_the_key_that_its_release_names() {
    let host = Host::default();
    let id_block = |verb: &str| casemate(["id-block", verb, "--format", "json"]);
    let key = host.dir().join("id.pem");
    let made = json(&expect_code(0, id_block("keygen").arg(&key)));
    let digest: Sha384Hash = made["digest"].as_str().unwrap().parse().unwrap();
    let dir = naming(&host.dir().join("release"), digest);
    let other = host.dir().join("other.pem");
    let _ = expect_code(0, id_block("keygen").arg(&other));
    let _ = expect_code(1, id_block("sign").arg(&dir).arg("--id-key").arg(&other));
    let signed = json(&expect_code(0, id_block("sign").arg(&dir).arg("--id-key").arg(&key)));
    assert_eq!(signed["id_key_digest"], digest.to_string());
    let _ = expect_code(0, id_block("verify").arg(&dir));

    // A block for four vCPUs is none for two: the launch is not finished.
    let mut wrong = host.plan_of(&dir, "wrong-block");
    let four = json(&expect_code(0, id_block("show").arg(&dir).args(["--cpus", "4"])));
    let given = wrong.machine.id_block.as_mut().unwrap();
    given.block = serde_json::from_value(four["launch"]["id_block"].clone()).unwrap();
    given.auth = serde_json::from_value(four["launch"]["id_auth"].clone()).unwrap();
    let seen = host.launch(&wrong);
    let error = format!("{:?}", seen.result.unwrap_err());
    assert!(error.contains("BAD_MEASUREMENT"), "{error}");
    assert_eq!(seen.stages, []);

    let vm = host.launch(&host.plan_of(&dir, "vouched")).result.unwrap();
    let mut verify = casemate(["verify", "--format", "json"]);
    verify.arg(vm.evidence().to_string()).arg("--release").arg(&dir);
    verify.arg("--trust-simulated").arg(Vm::root());
    let verdict = json(&expect_code(0, &mut verify));
    let check = |verdict: &serde_json::Value, name: &str| {
        let checks = verdict["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == name).unwrap().clone()
    };
    let keys = check(&verdict, "id-keys");
    assert_eq!(keys["outcome"], "passed");
    assert!(keys["found"].as_str().unwrap().contains(&digest.to_string()), "{keys}");
    assert_eq!(check(&verdict, "id-block")["outcome"], "passed");

    // For who has the release without the key, anybody could have signed.
    let verdict = json(&expect_code(3, &mut vm.verify(true)));
    assert_eq!(check(&verdict, "id-keys")["outcome"], "failed");
}
