//! A stand-in for NVIDIA's service of reference integrity manifests.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_measurements::appraisal::{GpuAppraiser, GpuPolicy, GpuVerdict};
use casemate_measurements::chain::UnixTime;
use casemate_measurements::hash::Nonce;
use casemate_measurements::platform::Platform;
use casemate_measurements::roots::Roots;
use casemate_validator::certificates::{Certificates, CertificatesError, Limits, Settings};
use casemate_validator::trust;

use crate::key_service::{Reply, StandIn};
use crate::nvidia::{self, Device, Rim};

const NONCE: Nonce = Nonce::from_bytes([0x42; 32]);
const DRIVER: &str = "/v1/rim/NV_GPU_DRIVER_GH100_590.12";
const VBIOS: &str = "/v1/rim/NV_GPU_VBIOS_G520_0200_885_9600A50001";

fn wrapped(rim: &Rim) -> Reply {
    let rim = STANDARD.encode(rim.xml());
    let body = serde_json::json!({ "id": "x", "rim": rim, "rim_format": "TEXT", "sha256": "x" });
    Reply::Body(body.to_string().into_bytes())
}

fn good_reply(path: &str) -> Reply {
    match path {
        DRIVER => wrapped(&Rim::of("GH100", nvidia::DRIVER, &[1, 2])),
        VBIOS => wrapped(&Rim::of("GH100", nvidia::VBIOS, &[3, 35])),
        _ => Reply::Status(404, ""),
    }
}

fn source(url: Option<&str>, cache: Option<&Path>) -> Certificates {
    let (cache, gpu_manifests) = (cache.map(Into::into), url.map(str::to_owned));
    // No reply of these tests is one that is waited for.
    let (request, total) = (Duration::from_secs(30), Duration::from_mins(1));
    let limits = Limits { request, total, pause: Duration::from_millis(20) };
    Certificates::open(&Settings { cache, service: None, gpu_manifests, limits }).unwrap()
}

fn roots() -> Roots {
    Roots::amd().unwrap().with_simulated_gpus(&nvidia::root()).unwrap()
}

/// The verdict on one GPU with the manifests that `source` finds, and what it does not find.
fn judge(source: &Certificates, devices: &[Device]) -> (GpuVerdict, Vec<CertificatesError>) {
    let (roots, now) = (roots(), UnixTime(nvidia::NOW));
    let (platform, policy) = (Platform::Simulated, GpuPolicy::strict());
    let evidence = nvidia::evidence(devices);
    let (found, missing) = source.gpu_manifests(&evidence, platform, &roots, now);
    let roots = trust::with_manifests(&roots, &found);
    let appraiser = GpuAppraiser { policy: &policy, roots: &roots, platform, now };
    (appraiser.appraise(&evidence, &NONCE), missing)
}

fn gpu() -> Vec<Device> {
    vec![Device::hopper(1, NONCE)]
}

#[test]
fn manifests_are_got_once_and_kept() {
    let service = StandIn::start(|path, _| good_reply(path));
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let asking = source(Some(&service.url), Some(&cache));
    for _ in 0..2 {
        let (verdict, missing) = judge(&asking, &gpu());
        assert_eq!((verdict.exit_code(), missing.len()), (0, 0), "{verdict}");
    }
    assert_eq!(service.paths(), [DRIVER, VBIOS]);
    let (verdict, _) = judge(&source(None, Some(&cache)), &gpu());
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    // What lies in the cache is judged again.
    for entry in std::fs::read_dir(&cache).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, text.replacen("\"rim\":\"", "\"rim\":\"QUFB", 1)).unwrap();
    }
    let (verdict, missing) = judge(&source(None, Some(&cache)), &gpu());
    assert_eq!((verdict.exit_code(), missing.len()), (3, 2), "{verdict}");
    assert!(missing[0].to_string().contains("no service of GPU manifests may be asked"));
}

#[test]
fn nobody_asks_for_devices_that_nvidia_does_not_vouch_for() {
    let service = StandIn::start(|path, _| good_reply(path));
    let mut devices = gpu();
    devices[0].leaf.by = 7;
    let (verdict, missing) = judge(&source(Some(&service.url), None), &devices);
    assert_eq!((verdict.exit_code(), missing.len()), (2, 0), "{verdict}");
    assert_eq!(service.paths(), [""; 0]);
}

#[test]
fn whatever_else_the_service_sends_is_not_believed() {
    type Wrong = (fn() -> Reply, &'static str);
    let replies: [Wrong; 7] = [
        (|| Reply::Status(404, ""), "no GPU manifest NV_GPU_DRIVER"),
        (|| Reply::Status(302, "Location: http://192.0.2.1/\r\n"), "no GPU manifest"),
        (|| wrapped(&Rim::of("GH100", "1.2", &[1, 2])), "is not the GPU manifest"),
        (|| Reply::Body(b"{}".to_vec()), "is not the GPU manifest"),
        (|| Reply::Body(b"{\"rim\": \"PGE+\"}".to_vec()), "is not the GPU manifest"),
        (|| Reply::Flood, "no GPU manifest"),
        (
            || {
                let mut rim = Rim::of("GH100", nvidia::DRIVER, &[1, 2]);
                rim.signer.by = 7;
                wrapped(&rim)
            },
            "is not the GPU manifest",
        ),
    ];
    for (reply, words) in replies {
        let service = StandIn::start(move |path, _| match path {
            DRIVER => reply(),
            _ => good_reply(path),
        });
        let (verdict, missing) = judge(&source(Some(&service.url), None), &gpu());
        assert_eq!(verdict.exit_code(), 3, "{verdict}");
        assert!(verdict.summary().contains("unverified"), "{verdict}");
        assert!(missing[0].to_string().contains(words), "{} lacks {words:?}", missing[0]);
    }
}
