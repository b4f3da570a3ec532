//! `id-block`: who vouches for a release's launches.

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use casemate_measurements::evidence::Base64Bytes;
use casemate_measurements::hash::{FamilyId, ImageId, Sha256Hash, Sha384Hash};
use casemate_measurements::id_block::PublicKey;
use casemate_measurements::id_block::release::{IdBlocks, LaunchBlock};
use casemate_measurements::launch::{CpuModel, Shape};
use casemate_measurements::manifest::Manifest;
use casemate_measurements::policy::{GuestPolicy, NamedPolicy};
use casemate_registry::{id_blocks, keys};
use casemate_validator::release;
use serde::Serialize;

use crate::args::{Format, IdBlockVerb, KeygenArgs, ReleaseArgs, ShowArgs, SignArgs};
use crate::outcome::Outcome;
use crate::printer::{self, Tone};

/// Exit code of ID blocks that are not the release's.
const NOT_GENUINE: u8 = 2;

/// Does what was typed.
pub(crate) fn dispatch(verb: &IdBlockVerb) -> anyhow::Result<Outcome> {
    match verb {
        IdBlockVerb::Keygen(args) => keygen(args),
        IdBlockVerb::Sign(args) => sign(args),
        IdBlockVerb::Verify(args) => verify(args),
        IdBlockVerb::Show(args) => show(args),
    }
}

fn keygen(args: &KeygenArgs) -> anyhow::Result<Outcome> {
    #[derive(Serialize)]
    struct Made {
        private: String,
        public: String,
        digest: Sha384Hash,
    }
    let made = keys::generate(&args.file)?;
    let (private, public) = (made.private.display(), made.public.display());
    match args.output.format {
        Format::Json => printer::json(&Made {
            private: private.to_string(),
            public: public.to_string(),
            digest: made.digest,
        })?,
        Format::Table => {
            printer::line(&format!(
                "private key  {private}\npublic key   {public}\nkey digest   {}",
                made.digest
            ))?;
        }
    }
    Ok(Outcome::Done)
}

/// The manifest of a release and its hash; it is canonical, so written again it is the same.
fn manifest(dir: &Path) -> anyhow::Result<(Manifest, Sha256Hash)> {
    let manifest = release::read_manifest(dir)?;
    let hash = Sha256Hash::of(&manifest.to_bytes()?);
    Ok((manifest, hash))
}

fn sign(args: &SignArgs) -> anyhow::Result<Outcome> {
    let (manifest, hash) = manifest(&args.release)?;
    let defaults = keys::TokenDefaults::from_environment(|name| std::env::var_os(name));
    let open = |what: &str, text: &str| {
        keys::open(text, &defaults).with_context(|| format!("cannot use the {what} key"))
    };
    let id_key = open("ID", &args.id_key)?;
    let author = args.author_key.as_deref().map(|text| open("author", text)).transpose()?;
    let start = Instant::now();
    let blocks = IdBlocks::sign(&manifest, hash, id_key.as_ref(), author.as_deref(), &mut |_| ())?;
    let seconds = start.elapsed().as_secs_f64();
    let path = id_blocks::write(&args.release, &blocks)?;
    let signed = manifest.reference_values.len();
    printer::say(&format!("{signed} ID blocks signed in {seconds:.2} s: {}", path.display()));
    if manifest.id_block.as_ref().is_none_or(|block| !block.requires_block()) {
        printer::warn(
            "the manifest names no key, so verifiers refuse these blocks unless their own policy \
             names it; put its digest into [id_block] of the recipe and build again",
        );
    }
    print(&Summary::new(&manifest, &blocks, None), args.output.format)?;
    Ok(Outcome::Done)
}

fn verify(args: &ReleaseArgs) -> anyhow::Result<Outcome> {
    let (manifest, hash) = manifest(&args.release)?;
    let blocks = id_blocks::read(&args.release)?;
    if let Err(error) = blocks.check(&manifest, &hash) {
        printer::error(&error.into(), None);
        return Ok(Outcome::Refused(NOT_GENUINE));
    }
    let signed = manifest.reference_values.len();
    printer::say(&printer::toned(Tone::Good, &format!("{signed} ID blocks verified")));
    print(&Summary::new(&manifest, &blocks, None), args.output.format)?;
    Ok(Outcome::Done)
}

fn show(args: &ShowArgs) -> anyhow::Result<Outcome> {
    let (manifest, hash) = manifest(&args.release)?;
    let blocks = id_blocks::read(&args.release)?;
    blocks.check_frame(&manifest, &hash)?;
    let launch = args.cpus.map(|cpus| launch(&manifest, &blocks, cpus, args)).transpose()?;
    print(&Summary::new(&manifest, &blocks, launch), args.output.format)?;
    Ok(Outcome::Done)
}

fn launch(
    manifest: &Manifest,
    blocks: &IdBlocks,
    cpus: u16,
    args: &ShowArgs,
) -> anyhow::Result<Launch> {
    let model = args.cpu_model.as_deref().map(str::parse::<CpuModel>).transpose()?;
    let mut rows = manifest.reference_values.iter();
    let row = rows
        .find(|row| row.vcpus.get() == cpus && model.is_none_or(|model| row.cpu_model == model));
    let shape = row.context("the manifest lists no launch of this shape")?.shape();
    let launch = blocks.launch(manifest, &shape).context("no ID block for this shape")?;
    let LaunchBlock { block, auth, author_key_enabled } = launch;
    let (id_block, id_auth) = (Base64Bytes(block.to_vec()), Base64Bytes(auth.to_vec()));
    Ok(Launch { shape, id_block, id_auth, author_key_enabled })
}

/// One launch's options of QEMU's `sev-snp-guest`.
#[derive(Debug, Serialize)]
struct Launch {
    shape: Shape,
    id_block: Base64Bytes,
    id_auth: Base64Bytes,
    author_key_enabled: bool,
}

/// What the ID blocks of a release state and who signed.
#[derive(Debug, Serialize)]
struct Summary {
    release: String,
    blocks: usize,
    family_id: FamilyId,
    image_id: ImageId,
    guest_svn: u32,
    policy: GuestPolicy,
    policy_bits: NamedPolicy,
    id_key_digest: Sha384Hash,
    author_key_digest: Option<Sha384Hash>,
    /// Whether the manifest names keys, which these then are.
    required: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    launch: Option<Launch>,
}

impl Summary {
    fn new(manifest: &Manifest, blocks: &IdBlocks, launch: Option<Launch>) -> Self {
        let identity = manifest.id_block.clone().unwrap_or_default();
        Self {
            release: format!("{} {}", manifest.release.name, manifest.release.version),
            blocks: manifest.reference_values.len(),
            family_id: identity.family_id,
            image_id: identity.image_id,
            guest_svn: identity.guest_svn,
            policy: manifest.guest_policy,
            policy_bits: manifest.guest_policy.into(),
            id_key_digest: blocks.id_key().digest(),
            author_key_digest: blocks.author_key().map(PublicKey::digest),
            required: identity.requires_block(),
            launch,
        }
    }

    fn text(&self) -> anyhow::Result<String> {
        let author = self.author_key_digest.map_or_else(|| "none".into(), |key| key.to_string());
        let mut lines = vec![
            format!("release       {}", self.release),
            format!("ID blocks     {}", self.blocks),
            format!("family        {}{}", self.family_id, readable(self.family_id.as_bytes())),
            format!("image         {}{}", self.image_id, readable(self.image_id.as_bytes())),
            format!("guest SVN     {}", self.guest_svn),
            format!("guest policy  {} ({})", self.policy, self.policy.describe()),
            format!("ID key        {}", self.id_key_digest),
            format!("author key    {author}"),
            format!("required      {}", if self.required { "yes" } else { "no" }),
        ];
        if let Some(Launch { shape, id_block, id_auth, author_key_enabled }) = &self.launch {
            let base64 = |bytes: &Base64Bytes| -> anyhow::Result<String> {
                Ok(serde_json::to_value(bytes)?.as_str().unwrap_or_default().to_owned())
            };
            lines.push(format!("\nshape         {shape}"));
            lines.push(format!("id-block={}", base64(id_block)?));
            lines.push(format!("id-auth={}", base64(id_auth)?));
            let enabled = if *author_key_enabled { "on" } else { "off" };
            lines.push(format!("author-key-enabled={enabled}"));
        }
        Ok(lines.join("\n"))
    }
}

/// An id that was given as text, as that text.
fn readable(id: &[u8; 16]) -> String {
    let text = id.split(|byte| *byte == 0).next().unwrap_or_default();
    let padded = id[text.len()..].iter().all(|byte| *byte == 0);
    match str::from_utf8(text) {
        Ok(text)
            if padded && !text.is_empty() && text.bytes().all(|b| (b' '..=b'~').contains(&b)) =>
        {
            format!(" ({text})")
        }
        _ => String::new(),
    }
}

fn print(summary: &Summary, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => printer::json(summary)?,
        Format::Table => printer::line(&summary.text()?)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_text_are_shown_as_text() {
        assert_eq!(readable(b"casemate\0\0\0\0\0\0\0\0"), " (casemate)");
        assert_eq!(readable(b"exactly 16 bytes"), " (exactly 16 bytes)");
        for bytes in [[0; 16], [7; 16], *b"in\0between\0\0\0\0\0\0"] {
            assert_eq!(readable(&bytes), "");
        }
    }
}
