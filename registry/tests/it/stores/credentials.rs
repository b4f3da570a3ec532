//! A registry that wants to know who asks: docker's config.json, and no password in any message.

use casemate_registry::reference::Selector;
use casemate_registry::store::{Credentials, Expected, Options};

use super::oci::chain;
use super::programs::registry;
use super::{opened, published, pulled, read, tag, version_1};

const PASSWORD: &str = "secret";

fn options(dir: &std::path::Path, port: u16, pair: &str) -> Options {
    use base64::Engine as _;
    let auth = base64::engine::general_purpose::STANDARD.encode(pair);
    let text = format!(r#"{{"auths": {{"127.0.0.1:{port}": {{"auth": "{auth}"}}}}}}"#);
    std::fs::write(dir.join("config.json"), text).unwrap();
    let path = dir.as_os_str().to_owned();
    let credentials =
        Credentials::from_environment(|name| (name == "DOCKER_CONFIG").then(|| path.clone()));
    Options { credentials, ..Options::default() }
}

#[test]
fn a_registry_lets_in_who_logged_in() {
    let Some(server) = registry(true) else { return };
    let dir = tempfile::tempdir().unwrap();
    let one = dir.path().join("one");
    version_1(&one);
    let place = format!("oci://127.0.0.1:{}/a", server.port);
    let nobody = opened(&place, &Options::default());
    let error = chain(&published(nobody.as_ref(), &one, "x", Expected::Any).unwrap_err());
    assert!(error.contains("docker login"), "{error}");
    let wrong = opened(&place, &options(dir.path(), server.port, "me:hunter2"));
    let error = published(wrong.as_ref(), &one, "x", Expected::Any).unwrap_err();
    assert!(!format!("{error:?} {}", chain(&error)).contains("hunter2"), "{error:?}");

    let known = options(dir.path(), server.port, &format!("me:{PASSWORD}"));
    let store = opened(&place, &known);
    published(store.as_ref(), &one, "x", Expected::Any).unwrap();
    pulled(store.as_ref(), &Selector::Tag(tag("x")), &dir.path().join("out")).unwrap();
    assert_eq!(read(&dir.path().join("out")), read(&one));
    assert!(!format!("{store:?} {known:?}").contains(PASSWORD));
}
