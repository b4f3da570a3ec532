use p384::ecdsa::SigningKey;
use p384::ecdsa::signature::hazmat::PrehashSigner as _;

use super::*;

/// A key of a test.
struct Key {
    private: SigningKey,
    public: PublicKey,
}

fn key(seed: u8) -> Key {
    let private = SigningKey::from_slice(&[seed; 48]).unwrap();
    let point = private.verifying_key().to_encoded_point(false);
    Key { public: PublicKey::from_sec1(point.as_bytes()).unwrap(), private }
}

impl Signer for Key {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(
        &self,
        digest: &Sha384Hash,
    ) -> Result<Signature, Box<dyn std::error::Error + Send + Sync>> {
        let signature: p384::ecdsa::Signature = self.private.sign_prehash(digest.as_bytes())?;
        let (r, s) = signature.split_bytes();
        Ok(Signature::from_raw(&[r, s].concat())?)
    }
}

fn block() -> IdBlock {
    IdBlock {
        launch_digest: LaunchDigest::from_bytes([0xd1; 48]),
        family_id: FamilyId::from_bytes([0xfa; 16]),
        image_id: ImageId::from_bytes([0x1d; 16]),
        guest_svn: 7,
        policy: GuestPolicy::default(),
    }
}

/// Block and authentication information, with and without an author.
fn signed(author: bool) -> (Vec<u8>, Vec<u8>) {
    let (id, author_key, block) = (key(1), key(2), block());
    let signature = id.sign(&block.digest()).unwrap();
    let author = author.then(|| Endorsement::new(&id.public, &author_key).unwrap());
    let auth = auth_bytes(&id.public, &signature, author.as_ref());
    (block.to_bytes().to_vec(), auth.to_vec())
}

fn judge(block: &[u8], auth: &[u8], author: bool) -> Result<Accepted, IdBlockError> {
    verify(block, auth, author, &self::block().launch_digest, GuestPolicy::default())
}

#[test]
fn what_was_signed_is_accepted_and_told() {
    for author in [false, true] {
        let (bytes, auth) = signed(author);
        let accepted = judge(&bytes, &auth, author).unwrap();
        assert_eq!(accepted.block, block());
        assert_eq!(accepted.id_key_digest, Sha384Hash::of(&auth[0x240..0x644]));
        let of_author = author.then(|| Sha384Hash::of(&auth[0x880..0xc84]));
        assert_eq!(accepted.author_key_digest, of_author);
    }
}

#[test]
fn each_byte_matters_and_says_how() {
    let (bytes, auth) = signed(true);
    let flipped = |of: &[u8], at: usize| {
        let mut of = of.to_vec();
        of[at] ^= 1;
        of
    };
    for (at, status) in [
        (0, "BAD_MEASUREMENT"),
        (0x2f, "BAD_MEASUREMENT"),
        (0x30, "ID block is not signed by the ID key (BAD_SIGNATURE)"),
        (0x40, "BAD_SIGNATURE"),
        (0x50, "version of the ID block is 0, expected 1 (INVALID_PARAM)"),
        (0x54, "BAD_SIGNATURE"),
        // The policy's least ABI, and the bit that must be one.
        (0x58, "POLICY_FAILURE"),
        (0x5b, "POLICY_FAILURE"),
    ] {
        let error = judge(&flipped(&bytes, at), &auth, true).unwrap_err().to_string();
        assert!(error.contains(status), "{at:#x}: {error}");
    }
    for (at, status) in [
        (0, "algorithm of the ID key"),
        (4, "algorithm of the author key"),
        (0x8, "INVALID_PARAM"),
        (0x3f, "INVALID_PARAM"),
        (0x40, "ID block is not signed"),
        (0x88, "ID block is not signed"),
        (0x70, "signature has a byte"),
        (0x240, "INVALID_KEY"),
        (0x244, "INVALID_KEY"),
        (0x274, "ID key has a byte"),
        (0x643, "ID key has a byte"),
        (0x644, "INVALID_PARAM"),
        (0x680, "the ID key is not signed by the author key (BAD_SIGNATURE)"),
        (0x87f, "signature has a byte"),
        (0x884, "the author key is no ECDSA P-384 public key"),
        (0xc84, "INVALID_PARAM"),
        (0xfff, "INVALID_PARAM"),
    ] {
        let error = judge(&bytes, &flipped(&auth, at), true).unwrap_err().to_string();
        assert!(error.contains(status), "{at:#x}: {error}");
    }
    // An author key that is not looked at may be anything; its algorithm too.
    for at in [4, 0x680, 0x884] {
        assert!(judge(&bytes, &flipped(&auth, at), false).is_ok(), "{at:#x}");
    }
    let length =
        |result: Result<Accepted, IdBlockError>| matches!(result, Err(IdBlockError::Length { .. }));
    assert!(length(judge(&bytes[1..], &auth, true)) && length(judge(&bytes, &auth[1..], true)));
}

#[test]
fn a_block_is_for_one_launch_and_one_policy() {
    let (bytes, auth) = signed(false);
    let other = LaunchDigest::from_bytes([1; 48]);
    let error = verify(&bytes, &auth, false, &other, GuestPolicy::default()).unwrap_err();
    assert!(matches!(error, IdBlockError::Measurement { .. }), "{error}");
    let policy = GuestPolicy::default().with_least_abi(1, 55);
    let error = verify(&bytes, &auth, false, &block().launch_digest, policy).unwrap_err();
    assert!(matches!(error, IdBlockError::Policy { .. }), "{error}");
    // Another key's signature in the place of the ID key's.
    let stranger = key(3).sign(&block().digest()).unwrap();
    let auth = auth_bytes(&key(1).public, &stranger, None);
    let error = judge(&bytes, &auth, false).unwrap_err();
    assert!(matches!(error, IdBlockError::Signature { .. }), "{error}");
}

#[test]
fn keys_and_signatures_have_one_spelling() {
    let key = key(5);
    let json = serde_json::to_string(&key.public).unwrap();
    assert_eq!(serde_json::from_str::<PublicKey>(&json).unwrap(), key.public);
    let signature = key.sign(&Sha384Hash::of(b"x")).unwrap();
    let text = serde_json::to_string(&signature).unwrap();
    assert_eq!(serde_json::from_str::<Signature>(&text).unwrap(), signature);
    assert!(key.public.verifies(&Sha384Hash::of(b"x"), &signature));
    assert!(!key.public.verifies(&Sha384Hash::of(b"y"), &signature));
    let compressed = hex::encode(key.private.verifying_key().to_encoded_point(true).as_bytes());
    let upper = json.to_uppercase().replace("0X", "0x");
    for wrong in [format!("\"{compressed}\""), upper, "\"04\"".into(), "\"\"".into()] {
        assert!(serde_json::from_str::<PublicKey>(&wrong).is_err(), "{wrong}");
    }
    assert!(serde_json::from_str::<Signature>(&text.to_uppercase()).is_err());
    assert!(Signature::from_raw(&[0; 95]).is_err());
    assert!(!key.public.verifies(&Sha384Hash::of(b"x"), &Signature::from_raw(&[0; 96]).unwrap()));
}

/// A token that signs something else.
struct Broken(Key);

impl Signer for Broken {
    fn public_key(&self) -> &PublicKey {
        &self.0.public
    }

    fn sign(&self, _: &Sha384Hash) -> Result<Signature, Box<dyn std::error::Error + Send + Sync>> {
        self.0.sign(&Sha384Hash::of(b"another"))
    }
}

#[test]
fn no_signer_is_believed() {
    let error = Endorsement::new(&key(1).public, &Broken(key(2))).unwrap_err();
    assert!(matches!(error, SignError::Foreign { .. }), "{error}");
}
