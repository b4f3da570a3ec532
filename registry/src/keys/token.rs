//! Keys that stay in a token, asked through PKCS#11: the token signs, the key is never seen.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha384Hash;
use casemate_measurements::id_block::{PublicKey, Signature, Signer};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as Pkcs11Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

use super::{TokenDefaults, TokenUri};

/// Bytes of a point of P-256 and of P-384, not compressed.
const P256_LEN: u8 = 0x41;
const P384_LEN: u8 = 0x61;
/// Most bytes of a file with a PIN.
const MAX_PIN_LEN: u64 = 1024;

/// Why a token gives no key.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Nothing says which module to use.
    #[error(
        "no PKCS#11 module: put ?module-path=/path/to/module.so behind the URI, or set \
         PKCS11_MODULE_PATH"
    )]
    NoModule,
    /// The module cannot be loaded.
    #[error("cannot use the PKCS#11 module {}", path.display())]
    Module {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Pkcs11Error,
    },
    /// The token does not answer.
    #[error("PKCS#11: cannot {what}")]
    Token {
        /// What was tried.
        what: &'static str,
        /// What the module said.
        source: Pkcs11Error,
    },
    /// Not one token matches.
    #[error("{found} tokens match {wanted}, expected one; there are {there}")]
    Tokens {
        /// How many do.
        found: usize,
        /// What was looked for.
        wanted: String,
        /// The labels of those that are there.
        there: String,
    },
    /// Not one key matches.
    #[error("{found} {class} keys of token {token:?} match {wanted}, expected one of type EC")]
    Keys {
        /// How many do.
        found: usize,
        /// Private or public.
        class: &'static str,
        /// The token's label.
        token: String,
        /// What was looked for.
        wanted: String,
    },
    /// The public key is of another curve.
    #[error("the key of token {token:?} that matches {wanted} is no ECDSA key on {curves}")]
    Curve {
        /// The curves that would do.
        curves: &'static str,
        /// The token's label.
        token: String,
        /// What was looked for.
        wanted: String,
    },
    /// The PIN cannot be read.
    #[error("cannot read the PIN from {}", path.display())]
    Pin {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn failed(what: &'static str) -> impl FnOnce(Pkcs11Error) -> TokenError {
    move |source| TokenError::Token { what, source }
}

/// A private key in a token, on whatever curve.
pub(crate) struct Held {
    session: Session,
    private: ObjectHandle,
    /// The public key as a point in SEC1's form.
    point: Vec<u8>,
    token: String,
    wanted: String,
}

impl Held {
    /// Finds a key and logs in to its token.
    ///
    /// # Errors
    /// When not exactly one token and key match, or the token refuses.
    pub(crate) fn open(uri: &TokenUri, defaults: &TokenDefaults) -> Result<Self, TokenError> {
        let path = uri.module_path.as_ref().or(defaults.module.as_ref());
        let path = path.ok_or(TokenError::NoModule)?;
        let module = |source| TokenError::Module { path: path.clone(), source };
        let context = Pkcs11::new(path).map_err(module)?;
        let flags = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        match context.initialize(flags) {
            // Both keys of a signature may be in one token: the module is initialised once.
            Ok(()) | Err(Pkcs11Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(source) => return Err(module(source)),
        }
        let (slot, token) = find_token(&context, uri)?;
        let session = context.open_ro_session(slot).map_err(failed("open a session"))?;
        if let Some(pin) = pin(uri, defaults)? {
            login(&session, &pin)?;
        }
        let wanted = wanted(uri);
        let private = find_key(&session, uri, ObjectClass::PRIVATE_KEY, "private", &token)?;
        let public = find_key(&session, uri, ObjectClass::PUBLIC_KEY, "public", &token)?;
        let attributes = session
            .get_attributes(public, &[AttributeType::EcPoint])
            .map_err(failed("read the public key"))?;
        let point = attributes.iter().find_map(|attribute| match attribute {
            Attribute::EcPoint(point) => Some(bare(point).to_vec()),
            _ => None,
        });
        Ok(Self { session, private, point: point.unwrap_or_default(), token, wanted })
    }

    /// The public key as a point in SEC1's form; on which curve is for its reader to say.
    pub(crate) fn point(&self) -> &[u8] {
        &self.point
    }

    /// Signs a digest of the curve's length: r and s, one after the other.
    ///
    /// # Errors
    /// When the token refuses.
    pub(crate) fn sign(&self, digest: &[u8]) -> Result<Vec<u8>, Pkcs11Error> {
        self.session.sign(&Mechanism::Ecdsa, self.private, digest)
    }
}

/// A private key of P-384 in a token.
pub struct TokenKey {
    held: Held,
    public: PublicKey,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey").field("public", &self.public).finish_non_exhaustive()
    }
}

impl TokenKey {
    /// Finds a key and logs in to its token.
    ///
    /// # Errors
    /// When not exactly one token and key match, the key is on another curve, or the token refuses.
    pub fn open(uri: &TokenUri, defaults: &TokenDefaults) -> Result<Self, TokenError> {
        Self::new(Held::open(uri, defaults)?, "P-384")
    }

    /// A key that was found; `curves` are those that would do.
    pub(crate) fn new(held: Held, curves: &'static str) -> Result<Self, TokenError> {
        let Ok(public) = PublicKey::from_sec1(&held.point) else {
            let Held { token, wanted, .. } = held;
            return Err(TokenError::Curve { curves, token, wanted });
        };
        Ok(Self { held, public })
    }
}

impl Signer for TokenKey {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, digest: &Sha384Hash) -> Result<Signature, Box<dyn Error + Send + Sync>> {
        Ok(Signature::from_raw(&self.held.sign(digest.as_bytes())?)?)
    }
}

fn find_token(context: &Pkcs11, uri: &TokenUri) -> Result<(Slot, String), TokenError> {
    let slots = context.get_slots_with_token().map_err(failed("list tokens"))?;
    let (mut matching, mut there) = (Vec::new(), Vec::new());
    for slot in slots {
        let info = context.get_token_info(slot).map_err(failed("ask a token who it is"))?;
        let label = info.label().trim_end().to_owned();
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == found.trim_end())
        };
        if is(&uri.token, &label)
            && is(&uri.serial, info.serial_number())
            && uri.slot_id.is_none_or(|wanted| wanted == slot.id())
            && info.token_initialized()
        {
            matching.push((slot, label.clone()));
        }
        there.push(format!("{label:?}"));
    }
    let found = matching.len();
    match (matching.pop(), found) {
        (Some(one), 1) => Ok(one),
        _ => Err(TokenError::Tokens { found, wanted: wanted(uri), there: there.join(", ") }),
    }
}

fn find_key(
    session: &Session,
    uri: &TokenUri,
    class: ObjectClass,
    class_name: &'static str,
    token: &str,
) -> Result<ObjectHandle, TokenError> {
    let mut template = vec![Attribute::Class(class), Attribute::KeyType(KeyType::EC)];
    template.extend(uri.id.clone().map(Attribute::Id));
    template.extend(uri.object.as_ref().map(|label| Attribute::Label(label.clone().into_bytes())));
    let found = session.find_objects(&template).map_err(failed("look for the key"))?;
    match found[..] {
        [one] => Ok(one),
        _ => Err(TokenError::Keys {
            found: found.len(),
            class: class_name,
            token: token.to_owned(),
            wanted: wanted(uri),
        }),
    }
}

/// What a URI asks for, without its PIN.
fn wanted(uri: &TokenUri) -> String {
    let text =
        |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("{name}={value}"));
    let id = uri.id.as_ref().map(|id| format!("id={id:02x?}"));
    let slot = uri.slot_id.map(|slot| format!("slot-id={slot}"));
    let parts = [
        text("token", &uri.token),
        text("serial", &uri.serial),
        slot,
        text("object", &uri.object),
        id,
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(";")
}

/// The point in `CKA_EC_POINT`: DER of an octet string, or bare as some tokens have it.
fn bare(point: &[u8]) -> &[u8] {
    match point {
        // By both lengths: a bare point's own bytes may look like the beginning of one in DER.
        [0x04, len @ (P256_LEN | P384_LEN), rest @ ..] if rest.len() == usize::from(*len) => rest,
        _ => point,
    }
}

fn pin(uri: &TokenUri, defaults: &TokenDefaults) -> Result<Option<AuthPin>, TokenError> {
    let text = match (&uri.pin_value, &uri.pin_source) {
        (Some(pin), _) => Some(pin.clone()),
        (None, Some(path)) => Some(read_pin(path)?),
        (None, None) => defaults.pin.clone(),
    };
    Ok(text.map(|pin| AuthPin::new(pin.into())))
}

fn read_pin(path: &Path) -> Result<String, TokenError> {
    let fail = |source| TokenError::Pin { path: path.to_owned(), source };
    let mut text = String::new();
    File::open(path).map_err(fail)?.take(MAX_PIN_LEN).read_to_string(&mut text).map_err(fail)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn login(session: &Session, pin: &AuthPin) -> Result<(), TokenError> {
    match session.login(UserType::User, Some(pin)) {
        // All sessions of a process with one token are logged in together.
        Ok(()) | Err(Pkcs11Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
        Err(source) => Err(TokenError::Token { what: "log in with the PIN", source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_the_same_bare_and_in_der() {
        for len in [P256_LEN, P384_LEN] {
            // The second byte of a bare point may be anything, a length too.
            for second in 0..=u8::MAX {
                let mut point = vec![7; len.into()];
                point[..2].copy_from_slice(&[0x04, second]);
                assert_eq!(bare(&point), point);
                assert_eq!(bare(&[&[0x04, len][..], &point].concat()), point);
            }
        }
        for other in [&[][..], &[0x04], &[0x04, P256_LEN], &[0x02; 33]] {
            assert_eq!(bare(other), other);
        }
    }
}
