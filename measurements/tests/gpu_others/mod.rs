//! What a verifier of GPUs takes from others: manifests by their names, and a second opinion.

use casemate_measurements::appraisal::{
    CheckName, GpuAppraiser, GpuPolicy, SecondOpinion, missing_gpu_manifests,
};
use casemate_measurements::chain::UnixTime;
use casemate_measurements::platform::Platform;
use casemate_measurements::roots::Roots;

use crate::gpu_devices::{NONCE, all_roots, refused, roots_with};
use crate::nvidia::{self, Device, Rim};

#[test]
fn another_verifier_can_refuse_and_makes_nothing_pass() {
    let (policy, now) = (GpuPolicy::strict(), UnixTime(nvidia::NOW));
    let judge = |roots: &Roots, accepts| {
        let evidence = nvidia::evidence(&[Device::hopper(1, NONCE)]);
        let opinion = SecondOpinion { by: "other".into(), accepts, says: "words".into() };
        let appraiser = GpuAppraiser { policy: &policy, roots, platform: Platform::Simulated, now };
        appraiser.appraise_with(&evidence, &NONCE, Some(&opinion))
    };
    assert_eq!(judge(all_roots(), true).exit_code(), 0);
    refused(&judge(all_roots(), false), CheckName::GpuSecondOpinion, "accepted by other");
    let verdict = judge(&roots_with(&[]), true);
    refused(&verdict, CheckName::GpuMeasurements, "no reference integrity manifest");
}

#[test]
fn the_manifests_that_devices_are_held_to_have_names() {
    let (platform, now) = (Platform::Simulated, UnixTime(nvidia::NOW));
    let missing = |roots: &Roots, devices: &[Device]| -> Vec<String> {
        let evidence = nvidia::evidence(devices);
        let ids = missing_gpu_manifests(&evidence, roots, platform, now);
        ids.iter().map(|id| id.name().to_owned()).collect()
    };
    let none = roots_with(&[]);
    let mut machine = Device::hopper_machine(NONCE);
    let hopper = ["NV_GPU_DRIVER_GH100_590.12", "NV_GPU_VBIOS_G520_0200_885_9600A50001"];
    assert_eq!(missing(&none, &[Device::hopper(1, NONCE)]), hopper);
    let switch = "NV_SWITCH_BIOS_5612_0002_890_9610550001";
    assert_eq!(missing(&none, &machine), [&hopper[..], &[switch]].concat());
    let blackwell = missing(&none, &[Device::blackwell(1, NONCE)]);
    assert!(blackwell[0].starts_with("NV_GPU_CC_DRIVER_GB100_"), "{blackwell:?}");
    assert!(blackwell[1].ends_with("_970088000F"), "{blackwell:?}");
    assert_eq!(missing(all_roots(), &machine), [""; 0]);
    // Nobody asks on behalf of devices that are not NVIDIA's.
    machine[0].leaf.by = 7;
    assert_eq!(missing(&none, &machine), [""; 0]);
    let mut odd = Device::hopper(1, NONCE);
    odd.field(3, b"../550\0".to_vec());
    assert_eq!(missing(&none, &[odd]), hopper[1..]);
    // Only the manifest of that name will do, signed.
    let wanted =
        missing_gpu_manifests(&nvidia::evidence(&[Device::hopper(1, NONCE)]), &none, platform, now);
    let check = |rim: &str| wanted[0].check(rim.as_bytes(), &none, platform, now);
    let [driver, vbios, ..] = &Rim::all()[..] else { panic!() };
    assert!(check(&driver.xml()).is_ok());
    assert!(check(&vbios.xml()).is_err());
    assert!(check(&driver.xml().replace("eeee", "eeef")).is_err());
    let real = wanted[0].check(driver.xml().as_bytes(), &none, Platform::Snp, now);
    assert!(real.is_err(), "a simulated root signs no real manifest");
}
