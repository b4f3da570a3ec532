//! A stand-in for AMD's key service, with every bad habit that one can have.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use casemate_measurements::certificates::CertificateTable;
use casemate_measurements::chain::UnixTime;
use casemate_measurements::hash::ChipId;
use casemate_measurements::platform::Platform;
use casemate_measurements::report::{Report, SIGNED_LEN, Unsigned};
use casemate_measurements::roots::Roots;
use casemate_measurements::tcb::Tcb;
use casemate_validator::certificates::{
    Certificates, CertificatesError, Collateral, Limits, ServiceError, Settings, WantList,
};
use x509_cert::der::pem;

use crate::amd::{self, Endorsed, List, Maker, NOW};

/// What the stand-in does with a request.
#[derive(Clone)]
pub(crate) enum Reply {
    Body(Vec<u8>),
    /// Status and further headers.
    Status(u16, &'static str),
    /// Says that more comes than does.
    Truncated(Vec<u8>),
    /// Says nothing.
    Stall,
    /// A byte now and then.
    Drip,
    /// Without end.
    Flood,
    /// Not HTTP.
    Garbage,
}

/// A key service on loopback that counts what it is asked.
pub(crate) struct StandIn {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl StandIn {
    /// `reply` gets the path and how often it was asked for before.
    pub(crate) fn start(reply: impl Fn(&str, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (reply, log) = (Arc::new(reply), Arc::clone(&asked));
        std::thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                let (reply, log) = (Arc::clone(&reply), Arc::clone(&log));
                std::thread::spawn(move || answer(tcp, &log, reply.as_ref()));
            }
        });
        Self { url, asked }
    }

    fn good() -> Self {
        Self::start(|path, _| good_reply(path))
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|(_, path)| path.clone()).collect()
    }

    /// Time between the first and the last request.
    fn span(&self) -> Duration {
        let asked = self.asked.lock().unwrap();
        asked.last().unwrap().0 - asked[0].0
    }

    fn settings(&self, cache: Option<&Path>) -> Settings {
        let (request, total) = (Duration::from_millis(400), Duration::from_secs(3));
        let limits = Limits { request, total, pause: Duration::from_millis(20) };
        let (cache, service) = (cache.map(Into::into), Some(self.url.clone()));
        Settings { cache, service, gpu_manifests: None, limits }
    }

    fn source(&self, cache: Option<&Path>) -> Certificates {
        Certificates::open(&self.settings(cache)).unwrap()
    }
}

fn answer(
    mut tcp: TcpStream,
    log: &Mutex<Vec<(Instant, String)>>,
    reply: &impl Fn(&str, usize) -> Reply,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if tcp.read_exact(&mut byte).is_err() {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let before = {
        let mut log = log.lock().unwrap();
        log.push((Instant::now(), path.clone()));
        log.iter().filter(|(_, asked)| *asked == path).count() - 1
    };
    let ok = |len: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close");
    // The client may leave before everything is said.
    let _ = match reply(&path, before) {
        Reply::Body(body) => {
            tcp.write_all(&[ok(body.len()).as_bytes(), b"\r\n\r\n", &body].concat())
        }
        Reply::Status(status, headers) => {
            let head = format!("HTTP/1.1 {status} No\r\n{headers}Connection: close\r\n");
            tcp.write_all(format!("{head}Content-Length: 0\r\n\r\n").as_bytes())
        }
        Reply::Truncated(body) => {
            let half = &body[..body.len() / 2];
            tcp.write_all(&[ok(body.len()).as_bytes(), b"\r\n\r\n", half].concat())
        }
        Reply::Stall => {
            std::thread::sleep(Duration::from_secs(20));
            Ok(())
        }
        Reply::Drip => tcp.write_all(format!("{}\r\n\r\n", ok(1000)).as_bytes()).and_then(|()| {
            (0..100).try_for_each(|_| {
                std::thread::sleep(Duration::from_millis(100));
                tcp.write_all(b"x")
            })
        }),
        Reply::Flood => tcp
            .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
            .and_then(|()| (0..4096).try_for_each(|_| tcp.write_all(&[0x30; 4096]))),
        Reply::Garbage => tcp.write_all(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"),
    };
}

fn pem_of(der: &[u8]) -> String {
    pem::encode_string("CERTIFICATE", pem::LineEnding::LF, der).unwrap()
}

fn chain(ask: &[u8], ark: &[u8]) -> Vec<u8> {
    [pem_of(ask), pem_of(ark)].concat().into_bytes()
}

fn good_reply(path: &str) -> Reply {
    let maker = Maker::get();
    match path {
        "/vcek/v1/Genoa/cert_chain" => Reply::Body(chain(&maker.ask, &maker.ark)),
        "/vcek/v1/Genoa/crl" => Reply::Body(maker.list(&List::current())),
        _ if path == vcek_path() => Reply::Body(maker.vcek(&Endorsed::genoa())),
        _ => Reply::Status(404, ""),
    }
}

fn vcek_path() -> String {
    let chip = "c1".repeat(64);
    format!("/vcek/v1/Genoa/{chip}?blSPL=10&teeSPL=00&snpSPL=27&ucodeSPL=86")
}

fn signed(fields: &Unsigned) -> Report {
    Report::parse(&amd::sign_bytes(&fields.signed_bytes())).unwrap()
}

fn roots() -> Roots {
    Roots::amd().unwrap().with_simulated(&Maker::get().ark).unwrap()
}

fn collect_for(source: &Certificates, report: &Report, table: &CertificateTable) -> Collateral {
    let (platform, now) = (Platform::Simulated, UnixTime(NOW));
    source.collect(report, table, platform, WantList::Ask, &roots(), now)
}

fn collect(source: &Certificates) -> Collateral {
    collect_for(source, &signed(&amd::fields()), &CertificateTable::default())
}

#[track_caller]
fn complete(collateral: &Collateral) {
    assert!(collateral.missing.is_none(), "{:?}", collateral.missing);
    assert!(collateral.no_list.is_none(), "{:?}", collateral.no_list);
    let CertificateTable { vcek, ask, .. } = &collateral.certificates;
    assert!(vcek.is_some() && ask.is_some() && collateral.revocation_lists.len() == 1);
}

/// The whole text of an error.
fn text(error: &dyn std::error::Error) -> String {
    let source = error.source().map(text).unwrap_or_default();
    format!("{error}: {source}")
}

#[test]
fn what_is_missing_is_got_once_and_kept() {
    let service = StandIn::good();
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let source = service.source(Some(&cache));
    complete(&collect(&source));
    complete(&collect(&source));
    let chain = "/vcek/v1/Genoa/cert_chain".to_owned();
    assert_eq!(service.paths(), [chain, vcek_path(), "/vcek/v1/Genoa/crl".into()]);
    // Another process, with the same cache and nobody to ask.
    let settings = Settings { service: None, ..service.settings(Some(&cache)) };
    complete(&collect(&Certificates::open(&settings).unwrap()));
    assert_eq!(service.paths().len(), 3);
    // Without the cache there is nothing.
    let nothing = collect(&Certificates::open(&Settings::default()).unwrap());
    let error = nothing.missing.unwrap();
    assert!(matches!(error, CertificatesError::Offline { .. }), "{error}");
    assert!(!error.is_about_the_report());
}

#[test]
fn what_the_host_sent_is_not_asked_for() {
    let service = StandIn::good();
    let (source, report) = (service.source(None), signed(&amd::fields()));
    let table = Maker::get().table(&Endorsed::genoa());
    let collateral = collect_for(&source, &report, &table);
    assert_eq!(collateral.certificates, CertificateTable::default());
    let crl = "/vcek/v1/Genoa/crl".to_owned();
    assert_eq!(service.paths(), [crl]);
    let table = CertificateTable { ask: None, ..table };
    assert!(collect_for(&source, &report, &table).certificates.ask.is_some());
    assert_eq!(service.paths()[1..], ["/vcek/v1/Genoa/cert_chain"]);
}

#[test]
fn a_changed_cache_is_noticed_and_mended() {
    let service = StandIn::good();
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    complete(&collect(&service.source(Some(&cache))));
    let asked = service.paths().len();
    for entry in std::fs::read_dir(&cache).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let settings = Settings { service: None, ..service.settings(Some(&cache)) };
    let offline = Certificates::open(&settings).unwrap();
    assert!(collect(&offline).missing.is_some());
    complete(&collect(&service.source(Some(&cache))));
    assert_eq!(service.paths().len(), 2 * asked);
}

#[test]
fn a_service_that_limits_is_asked_again_when_it_says() {
    let service = StandIn::start(|path, before| match before {
        0 => Reply::Status(429, "Retry-After: 1\r\n"),
        1 => Reply::Status(503, ""),
        _ => good_reply(path),
    });
    let settings = service.settings(None);
    let limits = Limits { total: Duration::from_secs(10), ..settings.limits };
    let source = Certificates::open(&Settings { limits, ..settings }).unwrap();
    complete(&collect(&source));
    assert_eq!(service.paths().len(), 9);
    assert!(service.span() >= Duration::from_secs(3), "{:?}", service.span());
}

#[test]
fn a_service_that_never_answers_well_is_given_up_in_time_and_left_alone() {
    let half = Maker::get().ask.clone();
    for (reply, words) in [
        (Reply::Status(429, ""), "HTTP status 429"),
        (Reply::Status(500, "Retry-After: soon\r\n"), "HTTP status 500"),
        (Reply::Stall, "timeout"),
        (Reply::Drip, "timeout"),
        (Reply::Truncated(half), ""),
        (Reply::Garbage, ""),
    ] {
        let service = StandIn::start(move |_, _| reply.clone());
        let settings = service.settings(None);
        let limits = Limits { total: Duration::from_secs(1), ..settings.limits };
        let source = Certificates::open(&Settings { limits, ..settings }).unwrap();
        let start = Instant::now();
        let error = collect(&source).missing.unwrap();
        assert!(start.elapsed() < Duration::from_secs(20), "{words}: {:?}", start.elapsed());
        let given_up = matches!(
            error,
            CertificatesError::Service { source: ServiceError::GivenUp { .. }, .. }
        );
        assert!(given_up && text(&error).contains(words), "{words}: {}", text(&error));
        assert!(!error.is_about_the_report());
        // The failure stands for a while.
        let asked = service.paths().len();
        assert!(asked > 1, "{words}: only one attempt");
        assert!(collect(&source).missing.is_some());
        assert_eq!(service.paths().len(), asked, "{words}");
    }
}

#[test]
fn what_the_service_last_said_is_told_when_the_time_is_over() {
    let service = StandIn::start(|_, before| match before {
        0 => Reply::Status(429, ""),
        _ => Reply::Stall,
    });
    let settings = service.settings(None);
    let limits = Limits {
        total: Duration::from_secs(1),
        request: Duration::from_mins(1),
        ..settings.limits
    };
    let source = Certificates::open(&Settings { limits, ..settings }).unwrap();
    let error = text(&collect(&source).missing.unwrap());
    assert!(error.contains("2 attempts") && error.contains("HTTP status 429"), "{error}");
}

#[test]
fn a_pause_that_is_too_long_is_not_waited_for() {
    let service = StandIn::start(|_, _| Reply::Status(429, "Retry-After: 86400\r\n"));
    let source = service.source(None);
    let start = Instant::now();
    assert!(collect(&source).missing.is_some());
    assert!(start.elapsed() < Duration::from_secs(20));
    // Nor is anything else asked for meanwhile.
    let other = Unsigned { chip_id: ChipId::from_bytes([7; 64]), ..amd::fields() };
    assert!(collect_for(&source, &signed(&other), &CertificateTable::default()).missing.is_some());
    assert_eq!(service.paths().len(), 1);
}

/// A service whose `path` gets `reply` and whose other answers are good.
fn bad_at(path: &'static str, reply: Reply) -> StandIn {
    StandIn::start(
        move |asked, _| {
            if asked.contains(path) { reply.clone() } else { good_reply(asked) }
        },
    )
}

#[test]
fn what_does_not_fit_is_refused_and_not_kept() {
    let (maker, genoa) = (Maker::get(), Endorsed::genoa());
    let vcek = |endorsed| Reply::Body(maker.vcek(&endorsed));
    let elsewhere = Reply::Status(302, "Location: http://127.0.0.1:1/elsewhere\r\n");
    let cases = [
        ("/c1c1", vcek(Endorsed { hardware_id: vec![0xc2; 64], ..genoa.clone() }), "chip is"),
        ("/c1c1", vcek(Endorsed { tcb: Tcb { snp: 22, ..genoa.tcb }, ..genoa.clone() }), "TCB is"),
        ("/c1c1", vcek(Endorsed { product: "Milan-B0", ..genoa.clone() }), "is for"),
        ("/c1c1", Reply::Body(maker.vcek_of_root(&genoa)), "not signed by the ASK"),
        ("/c1c1", Reply::Body(b"<html>".to_vec()), "malformed"),
        ("/c1c1", Reply::Body(vec![]), "malformed"),
        ("/c1c1", Reply::Flood, "more than 32768 bytes"),
        ("/c1c1", elsewhere.clone(), "redirects are never followed"),
        ("/c1c1", Reply::Status(403, ""), "HTTP status 403"),
        ("cert_chain", Reply::Body(chain(&maker.ask, &maker.look_alike())), "no root that"),
        ("cert_chain", Reply::Body(chain(&maker.look_alike(), &maker.ark)), "not signed by the"),
        ("cert_chain", Reply::Body(chain(&maker.ark, &maker.ask)), "no root that"),
        ("cert_chain", Reply::Body(b"junk".to_vec()), "malformed"),
        ("cert_chain", elsewhere, "redirects are never followed"),
    ];
    for (path, reply, words) in cases {
        let service = bad_at(path, reply);
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        let error = collect(&service.source(Some(&cache))).missing.unwrap();
        assert!(text(&error).contains(words), "{words}: {}", text(&error));
        assert!(!error.is_about_the_report(), "{words}");
        let kept = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().file_name());
        let kept: Vec<_> = kept.collect();
        assert!(kept.iter().all(|name| name == "vcek-Genoa-chain.pem"), "{words}: {kept:?}");
    }
}

#[test]
fn a_chip_that_amd_does_not_know_has_no_genuine_report() {
    let service = bad_at("/c1c1", Reply::Status(404, ""));
    let error = collect(&service.source(None)).missing.unwrap();
    assert!(error.is_about_the_report(), "{error}");
    let source = StandIn::good();
    let masked = Unsigned { chip_id: ChipId::from_bytes([0; 64]), ..amd::fields() };
    let collateral =
        collect_for(&source.source(None), &signed(&masked), &CertificateTable::default());
    let error = collateral.missing.unwrap();
    assert!(matches!(error, CertificatesError::NoChip), "{error}");
    assert!(source.paths().is_empty());
    // A provider's key is none that the service knows.
    let mut bytes = [0; SIGNED_LEN];
    bytes.copy_from_slice(signed(&amd::fields()).signed_bytes());
    bytes[0x48] |= 1 << 2;
    let report = Report::parse(&amd::sign_bytes(&bytes)).unwrap();
    let collateral = collect_for(&source.source(None), &report, &CertificateTable::default());
    assert!(matches!(collateral.missing, Some(CertificatesError::Vlek)));
    assert!(source.paths().is_empty());
}

#[test]
fn without_a_fit_list_the_certificates_are_there_all_the_same() {
    let maker = Maker::get();
    let stale = List { to: Some(NOW - 1), ..List::current() };
    let other = List { issuer: "ARK-Genoa", ..List::current() };
    for (reply, words) in [
        (Reply::Body(maker.list(&stale)), "speaks from"),
        (Reply::Body(maker.forged_list(&List::current())), "not signed by ARK SIMULATED"),
        (Reply::Body(maker.list(&other)), "of another root"),
        (Reply::Body(b"junk".to_vec()), "malformed"),
        (Reply::Status(404, ""), "HTTP status 404"),
    ] {
        let service = bad_at("/crl", reply);
        let collateral = collect(&service.source(None));
        assert!(collateral.missing.is_none() && collateral.revocation_lists.is_empty());
        let error = collateral.no_list.unwrap();
        assert!(text(&error).contains(words), "{words}: {}", text(&error));
    }
    // One that takes something back is a list, and the judgement is not made here.
    let revoked = List { revoked: vec![2], ..List::current() };
    let service = bad_at("/crl", Reply::Body(maker.list(&revoked)));
    complete(&collect(&service.source(None)));
}

#[test]
fn many_threads_ask_once() {
    let service = StandIn::start(|path, _| {
        std::thread::sleep(Duration::from_millis(50));
        good_reply(path)
    });
    let source = service.source(None);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| complete(&collect(&source)));
        }
    });
    assert_eq!(service.paths().len(), 3, "{:?}", service.paths());
}

#[test]
fn addresses_that_are_none_are_refused() {
    for url in ["", "kds", "ftp://host", "file:///etc", "https://", "http://a/?b", "http://a@b"] {
        let settings = Settings { service: Some(url.into()), ..Settings::default() };
        let error = Certificates::open(&settings).unwrap_err().to_string();
        assert!(error.contains("no address of a key service"), "{url}: {error}");
    }
    let service = StandIn::good();
    let settings = Settings { service: Some(format!("{}/", service.url)), ..Settings::default() };
    complete(&collect(&Certificates::open(&settings).unwrap()));
}
