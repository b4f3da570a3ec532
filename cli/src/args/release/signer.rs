//! Who signs.
#![expect(clippy::doc_markdown, reason = "these are help texts, shown as they stand")]

use std::path::PathBuf;

use clap::{ArgGroup, Args};

/// Who signs: exactly one of a key and an identity.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("who").required(true).args(["key", "keyless"])))]
pub(crate) struct SignerArgs {
    /// Sign with this key of P-256 or P-384, no network: a PEM file as of `casemate release
    /// keygen`, or a PKCS#11 URI (pkcs11:token=…;object=…?module-path=…&pin-source=…). Without
    /// module-path the module is $PKCS11_MODULE_PATH, without a PIN it is $CASEMATE_PKCS11_PIN
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// Sign as who an identity provider says you are: asks a certificate authority, a log and a
    /// timestamp authority. On CI systems the identity is the job's
    #[arg(long)]
    pub(crate) keyless: bool,
    /// File with the identity token [default: the CI system's]
    #[arg(long, value_name = "FILE", requires = "keyless", conflicts_with = "key")]
    pub(crate) identity_token: Option<PathBuf>,
    /// Which services to ask, as `cosign signing-config create` writes it [default: Sigstore's
    /// public ones, as they were when casemate was compiled]
    #[arg(long, value_name = "FILE", requires = "keyless", conflicts_with = "key")]
    pub(crate) signing_config: Option<PathBuf>,
}
