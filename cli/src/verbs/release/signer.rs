//! Who signs: what was typed, as the registry's words.

use std::path::Path;

use anyhow::Context as _;
use casemate_registry::keys::TokenDefaults;
use casemate_registry::sign::{Keyless, Services, Signer, SigningKey, Token};

use crate::args::SignerArgs;

/// Opens the key or gets ready to ask who the signer is.
pub(super) fn open(args: &SignerArgs) -> anyhow::Result<Signer> {
    if let Some(key) = &args.key {
        return Ok(Signer::Key(Box::new(self::key(key)?)));
    }
    let services = match &args.signing_config {
        Some(path) => Services::from_config(&read(path)?)
            .with_context(|| format!("cannot use {}", path.display()))?,
        None => Services::public()?,
    };
    let token = match &args.identity_token {
        Some(path) => Token::from_text(&read(path)?)
            .with_context(|| format!("cannot use {}", path.display()))?,
        None => Token::Ambient,
    };
    Ok(Signer::Keyless(Box::new(Keyless::new(services, token))))
}

/// Opens a key.
pub(super) fn key(text: &str) -> anyhow::Result<SigningKey> {
    let defaults = TokenDefaults::from_environment(|name| std::env::var_os(name));
    SigningKey::open(text, &defaults).context("cannot use the key")
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
