#!/usr/bin/env python3
"""Verifies a Sigstore bundle with the Python library sigstore, offline: prints "good" and the
predicate's type, or "bad" and why.

  sigstore-verify.py TRUSTED_ROOT BUNDLE IDENTITY ISSUER
"""
import json
import pathlib
import sys

from sigstore.errors import VerificationError
from sigstore.models import Bundle, TrustedRoot
from sigstore.verify import Verifier, policy

root, bundle, identity, issuer = sys.argv[1:5]
verifier = Verifier(trusted_root=TrustedRoot.from_file(root))
try:
    kind, payload = verifier.verify_dsse(
        Bundle.from_json(pathlib.Path(bundle).read_bytes()),
        policy.Identity(identity=identity, issuer=issuer),
    )
except VerificationError as error:
    print("bad", error)
else:
    assert kind == "application/vnd.in-toto+json", kind
    print("good", json.loads(payload)["predicateType"])
