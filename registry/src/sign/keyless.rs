//! Signing without a key of one's own: an identity provider's token, a certificate for ten minutes
//! (Fulcio), an entry in a public log (Rekor), a timestamp. This is the one place that talks to
//! them, and only when asked to sign.

use std::fmt;

use sigstore_sign::oidc::IdentityToken;
use sigstore_sign::trust_root::SigningConfig;
use sigstore_sign::{SigningContext, SigningServices, SigstoreInstance};
use sigstore_verify::crypto::parse_certificate_info;
use sigstore_verify::types::Bundle;

/// Most bytes of a token.
const MAX_TOKEN_LEN: usize = 64 * 1024;

/// Why nobody vouches for the signer.
#[derive(Debug, thiserror::Error)]
pub enum KeylessError {
    /// The signing config is refused.
    #[error("the signing config is refused: expected one as `cosign signing-config create` writes")]
    Config(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The token is none.
    #[error("this is no identity token: expected a JSON Web Token on one line")]
    Token(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There is no token.
    #[error(
        "no identity token: give one in a file, or run where the CI system hands one out (on \
         GitHub Actions with `permissions: id-token: write`)"
    )]
    NoToken,
    /// The token is too old.
    #[error("the identity token of {subject} is out of date: get a new one")]
    Expired {
        /// Whose.
        subject: String,
    },
    /// No connection can be made at all.
    #[error("cannot talk to the network")]
    Runtime(#[source] std::io::Error),
    /// A service refused.
    #[error("a signing service refused: {services}")]
    Service {
        /// The services.
        services: String,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The certificate names nobody.
    #[error("the certificate that was issued names no issuer and identity")]
    Nameless,
}

/// Where a signer asks.
#[derive(Debug, Clone)]
pub struct Services(SigningServices);

impl Services {
    /// The public instance, as it was when casemate was compiled.
    ///
    /// # Errors
    /// Never for what is compiled in.
    pub fn public() -> Result<Self, KeylessError> {
        SigningServices::from_embedded(SigstoreInstance::PublicGood)
            .map(Self)
            .map_err(|error| KeylessError::Config(error.into()))
    }

    /// Those of a signing config: a private deployment, or the public instance as it is now.
    ///
    /// # Errors
    /// When it is malformed or lacks a service.
    pub fn from_config(json: &str) -> Result<Self, KeylessError> {
        let config =
            SigningConfig::from_json(json).map_err(|error| KeylessError::Config(error.into()))?;
        SigningServices::from_signing_config(&config)
            .map(Self)
            .map_err(|error| KeylessError::Config(error.into()))
    }
}

impl fmt::Display for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (fulcio, rekor) = (self.0.fulcio_url(), self.0.rekor_url());
        write!(f, "{fulcio}, {rekor}, {}", self.0.tsa_url().unwrap_or("no timestamps"))
    }
}

/// Who the signer is, as an identity provider says it.
#[derive(Debug, Clone)]
pub enum Token {
    /// What a person or a CI system handed over.
    Given(Box<IdentityToken>),
    /// The CI system's, asked for when it is needed.
    Ambient,
}

impl Token {
    /// Reads a token.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_text(text: &str) -> Result<Self, KeylessError> {
        let text = text.trim();
        if text.len() > MAX_TOKEN_LEN {
            return Err(KeylessError::Token("it is too long".into()));
        }
        IdentityToken::from_jwt(text)
            .map(|token| Self::Given(Box::new(token)))
            .map_err(|error| KeylessError::Token(error.into()))
    }
}

/// Who signs, and with whose help.
#[derive(Debug, Clone)]
pub struct Keyless {
    services: Services,
    token: Token,
}

impl Keyless {
    /// A signer.
    #[must_use]
    pub const fn new(services: Services, token: Token) -> Self {
        Self { services, token }
    }

    /// Signs a payload; the bundle, and whose certificate is in it.
    ///
    /// # Errors
    /// When a service refuses.
    pub(super) fn sign(&self, payload: &[u8]) -> Result<(Bundle, String, String), KeylessError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(KeylessError::Runtime)?;
        let refused =
            |source| KeylessError::Service { services: self.services.to_string(), source };
        let bundle = runtime.block_on(async {
            let token = match &self.token {
                Token::Given(token) => token.as_ref().clone(),
                Token::Ambient => IdentityToken::detect_ambient()
                    .await
                    .map_err(|error| KeylessError::Token(error.into()))?
                    .ok_or(KeylessError::NoToken)?,
            };
            if token.is_expired() {
                return Err(KeylessError::Expired { subject: token.identity().to_owned() });
            }
            let signer = SigningContext::new(self.services.0.clone()).signer(token);
            signer.sign_raw_statement(payload).await.map_err(|error| refused(error.into()))
        })?;
        let certificate = bundle.signing_certificate().ok_or(KeylessError::Nameless)?;
        let info = parse_certificate_info(certificate).map_err(|error| refused(error.into()))?;
        match (info.issuer, info.identity) {
            (Some(issuer), Some(subject)) => Ok((bundle, issuer, subject.as_str().to_owned())),
            _ => Err(KeylessError::Nameless),
        }
    }
}
