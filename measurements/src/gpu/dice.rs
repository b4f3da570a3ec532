//! Which firmware a device's key was made for: the extension of its certificate.
//!
//! Two forms exist. Hopper GPUs and switches carry the early one of TCG *Implicit Identity Based
//! Device Attestation*, 1.0: version, key and a digest. Blackwell GPUs carry `DiceTcbInfo` of TCG
//! *DICE Attestation Architecture*, 1.1, with digests and operational flags.

use x509_cert::der::asn1::{BitStringRef, ObjectIdentifier, OctetStringRef};
use x509_cert::der::{self, Decode as _, Reader as _, SliceReader, Tag, TagNumber};

pub(super) const COMPOSITE_DEVICE: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("2.23.133.5.4.1");
pub(super) const TCB_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.5.4.1.1");

const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const FWIDS: TagNumber = TagNumber::new(6);
const FLAGS: TagNumber = TagNumber::new(7);

/// Operational flags that no device in production has, by their place.
const REFUSED_FLAGS: [(usize, &str); 3] = [(1, "not secure"), (2, "recovery"), (3, "debug")];

/// What the extension says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Firmware {
    /// SHA-384 of the firmware.
    pub(super) fwid: Vec<u8>,
    /// The first flag that is set and refused.
    pub(super) refused_flag: Option<&'static str>,
}

/// Reads the early form.
pub(super) fn composite_device(bytes: &[u8]) -> der::Result<Firmware> {
    let mut reader = SliceReader::new(bytes)?;
    let fwid = reader.sequence(|reader| {
        u8::decode(reader)?;
        // The key of the device, which the chain already vouches for.
        reader.tlv_bytes()?;
        digest(reader)
    })?;
    reader.finish(Firmware { fwid, refused_flag: None })
}

/// Reads `DiceTcbInfo`: fields by number, in order.
pub(super) fn tcb_info(bytes: &[u8]) -> der::Result<Firmware> {
    let mut reader = SliceReader::new(bytes)?;
    let (mut fwid, mut refused_flag) = (None, None);
    reader.sequence(|reader| {
        while !reader.is_finished() {
            let tag = reader.peek_tag()?;
            let Tag::ContextSpecific { number, .. } = tag else {
                return Err(tag.value_error());
            };
            let field = reader.tlv_bytes()?;
            if number == FWIDS {
                fwid = Some(first_digest(field)?);
            } else if number == FLAGS {
                refused_flag = flag(field)?;
            }
        }
        Ok(())
    })?;
    let fwid = fwid.ok_or(der::ErrorKind::Failed)?;
    reader.finish(Firmware { fwid, refused_flag })
}

/// The value of a field that replaces its type's tag by its number.
fn content(field: &[u8]) -> der::Result<&[u8]> {
    let mut reader = SliceReader::new(field)?;
    let header = der::Header::decode(&mut reader)?;
    let value = reader.read_slice(header.length)?;
    reader.finish(value)
}

/// The first of a list of digests.
fn first_digest(field: &[u8]) -> der::Result<Vec<u8>> {
    digest(&mut SliceReader::new(content(field)?)?)
}

fn digest<'a>(reader: &mut impl der::Reader<'a>) -> der::Result<Vec<u8>> {
    reader.sequence(|reader| {
        let algorithm = ObjectIdentifier::decode(reader)?;
        let digest = OctetStringRef::decode(reader)?.as_bytes();
        if algorithm != SHA384 || digest.len() != 48 {
            return Err(der::ErrorKind::Failed.into());
        }
        Ok(digest.to_vec())
    })
}

fn flag(field: &[u8]) -> der::Result<Option<&'static str>> {
    let Some((unused, bits)) = content(field)?.split_first() else {
        return Err(der::ErrorKind::Failed.into());
    };
    let bits: Vec<bool> = BitStringRef::new(*unused, bits)?.bits().collect();
    let set = |(place, _): &&(usize, &str)| bits.get(*place).copied().unwrap_or(false);
    Ok(REFUSED_FLAGS.iter().find(set).map(|(_, name)| *name))
}
