"""The kinds of secrets that providers' webhooks are proven by."""

import base64
import secrets
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from simulator.reports.base import Posted, Scheme, Sending

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def private_text(key: PrivateKey) -> str:
    return base64.b64encode(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())).decode()


def public_text(key: PrivateKey) -> str:
    """Return a key's public part as a SubjectPublicKeyInfo, DER, in base64."""
    return base64.b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def read_private(text: str, kind: type[PrivateKey]) -> Any:
    """Read a private key, PKCS #8, DER, in base64. Raises ValueError."""
    key = load_der_private_key(base64.b64decode(text, validate=True), None)
    if not isinstance(key, kind):
        raise ValueError("a key of another kind")  # noqa: TRY004  # what cannot be such a key is one error here
    return key


def new_curve() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def new_rsa() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def _pair(key: PrivateKey) -> tuple[str, str]:
    return private_text(key), public_text(key)


def _twice(text: str) -> tuple[str, str]:
    return text, text


def _svix_bytes(secret: str) -> bytes:
    """Decode ``whsec_<base64>``. Raises ValueError."""
    prefix, _, encoded = secret.partition("_")
    if prefix != "whsec" or not encoded:
        raise ValueError("it begins with whsec_")
    return base64.b64decode(encoded, validate=True)


def basic(body: str, _: Sending, key: str) -> Posted:
    """Prove by the user and the password of the URL alone, where it has any."""
    return Posted(body.encode(), basic_header(key))


def basic_header(key: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(key.encode()).decode()}"} if key else {}


TEXT = Scheme(
    make=lambda: _twice(secrets.token_hex(16)),
    read=str,
    other=lambda key: f"not-{key}",
    looks="any text",
)
BASIC = Scheme(
    make=lambda: _twice(f"hook:{secrets.token_hex(16)}"),
    read=str,
    other=lambda key: f"not-{key or 'hook:any'}",
    looks="user:password",
    in_url=True,
)
SVIX = Scheme(
    make=lambda: _twice(f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"),
    read=_svix_bytes,
    other=lambda key: key + b"!",
    looks="whsec_<base64>",
)
CURVE = Scheme(
    make=lambda: _pair(new_curve()),
    read=lambda text: read_private(text, ec.EllipticCurvePrivateKey),
    other=lambda _: new_curve(),
    looks="a private key of P-256, PKCS #8, DER, in base64",
)
RSA = Scheme(
    make=lambda: _pair(new_rsa()),
    read=lambda text: read_private(text, rsa.RSAPrivateKey),
    other=lambda _: new_rsa(),
    looks="a private RSA key, PKCS #8, DER, in base64",
)
