//! Stopping a VM. Its owner may do that at any time; a guest that is asked ends its services first.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use casemate_launcher::stopping::{StopStep, Stopped};
use casemate_tests::Host;

use crate::genuine::consoles_are_silent;

/// Not judged: emulated, on a machine that does other things too, a shutdown takes what it takes.
const AMPLE: Duration = Duration::from_mins(10);

#[test]
fn a_guest_powers_off_when_it_is_asked_whatever_its_tenant_runs() {
    let host = Host::default();
    let mut plan = host.plan("asked");
    plan.machine.consoles = host.consoles();
    let seen = host.launch(&plan);
    let vm = seen.result.unwrap();
    // A session of the tenant's with processes that heed no signal.
    let deaf = "trap '' HUP INT TERM; sleep 86400 & echo there; sleep 86400; sleep 86400";
    let mut session = vm.ssh(&host, deaf).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(session.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "there\n");

    let (steps, ended) = vm.stop(AMPLE);
    assert_eq!(ended, Stopped::PoweredOff, "{steps:?}");
    let for_ms = u64::try_from(AMPLE.as_millis()).unwrap();
    assert_eq!(steps, [StopStep::Asked { for_ms }, StopStep::ShuttingDown]);
    assert!(!session.wait().unwrap().success());
    consoles_are_silent(&host, &vm.plan.machine.consoles, &seen.before_init);
}
