//! Where the expectation of a check comes from.

use std::fmt;

/// Where the expectation of a check comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A format that this code knows every byte of.
    Format,
    /// The nonce that was sent.
    Nonce,
    /// The TLS session that the evidence came over.
    Session,
    /// The roots that the verifier trusts.
    Roots,
    /// The revocation lists that the verifier has.
    RevocationLists,
    /// The certificate of the key that signed.
    Certificate,
    /// The report, whose signature was verified.
    Report,
    /// The binding, which the report holds the hash of.
    Binding,
    /// The launch config, whose hash is in the report.
    LaunchConfig,
    /// The manifest of the release, and the field.
    Manifest(&'static str),
    /// The policy, and the field.
    Policy(&'static str),
    /// Always so: no policy can say otherwise.
    Always,
    /// Whoever asked.
    Caller,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Format => "format",
            Self::Nonce => "nonce",
            Self::Session => "TLS session",
            Self::Roots => "trusted roots",
            Self::RevocationLists => "revocation lists",
            Self::Certificate => "certificate of the signing key",
            Self::Report => "report",
            Self::Binding => "binding",
            Self::LaunchConfig => "launch config",
            Self::Manifest(field) => return write!(f, "manifest: {field}"),
            Self::Policy(field) => return write!(f, "policy: {field}"),
            Self::Always => "always",
            Self::Caller => "caller",
        })
    }
}
