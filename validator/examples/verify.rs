//! A validator: asks one VM for evidence and exits with the verdict's code.
#![expect(clippy::print_stdout, reason = "a program says what it found")]

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use casemate_validator::certificates::{AMD, Certificates, Settings};
use casemate_validator::fetch::Limits;
use casemate_validator::verify::{Verifier, now};
use casemate_validator::{release, trust};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, release, root @ ..] = arguments.as_slice() else {
        return Err("usage: verify HOST:PORT RELEASE [SIMULATED-ROOT.pem]".into());
    };
    // The launch digests that are wanted. Whoever gave you the release is trusted for them.
    let releases = [release::read(Path::new(release))?];
    // Whom to believe: AMD's roots, which are compiled in; a simulated one only by hand.
    let roots = trust::roots(root.first().map(Path::new))?;
    // What is accepted: strict by default; its fields are public.
    let policy = trust::policy(&roots);
    // Certificates that the VM does not send, and revocation lists: AMD's key service has them.
    let certificates =
        Certificates::open(&Settings { service: Some(AMD.into()), ..Settings::default() })?;
    let (releases, policy, roots, certificates) = (&releases, &policy, &roots, &certificates);
    let (revocation_lists, nvattest, limits, now) = (&[], None, Limits::default(), now()?);
    let verifier =
        Verifier { releases, policy, roots, certificates, revocation_lists, nvattest, limits, now };
    // A fresh nonce, one TLS session, and a verdict: each check with expected and found.
    let answer = verifier.verify(&target.parse()?)?;
    println!("{}", answer.verdict);
    Ok(answer.verdict.exit_code().into())
}
