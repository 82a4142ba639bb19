"""Signatures by an elliptic curve; apart, since what verifies them is slow to load and most processes never need it."""

import base64
import binascii
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key


def is_public_key(text: str) -> bool:
    """Tell whether this is a public key of such a curve: a SubjectPublicKeyInfo, DER, in base64."""
    try:
        _key(text)
    except (UnsupportedAlgorithm, ValueError):
        return False
    return True


def is_signed(key: str, signature: str, content: bytes) -> bool:
    """Tell whether a signature, DER in base64, is the key's owner's, over the SHA-256 of the content."""
    try:
        _key(key).verify(base64.b64decode(signature, validate=True), content, ECDSA(SHA256()))
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


@lru_cache(maxsize=8)
def _key(text: str) -> EllipticCurvePublicKey:
    key = load_der_public_key(base64.b64decode(text, validate=True))
    if not isinstance(key, EllipticCurvePublicKey):
        raise ValueError("a key of another kind")  # noqa: TRY004  # what cannot be such a key is one error here
    return key
