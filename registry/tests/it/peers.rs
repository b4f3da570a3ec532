//! ID blocks of ours and of sev-snp-measure's `snp-create-id-block`: with the same keys both make
//! the same bytes but for the signatures, and each verifies the other's.

use std::io::Write as _;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_measurements::hash::{FamilyId, ImageId, LaunchDigest};
use casemate_measurements::id_block::{self, Endorsement, IdBlock, Signer as _};
use casemate_measurements::policy::GuestPolicy;
use casemate_registry::keys::{self, FileKey};

use crate::run;

/// The folder of scripts, and of the environment that has the tool.
fn tool() -> (String, String) {
    let peers = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/peers");
    let target = concat!(env!("CARGO_TARGET_TMPDIR"), "/..");
    let mut install = Command::new(format!("{peers}/sev-snp-measure.sh"));
    let output = run(install.env("CARGO_TARGET_DIR", target));
    (peers.to_owned(), String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
}

#[test]
fn sev_snp_measure_and_we_accept_each_others_blocks() {
    let (peers, venv) = tool();
    let dir = tempfile::tempdir().unwrap();
    let (id_file, author_file) = (dir.path().join("id"), dir.path().join("author"));
    let id_digest = keys::generate(&id_file).unwrap().digest;
    let author_digest = keys::generate(&author_file).unwrap().digest;
    let (digest, policy) = (LaunchDigest::from_bytes([0x5a; 48]), GuestPolicy::default());

    let mut theirs = Command::new(format!("{venv}/bin/snp-create-id-block"));
    theirs.args(["--measurement", &STANDARD.encode(digest.as_bytes())]);
    theirs.arg("--idkey").arg(&id_file).arg("--authorkey").arg(&author_file);
    let said = String::from_utf8(run(&mut theirs).stdout).unwrap();
    let value = |name: &str| {
        let at = said.find(name).unwrap() + name.len();
        let text = said[at..].split([',', '\n']).next().unwrap();
        STANDARD.decode(text.trim()).unwrap()
    };
    let (block, auth) = (value("id-block="), value("id-auth="));
    let accepted = id_block::verify(&block, &auth, true, &digest, policy).unwrap();
    assert_eq!(
        (accepted.id_key_digest, accepted.author_key_digest),
        (id_digest, Some(author_digest))
    );
    assert_eq!(value("id_key_hash: "), id_digest.as_bytes());
    assert_eq!(value("author_key: "), author_digest.as_bytes());

    // It states no ids and no security version.
    let (family_id, image_id) = (FamilyId::ZERO, ImageId::ZERO);
    let ours = IdBlock { launch_digest: digest, family_id, image_id, guest_svn: 0, policy };
    assert_eq!(ours.to_bytes().as_slice(), block);
    let (id, author) = (FileKey::open(&id_file).unwrap(), FileKey::open(&author_file).unwrap());
    let signature = id.sign(&ours.digest()).unwrap();
    let endorsement = Endorsement::new(id.public_key(), &author).unwrap();
    let mut our_auth = id_block::auth_bytes(id.public_key(), &signature, Some(&endorsement));
    verified_by_python(&venv, &peers, &ours.to_bytes(), &our_auth, true);
    let mut their_auth = auth;
    for auth in [&mut our_auth[..], &mut their_auth] {
        // Theirs draw a random number for each signature.
        auth[0x40..0x240].fill(0);
        auth[0x680..0x880].fill(0);
    }
    assert!(our_auth[..] == their_auth, "something besides signatures differs");
    let mut flipped = ours.to_bytes();
    flipped[0x54] ^= 1;
    let our_auth = id_block::auth_bytes(id.public_key(), &signature, Some(&endorsement));
    verified_by_python(&venv, &peers, &flipped, &our_auth, false);
}

/// Whether Python's `cryptography` finds both signatures good.
fn verified_by_python(venv: &str, peers: &str, block: &[u8], auth: &[u8], expected: bool) {
    let mut child = Command::new(format!("{venv}/bin/python"))
        .arg(format!("{peers}/id-block.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = format!("{} {}", STANDARD.encode(block), STANDARD.encode(auth));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.trim(), if expected { "good" } else { "bad" });
}
