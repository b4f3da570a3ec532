//! A directory behind a static web server: read, never written.

use std::process::{Command, Stdio};

use casemate_registry::artifact::publish::PublishError;
use casemate_registry::reference::Selector;
use casemate_registry::store::{Expected, Options, StoreError, open};

use super::programs::spawn_for_port;
use super::{opened, published, pulled, read, tag, version_1};

#[test]
fn a_web_server_in_front_of_a_directory_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let one = dir.path().join("one");
    version_1(&one);
    let options = Options::default();
    let directory = opened(&format!("file://{}/www/store", dir.path().display()), &options);
    let done = published(directory.as_ref(), &one, "v1", Expected::Any).unwrap();

    let mut command = Command::new("python3");
    command.args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]);
    command.current_dir(dir.path().join("www")).stdout(Stdio::piped()).stderr(Stdio::null());
    let server = spawn_for_port(command, "port ");
    let store = opened(&format!("http://127.0.0.1:{}/store", server.port), &options);
    let out = dir.path().join("out");
    // python's server has no ranges: a release is read whole all the same.
    for selector in [Selector::Tag(tag("v1")), Selector::Digest(done.manifest)] {
        pulled(store.as_ref(), &selector, &out).unwrap();
        assert_eq!(read(&out), read(&one));
    }
    assert_eq!(store.tags().unwrap(), [tag("v1")]);
    let error = published(store.as_ref(), &one, "v2", Expected::Any).unwrap_err();
    assert!(matches!(error, PublishError::Store(StoreError::ReadOnly { .. })), "{error}");
}

#[test]
fn other_machines_are_asked_over_tls_alone() {
    let place =
        "http://192.0.2.1/store".parse::<casemate_registry::reference::Reference>().unwrap();
    let error = open(&place.place, &Options::default()).unwrap_err();
    assert!(error.to_string().contains("--insecure-http"), "{error}");
    open(&place.place, &Options { insecure_http: true, ..Options::default() }).unwrap();
}
