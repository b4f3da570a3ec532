//! A key in a token of `SoftHSM`. Its configuration is in the environment, so what talks to it runs
//! as a program of its own.

use std::path::Path;
use std::process::Command;

use casemate_measurements::hash::Sha384Hash;
use casemate_measurements::id_block::Endorsement;
use casemate_registry::keys::{self, OpenError, TokenDefaults, TokenError};
use casemate_registry::sign::{Signer, SigningKey};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;

use crate::fixture::Scene;
use crate::run;

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "4711";
/// DER of the name of P-384.
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const P521: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

#[test]
fn a_token_signs_and_keeps_its_key() {
    if !Path::new(MODULE).exists() {
        let required = std::env::var("CASEMATE_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|name| name == "softhsm"), "{MODULE} is missing");
        eprintln!("skipped: {MODULE} is missing (Debian: softhsm2)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("softhsm2.conf");
    std::fs::write(&config, format!("directories.tokendir = {}\n", dir.path().display())).unwrap();
    let mut make = Command::new("softhsm2-util");
    make.args(["--init-token", "--free", "--label", "casemate test", "--so-pin", "0815"]);
    run(make.args(["--pin", PIN]).env("SOFTHSM2_CONF", &config));
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--ignored", "--exact", "--nocapture", "token::with_a_token"]);
    let output = run(child.env("SOFTHSM2_CONF", &config));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[test]
#[ignore = "what the test above runs, not a test"]
fn with_a_token() {
    let context = Pkcs11::new(MODULE).unwrap();
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slot = context.get_slots_with_initialized_token().unwrap()[0];
    let session = context.open_rw_session(slot).unwrap();
    session.login(UserType::User, Some(&AuthPin::new(PIN.into()))).unwrap();
    for (label, id, curve) in
        [("id", 1, P384), ("author", 2, P384), ("small", 3, P256), ("large", 4, P521)]
    {
        let of_both = |mut more: Vec<Attribute>| {
            more.extend([
                Attribute::Token(true),
                Attribute::Label(label.into()),
                Attribute::Id(vec![id]),
            ]);
            more
        };
        let public = of_both(vec![Attribute::EcParams(curve.to_vec())]);
        let private = of_both(vec![Attribute::Private(true), Attribute::Sign(true)]);
        session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).unwrap();
    }
    session.logout().unwrap();
    drop(session);

    let uri = |key: &str| {
        format!("pkcs11:token=casemate%20test;{key}?module-path={MODULE}&pin-value={PIN}")
    };
    let none = TokenDefaults::default();
    let defaults = TokenDefaults { module: Some(MODULE.into()), pin: Some(PIN.into()) };
    let id = keys::open(&uri("object=id"), &none).unwrap();
    let by_default = keys::open("pkcs11:id=%01", &defaults).unwrap();
    assert_eq!(id.public_key(), by_default.public_key());
    let author = keys::open(&uri("id=%02"), &none).unwrap();
    assert_ne!(id.public_key(), author.public_key());
    for key in [&id, &author] {
        let digest = Sha384Hash::of(b"message");
        assert!(key.public_key().verifies(&digest, &key.sign(&digest).unwrap()));
    }
    Endorsement::new(id.public_key(), author.as_ref()).unwrap();

    // Releases are signed by either.
    let scene = Scene::new();
    let names = ["author", "small"];
    for name in names {
        let key = SigningKey::open(&uri(&format!("object={name}")), &none).unwrap();
        let public = key.public().to_pem().unwrap();
        std::fs::write(scene.path(&format!("{name}.pub")), public).unwrap();
        scene.sign(&Signer::Key(Box::new(key)));
    }
    assert!(scene.verify(&scene.policy(2, &names, "")).is_trusted());
    let error = SigningKey::open(&uri("object=large"), &none).unwrap_err().to_string();
    assert!(error.contains("is no ECDSA key on P-256 or P-384"), "{error}");

    let refused = |text: &str, defaults: &TokenDefaults| {
        let error = keys::open(text, defaults).map(|_| ()).unwrap_err();
        let OpenError::Token(error) = error else { panic!("{text}: {error}") };
        error
    };
    let error = refused(&uri("object=absent"), &none);
    assert!(matches!(error, TokenError::Keys { found: 0, .. }), "{error}");
    let error = refused(&uri("object=small"), &none);
    assert!(matches!(error, TokenError::Curve { .. }), "{error}");
    let error = refused("pkcs11:token=other;object=id", &defaults).to_string();
    assert!(error.contains("there are \"casemate test\""), "{error}");
    assert!(matches!(refused("pkcs11:object=id", &none), TokenError::NoModule));
    let nowhere = TokenDefaults { module: Some("/nowhere.so".into()), pin: None };
    let error = refused("pkcs11:object=id", &nowhere);
    assert!(matches!(error, TokenError::Module { .. }), "{error}");
}
