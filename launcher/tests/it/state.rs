//! What is left of VMs whose supervisor is gone, and where state may lie.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::Duration;

use casemate_launcher::state::{StateError, StateRoot, VmName, VmPaths};
use casemate_launcher::{StopError, list, stop};

#[test]
fn what_a_dead_supervisor_left_is_listed_once_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let root = StateRoot::at(&dir.path().join("casemate")).unwrap();
    for (name, state) in [("half", None), ("garbage", Some("{\"schema\":"))] {
        let vm = dir.path().join("casemate/vms").join(name);
        fs::create_dir(&vm).unwrap();
        if let Some(state) = state {
            fs::write(vm.join("state.json"), state).unwrap();
        }
    }
    let listed = list(&root).unwrap();
    let names: Vec<_> = listed.iter().map(|vm| (vm.name.as_str(), vm.alive)).collect();
    assert_eq!(names, [("garbage", false), ("half", false)]);
    assert_eq!(list(&root).unwrap(), []);
    assert_eq!(fs::read_dir(dir.path().join("casemate/vms")).unwrap().count(), 0);
}

#[test]
fn a_vm_that_does_not_run_cannot_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let root = StateRoot::at(&dir.path().join("casemate")).unwrap();
    let name: VmName = "vm-1".parse().unwrap();
    let error = stop(&root, &name, Duration::ZERO, &mut |_| ()).unwrap_err();
    assert!(matches!(error, StopError::NotRunning { .. }), "{error}");
}

#[test]
fn a_directory_that_others_can_reach_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    let error = StateRoot::at(&open).unwrap_err();
    assert!(error.to_string().contains("755"), "{error}");
    let (target, link) = (dir.path().join("target"), dir.path().join("link"));
    fs::create_dir(&target).unwrap();
    symlink(&target, &link).unwrap();
    assert!(matches!(StateRoot::at(&link), Err(StateError::Directory { .. })));
    let made = dir.path().join("made");
    StateRoot::at(&made).unwrap();
    assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn names_are_no_paths_and_sockets_fit() {
    for name in ["", "..", "a/b", "A", "-a", "a-", "a.b", &"a".repeat(64)] {
        assert!(name.parse::<VmName>().is_err(), "{name}");
    }
    let long = format!("/run/{}", "d".repeat(100));
    assert!(matches!(VmPaths::new(long.into()), Err(StateError::LongPath { .. })));
}
