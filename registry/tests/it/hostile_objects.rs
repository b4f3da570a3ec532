//! Object stores that cut, stall and refuse, and what is said of them: no key and no token.

use std::time::{Duration, Instant};

use casemate_registry::artifact::blob::Blob;
use casemate_registry::store::{ObjectSettings, Options, StoreError, get};

use crate::hostile::{Answer, Server, tight};
use crate::stores::opened;
use crate::stores::programs::SECRET;

fn options(set: &[(&str, &str)]) -> Options {
    let variables = set.iter().map(|(name, value)| (name.into(), value.into()));
    Options { objects: ObjectSettings::from_environment(variables), ..tight() }
}

/// Object stores as this server plays them: how to ask, where, and the path of a blob there.
fn objects(server: &Server, blob: &Blob) -> [(Options, &'static str, String); 2] {
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    let s3 = options(&[
        ("AWS_ENDPOINT_URL", &endpoint),
        ("AWS_ACCESS_KEY_ID", "me"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
    ]);
    let azure = options(&[
        ("AZURE_STORAGE_ENDPOINT", &endpoint),
        ("AZURE_STORAGE_ACCOUNT_NAME", "me"),
        ("AZURE_STORAGE_SAS_TOKEN", &format!("sv=1&sig={SECRET}")),
    ]);
    let path = format!("/bucket/blobs/sha256/{}", blob.sha256);
    let asked = format!("{path}?sv=1&sig={SECRET}");
    [(s3, "s3://bucket", path), (azure, "az://bucket", asked)]
}

#[test]
fn an_object_that_is_cut_is_taken_up_where_it_ended() {
    let bytes = b"{}".repeat(50_000);
    let blob = Blob::of(&bytes);
    let server = Server::start();
    for (options, place, path) in objects(&server, &blob) {
        let store = opened(place, &options);
        server.answer(&path, &[Answer::Cut(bytes.clone(), 30_000), Answer::Bytes(bytes.clone())]);
        assert!(get(store.as_ref(), &blob).unwrap() == bytes, "{place}");
        let asked = server.asked().into_iter().filter(|(asked, ..)| *asked == path);
        let ranges: Vec<_> = asked.map(|(_, range, _)| range).collect();
        assert_eq!(ranges, [None, Some(30_000)], "{place}");
    }
}

/// A token of Azure's stands in the address of what is asked for, and in no message.
#[test]
fn what_an_object_store_does_wrong_is_said_without_secrets() {
    let bytes = b"{}".repeat(50_000);
    let blob = Blob::of(&bytes);
    let other = [b"[]".as_slice(), &bytes[2..]].concat();
    let answers = [
        Answer::Bytes(other),
        Answer::Cut(bytes.clone(), 0),
        Answer::Stall,
        Answer::Huge(1 << 50),
        Answer::Redirect("http://127.0.0.1:1/".to_owned()),
        Answer::Status(400, "no"),
        Answer::Status(403, "no"),
        Answer::Status(404, "no"),
        Answer::Status(503, "no"),
    ];
    let ask = |answer: &Answer| {
        let server = Server::start();
        for (options, place, path) in objects(&server, &blob) {
            let store = opened(place, &options);
            server.answer(&path, std::slice::from_ref(answer));
            let since = Instant::now();
            let error = get(store.as_ref(), &blob).unwrap_err();
            assert!(since.elapsed() < Duration::from_mins(2), "took {:?}", since.elapsed());
            assert!(server.asked().iter().any(|(asked, ..)| *asked == path), "{place}");
            let shown = format!("{store:?} {error:?} {error}");
            assert!(shown.contains(place) && !shown.contains(SECRET), "{shown}");
        }
    };
    std::thread::scope(|scope| {
        for answer in &answers {
            scope.spawn(move || ask(answer));
        }
    });
}

/// Who shows what only he has, a file as a job of a cluster or a secret, is given a token.
#[test]
fn what_one_has_is_exchanged_for_a_token() {
    let bytes = b"{}".repeat(500);
    let blob = Blob::of(&bytes);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let own = format!("own-{SECRET}");
    std::fs::write(&file, &own).unwrap();
    for (setting, value, field) in [
        ("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap(), "client_assertion"),
        ("AZURE_CLIENT_SECRET", own.as_str(), "client_secret"),
    ] {
        let server = Server::start();
        let endpoint = format!("http://127.0.0.1:{}", server.port);
        let options = options(&[
            ("AZURE_STORAGE_ENDPOINT", &endpoint),
            ("AZURE_STORAGE_ACCOUNT_NAME", "me"),
            ("AZURE_CLIENT_ID", "client"),
            ("AZURE_TENANT_ID", "tenant"),
            ("AZURE_AUTHORITY_HOST", &endpoint),
            (setting, value),
        ]);
        let store = opened("az://bucket", &options);
        let path = format!("/bucket/blobs/sha256/{}", blob.sha256);
        let exchange = "/tenant/oauth2/v2.0/token";
        let token = format!(r#"{{"access_token": "other-{SECRET}", "expires_in": 3600}}"#);
        server.answer(exchange, &[Answer::Bytes(token.into_bytes())]);
        server.answer(&path, &[Answer::Bytes(bytes.clone()), Answer::Status(403, "no")]);
        assert!(get(store.as_ref(), &blob).unwrap() == bytes);
        let asked: Vec<_> = server.asked().into_iter().map(|(path, _, who)| (path, who)).collect();
        let bearer = format!("Bearer other-{SECRET}");
        assert_eq!(asked, [(exchange.to_owned(), None), (path, Some(bearer))]);
        let said = server.said()[0].clone();
        let pair = format!("{field}={own}");
        assert!(said.split(['&', '\n']).any(|found| found == pair), "{said}");

        let error = get(store.as_ref(), &blob).unwrap_err();
        assert!(matches!(error, StoreError::Denied { .. }), "{error}");
        let shown = format!("{store:?} {error:?} {error}");
        assert!(!shown.contains(SECRET), "{shown}");
    }
}

/// Whoever a store sends its readers to does not learn who they are.
#[test]
fn another_server_is_told_no_secret() {
    let bytes = b"{}".repeat(500);
    let blob = Blob::of(&bytes);
    let (server, other) = (Server::start(), Server::start());
    for (options, place, path) in objects(&server, &blob) {
        let to = format!("/moved/{}", &place[..2]);
        other.answer(&to, &[Answer::Bytes(bytes.clone())]);
        let to = format!("http://127.0.0.1:{}{to}", other.port);
        server.answer(&path, &[Answer::Redirect(to)]);
        let error = get(opened(place, &options).as_ref(), &blob).unwrap_err().to_string();
        assert!(error.contains(place) && !error.contains(SECRET), "{error}");
    }
    assert_eq!(other.said(), [] as [String; 0]);
}
