//! Key files of ours and of OpenSSL's, and files that are none.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use casemate_measurements::hash::Sha384Hash;
use casemate_measurements::id_block::{PublicKey, Signer as _};
use casemate_registry::keys::{self, FileError, FileKey, OpenError, TokenDefaults};

use crate::openssl;

/// A new key of OpenSSL's, in one of its two forms.
fn made_by_openssl(dir: &Path, form: &str) -> std::path::PathBuf {
    let path = dir.join(form);
    let arguments: &[&str] = match form {
        "sec1" => &["ecparam", "-name", "secp384r1", "-genkey", "-out"],
        "p256" => &["ecparam", "-name", "prime256v1", "-genkey", "-out"],
        _ => &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384", "-out"],
    };
    openssl(arguments, &[&path]);
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

/// What OpenSSL says the public key of a private one is.
fn public_by_openssl(private: &Path) -> PublicKey {
    let output = openssl(&["pkey", "-pubout", "-outform", "DER", "-in"], &[private]);
    // The point is the end of a SubjectPublicKeyInfo.
    PublicKey::from_sec1(&output.stdout[output.stdout.len() - 97..]).unwrap()
}

#[test]
fn keys_of_openssl_are_read_and_ours_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let ours = keys::generate(&dir.path().join("ours")).unwrap();
    assert_eq!(fs::metadata(&ours.private).unwrap().permissions().mode() & 0o777, 0o600);
    let public = fs::read_to_string(&ours.public).unwrap();
    let by_openssl = openssl(&["pkey", "-pubout", "-in"], &[&ours.private]).stdout;
    assert_eq!(public.as_bytes(), by_openssl);
    for path in
        [&ours.private, &made_by_openssl(dir.path(), "sec1"), &made_by_openssl(dir.path(), "pkcs8")]
    {
        let key = FileKey::open(path).unwrap();
        assert_eq!(key.public_key(), &public_by_openssl(path));
        let digest = Sha384Hash::of(b"message");
        let signature = key.sign(&digest).unwrap();
        assert!(key.public_key().verifies(&digest, &signature));
        assert_eq!(key.sign(&digest).unwrap(), signature, "signing twice differs");
    }
    assert_eq!(FileKey::open(&ours.private).unwrap().public_key().digest(), ours.digest);
    // A key is never replaced, nor is its public half, and no half is left behind.
    let error = keys::generate(&ours.private).unwrap_err();
    assert!(matches!(error, FileError::Write { .. }), "{error}");
    let half = dir.path().join("half");
    fs::write(dir.path().join("half.pub"), "").unwrap();
    assert!(keys::generate(&half).is_err() && !half.exists());
}

#[test]
fn what_is_no_private_key_of_p384_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let key = made_by_openssl(dir.path(), "pkcs8");
    for mode in [0o640, 0o604, 0o666] {
        fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
        let error = FileKey::open(&key).unwrap_err();
        assert!(matches!(error, FileError::Mode { mode: found, .. } if found == mode), "{error}");
    }
    fs::set_permissions(&key, Permissions::from_mode(0o400)).unwrap();
    FileKey::open(&key).unwrap();
    let encrypted = dir.path().join("encrypted");
    let arguments = ["pkcs8", "-topk8", "-passout", "pass:x", "-in", key.to_str().unwrap(), "-out"];
    openssl(&arguments, &[&encrypted]);
    fs::set_permissions(&encrypted, Permissions::from_mode(0o600)).unwrap();
    let error = FileKey::open(&encrypted).unwrap_err();
    assert!(matches!(error, FileError::Encrypted { .. }), "{error}");
    let p256 = made_by_openssl(dir.path(), "p256");
    let public = dir.path().join("public");
    openssl(&["pkey", "-pubout", "-in", key.to_str().unwrap(), "-out"], &[&public]);
    let junk = dir.path().join("junk");
    fs::write(&junk, "-----BEGIN EC PRIVATE KEY-----\nAAAA").unwrap();
    for path in [&p256, &public, &junk] {
        fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
        let error = FileKey::open(path).unwrap_err();
        assert!(matches!(error, FileError::NoKey { .. }), "{error}");
    }
    let open = |text: &str| keys::open(text, &TokenDefaults::default()).map(|_| ());
    let absent = dir.path().join("absent");
    let error = open(absent.to_str().unwrap()).unwrap_err();
    assert!(matches!(error, OpenError::File(FileError::Read { .. })), "{error}");
    let error = open("awskms:alias/x").unwrap_err();
    assert!(matches!(error, OpenError::Scheme { .. }), "{error}");
    assert!(matches!(open("pkcs11:token=x"), Err(OpenError::Uri(_))));
    let error = open("pkcs11:object=x").unwrap_err().to_string();
    assert!(error.contains("PKCS11_MODULE_PATH"), "{error}");
}
