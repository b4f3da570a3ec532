//! A fleet with hostile targets among good ones: the good ones are verified on time.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use casemate_measurements::appraisal::Expect;
use casemate_measurements::chain::UnixTime;
use casemate_measurements::manifest;
use casemate_measurements::platform::Platform;
use casemate_validator::certificates::{Certificates, Settings};
use casemate_validator::fetch::Limits;
use casemate_validator::fleet::metrics::Metrics;
use casemate_validator::fleet::pace::Pace;
use casemate_validator::fleet::serve;
use casemate_validator::fleet::targets::{self, TargetsError, Watched};
use casemate_validator::fleet::watch::{Answer, Asked, Event, Flags, Watch};
use casemate_validator::target::Target;
use casemate_validator::trust;

use crate::amd::NOW;
use crate::support::{Identity, serve_answer, serve_tcp, serve_tls};
use crate::vm::{HOST_KEY, known, serve_vm, simulated_roots};

/// What hangs costs this long and no longer.
const PATIENCE: Duration = Duration::from_secs(4);

fn watched(name: &str, target: Target) -> Watched {
    Watched {
        name: name.into(),
        target,
        releases: vec![known()].into(),
        policy: Arc::new(trust::policy(&simulated_roots())),
        pace: Pace { interval: Duration::from_millis(300), longest: Duration::from_secs(1) },
        limits: Limits { total: PATIENCE, connect: PATIENCE },
    }
}

fn watch(at_once: usize, rounds: Option<u32>) -> Watch {
    let certificates = Arc::new(Certificates::open(&Settings::default()).unwrap());
    let (roots, revocation_lists) = (Arc::new(simulated_roots()), Arc::new([]));
    Watch { roots, certificates, revocation_lists, at_once, rounds, clock: || Ok(UnixTime(NOW)) }
}

fn nothing() -> Result<Vec<Watched>, String> {
    Err("nothing to load".into())
}

/// What a target's name and an answer say.
fn noted(asked: &Asked) -> (String, Answer) {
    (asked.watched.name.clone(), asked.answer())
}

/// One that never speaks, one that drips, one that talks nonsense, one that sends without end.
fn hostile() -> Vec<Watched> {
    let hung = serve_tcp(|tcp| {
        std::thread::sleep(Duration::from_mins(2));
        drop(tcp);
    });
    let trickling = serve_tls(Identity::new().tls13(), |_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n[");
        while stream.write_all(b"1").and_then(|()| stream.flush()).is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let garbage = serve_answer(&Identity::new(), "HTTP/1.1 200 OK\r\n\r\nnonsense");
    let endless = serve_tls(Identity::new().tls13(), |_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'a'; 4096]).is_ok() {}
    });
    vec![
        watched("hung", hung),
        watched("trickling", trickling),
        watched("garbage", garbage),
        watched("endless", endless),
    ]
}

#[test]
fn hostile_targets_delay_nobody() {
    let mut all = hostile();
    for number in 0..4 {
        all.push(watched(&format!("good-{number}"), serve_vm(&Identity::new(), HOST_KEY)));
    }
    // More that hang than there are places for those that failed.
    for number in 0..6 {
        let hung = serve_tcp(|tcp| {
            std::thread::sleep(Duration::from_mins(2));
            drop(tcp);
        });
        all.push(watched(&format!("hung-{number}"), hung));
    }
    let flags = Flags::default();
    let (mut answers, mut good) = (Vec::new(), Vec::new());
    let mut metrics = Metrics::new();
    let start = Instant::now();
    watch(12, None).run(all, &flags, nothing, |event| match event {
        Event::Asked(asked) => {
            metrics.count(asked);
            answers.push(noted(asked));
            if asked.watched.name.starts_with("good") {
                assert_eq!(asked.answer(), Answer::Accepted, "{}", asked.summary());
                good.push(start.elapsed());
            }
            if start.elapsed() > 5 * PATIENCE {
                flags.stop.store(true, Ordering::Relaxed);
            }
        }
        Event::Reloaded(watched) => metrics.watching(watched),
        Event::ReloadFailed(error) => panic!("{error}"),
        Event::Lacking(_) | Event::Quiet => {}
    });
    // Ended at once, although some are still being waited for.
    assert!(start.elapsed() < 6 * PATIENCE, "{:?}", start.elapsed());
    // Nobody who is good ever waited as long as a hung one takes.
    let mut last = Duration::ZERO;
    for at in &good {
        assert!(
            at.saturating_sub(last) < PATIENCE / 2,
            "nobody was verified between {last:?} and {at:?}"
        );
        last = *at;
    }
    assert!(good.len() >= 4 * 5, "only {} answers of good targets", good.len());
    for (name, answer) in [
        ("hung", Answer::Unreachable),
        ("trickling", Answer::Unreachable),
        ("garbage", Answer::NotGenuine),
        ("endless", Answer::Unreachable),
        ("hung-5", Answer::Unreachable),
    ] {
        let of: Vec<_> = answers.iter().filter(|(n, _)| n == name).map(|(_, a)| *a).collect();
        assert!(!of.is_empty() && of.iter().all(|found| *found == answer), "{name}: {of:?}");
    }
    let text = metrics.encode().unwrap();
    parse_with_prometheus(&text);
    for line in [
        "casemate_targets 14",
        "casemate_target_accepted{target=\"good-0\"} 1",
        "casemate_target_accepted{target=\"hung\"} 0",
        "casemate_target_answer{target=\"garbage\",answer=\"not-genuine\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
    }
    let counted = "casemate_failed_checks_total{target=\"garbage\",check=\"evidence\"} ";
    assert!(text.lines().any(|line| line.starts_with(counted)), "{text}");
    assert!(!text.contains("last_success_timestamp{target=\"hung\"}"), "{text}");
}

/// Has the text parsed by Prometheus' own client library, where Debian's Python has it.
fn parse_with_prometheus(text: &str) {
    const PARSE: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
families = {family.name: family for family in parse(sys.stdin.read())}
buckets = families['casemate_question_duration_seconds'].samples
assert families['casemate_failed_checks'].type == 'counter', families
assert any(sample.labels.get('le') == '+Inf' for sample in buckets), buckets
";
    let python = |script: &str| {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", script]).stdin(Stdio::piped());
        command
    };
    let has = python("import prometheus_client").status().is_ok_and(|status| status.success());
    if !has {
        let required = std::env::var("CASEMATE_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|word| word == "prometheus"), "no parser");
        println!("skipped: no Python package prometheus_client (python3-prometheus-client)");
        return;
    }
    let mut parser = python(PARSE).spawn().unwrap();
    parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(parser.wait().unwrap().success(), "{text}");
}

#[test]
fn rounds_end_by_themselves_and_targets_are_exchanged() {
    let good = watched("good", serve_vm(&Identity::new(), HOST_KEY));
    let other = watched("other", serve_vm(&Identity::new(), HOST_KEY));
    let flags = Flags::default();
    flags.reload.store(true, Ordering::Relaxed);
    let mut events = Vec::new();
    let mut metrics = Metrics::new();
    let mut loads = vec![Ok(vec![other]), Err("broken".to_owned())];
    watch(4, Some(2)).run(
        vec![good],
        &flags,
        || loads.pop().unwrap(),
        |event| match event {
            Event::Reloaded(watched) => {
                metrics.watching(watched);
                events.push(format!("watching {}", watched[0].name));
            }
            Event::ReloadFailed(error) => {
                events.push(error);
                flags.reload.store(true, Ordering::Relaxed);
            }
            Event::Asked(asked) => {
                metrics.count(asked);
                events.push(format!("{} {}", asked.watched.name, asked.answer().name()));
            }
            Event::Lacking(_) | Event::Quiet => {}
        },
    );
    let expected =
        ["watching good", "broken", "watching other", "other accepted", "other accepted"];
    assert_eq!(events, expected);
    let text = metrics.encode().unwrap();
    assert!(!text.contains("target=\"good\""), "{text}");
}

#[test]
fn metrics_are_served_beside_clients_that_hang() {
    let metrics = Arc::new(Mutex::new(Metrics::new()));
    let address = serve::serve("127.0.0.1:0".parse().unwrap(), metrics).unwrap();
    // One after the other they would be waited for longer than a reader waits.
    let hung: Vec<_> = (0..30).map(|_| TcpStream::connect(address).unwrap()).collect();
    let get = |path: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let text = get("/metrics");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("# EOF\n"), "{text}");
    assert!(text.contains("# TYPE casemate_question_duration_seconds histogram"), "{text}");
    assert!(get("/").starts_with("HTTP/1.1 404"));
    drop(hung);
}

#[test]
fn a_list_of_targets_is_read_with_what_it_points_to() {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("targets.toml");
    let release = dir.path().join("release");
    fs::create_dir(&release).unwrap();
    let manifest = known().manifest().to_bytes().unwrap();
    fs::write(release.join(manifest::FILE_NAME), manifest).unwrap();
    let policy = "schema = 1\n";
    fs::write(dir.path().join("policy.toml"), policy).unwrap();
    let roots = simulated_roots();
    let read = |text: &str| {
        fs::write(&path, text).unwrap();
        targets::read(&path, &roots, &|_, _| Ok(()))
    };
    let good = "schema = 1\ninterval_seconds = 5\nreleases = [\"release\"]\n\
                [[target]]\nname = \"a\"\naddress = \"vm.example.org\"\n\
                [[target]]\nname = \"b\"\naddress = \"[::1]:9\"\npolicy = \"policy.toml\"\n\
                interval_seconds = 7\n";
    let all = read(good).unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].target.to_string(), "vm.example.org:8443");
    assert_eq!(*all[0].policy, trust::policy(&roots));
    assert_ne!(all[0].policy, all[1].policy);
    assert_eq!(all[1].policy.platform, Expect::Exactly(Platform::Simulated));
    assert!(Arc::ptr_eq(&all[0].releases, &all[1].releases));
    let intervals: Vec<_> = all.iter().map(|one| one.pace.interval.as_secs()).collect();
    assert_eq!(intervals, [5, 7]);
    for (from, to, expected) in [
        ("schema = 1", "schema = 2", "schema 2, expected 1"),
        ("schema = 1", "schema = 1\nx = 1", "no list of targets"),
        ("\"b\"", "\"a\"", "stands there twice"),
        ("\"b\"", "\"b c\"", "target name \"b c\""),
        ("[::1]:9", "::1:9", "target \"b\""),
        ("releases = [\"release\"]\n", "", "has no release"),
        ("\"release\"", "\"other\"", "is no release"),
        ("policy.toml", "other.toml", "cannot read"),
    ] {
        let error = read(&good.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(expected), "{to}: {error}");
    }
    fs::write(dir.path().join("policy.toml"), "schema = 1\nsmt = true").unwrap();
    let error = read(good).unwrap_err();
    assert!(matches!(&error, TargetsError::Policy(_)), "{error}");
    let error = read("schema = 1").unwrap_err().to_string();
    assert!(error.contains("0 targets"), "{error}");
}
