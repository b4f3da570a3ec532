"""Says whether both signatures of an ID block are good: block and authentication information on
stdin, base64, with a space between them.

Run by the Python of the environment that sev-snp-measure.sh makes, with its `cryptography`.
"""
import base64
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils


def number(data, at):
    return int.from_bytes(data[at:at + 72], "little")


def check(auth, key_at, signature_at, message):
    key = ec.EllipticCurvePublicNumbers(
        number(auth, key_at + 4), number(auth, key_at + 76), ec.SECP384R1()).public_key()
    signature = utils.encode_dss_signature(
        number(auth, signature_at), number(auth, signature_at + 72))
    key.verify(signature, message, ec.ECDSA(hashes.SHA384()))


block, auth = (base64.b64decode(part) for part in sys.stdin.read().split())
try:
    check(auth, 0x240, 0x40, block)
    check(auth, 0x880, 0x680, auth[0x240:0x644])
    print("good")
except InvalidSignature:
    print("bad")
