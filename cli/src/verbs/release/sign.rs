//! `release keygen`, `public-key`, `sign`, `attest`.

use std::path::PathBuf;

use casemate_builder::diff;
use casemate_measurements::hash::Sha256Hash;
use casemate_registry::release::Release;
use casemate_registry::sign;
use serde::Serialize;

use super::signer;
use crate::args::{
    Format, OutputArgs, ReleaseAttestArgs, ReleaseKeygenArgs, ReleasePublicKeyArgs, ReleaseSignArgs,
};
use crate::outcome::Outcome;
use crate::printer;

/// Exit code of a release that is not the one that was rebuilt.
const DIFFERS: u8 = 3;

/// Makes a key.
pub(crate) fn keygen(args: &ReleaseKeygenArgs) -> anyhow::Result<Outcome> {
    #[derive(Serialize)]
    struct Made {
        private: PathBuf,
        public: PathBuf,
        sha256: Sha256Hash,
    }
    let sign::Generated { private, public, sha256 } = sign::generate(&args.file)?;
    match args.output.format {
        Format::Table => printer::line(&format!(
            "private key  {}\npublic key   {}\nSHA-256      {sha256}",
            private.display(),
            public.display()
        ))?,
        Format::Json => printer::json(&Made { private, public, sha256 })?,
    }
    Ok(Outcome::Done)
}

/// Prints the public half of a key.
pub(crate) fn public_key(args: &ReleasePublicKeyArgs) -> anyhow::Result<Outcome> {
    #[derive(Serialize)]
    struct Public {
        pem: String,
        sha256: Sha256Hash,
    }
    let key = signer::key(&args.key)?;
    let public = Public { pem: key.public().to_pem()?, sha256: *key.public().sha256() };
    match args.output.format {
        Format::Table => printer::line(public.pem.trim_end())?,
        Format::Json => printer::json(&public)?,
    }
    Ok(Outcome::Done)
}

/// What was signed, as this program prints it.
#[derive(Debug, Serialize)]
struct Signed {
    release: String,
    manifest_sha256: Sha256Hash,
    signer: String,
    files: Vec<PathBuf>,
}

/// Signs a release.
pub(crate) fn sign(args: &ReleaseSignArgs) -> anyhow::Result<Outcome> {
    let release = Release::open(&args.release)?;
    let signer = signer::open(&args.signer)?;
    let (files, who) = release.sign(&signer, &args.builder_id)?;
    print(&release, files, who, args.output)
}

/// Signs a release that was rebuilt.
pub(crate) fn attest(args: &ReleaseAttestArgs) -> anyhow::Result<Outcome> {
    let published = Release::open(&args.release)?;
    let rebuilt = Release::open(&args.rebuilt)?;
    rebuilt.check_files()?;
    if published.manifest_sha256() != rebuilt.manifest_sha256() {
        let report = diff::diff(&args.release, &args.rebuilt)?;
        printer::line(report.to_string().trim_end())?;
        printer::say("nothing was signed: the release that you built is another one");
        return Ok(Outcome::Refused(DIFFERS));
    }
    let signer = signer::open(&args.signer)?;
    let (files, who) = published.sign(&signer, &args.builder_id)?;
    print(&published, files, who, args.output)
}

fn print(
    release: &Release,
    files: Vec<PathBuf>,
    who: String,
    output: OutputArgs,
) -> anyhow::Result<Outcome> {
    let named = &release.manifest().release;
    let signed = Signed {
        release: format!("{} {}", named.name, named.version),
        manifest_sha256: release.manifest_sha256(),
        signer: who,
        files,
    };
    match output.format {
        Format::Json => printer::json(&signed)?,
        Format::Table => {
            let mut lines = vec![
                format!("release   {}", signed.release),
                format!("manifest  {}", signed.manifest_sha256),
                format!("signer    {}", signed.signer),
            ];
            let files = signed.files.iter();
            lines.extend(files.map(|path| format!("written   {}", path.display())));
            printer::line(&lines.join("\n"))?;
        }
    }
    Ok(Outcome::Done)
}
