"""Amazon SNS: whether a request is one of its topic's, and how a subscription is confirmed.

https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html: RSA over some of a message's fields, by
SHA-1 (signature version 1) or SHA-256 (2), with the key of a certificate at an address that the message names.
https://docs.aws.amazon.com/sns/latest/api/API_ConfirmSubscription.html.

Apart from `amazon_ses`, since what this needs is slow to load, and only who gets its requests needs it.
"""

import base64
import binascii
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import boto3
import requests
import structlog
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509 import Certificate, load_pem_x509_certificate
from django.conf import settings
from urllib3.exceptions import HTTPError

from webhooks.exceptions import Rejected, Unavailable, Unreadable
from webhooks.providers.base import Incoming, Proof
from webhooks.providers.proofs import fresh
from webhooks.providers.times import of_iso

log = structlog.get_logger(__name__)

# A message is repeated for an hour at most, by the page on retries.
TOLERANCE: Final = 2 * 60 * 60  # seconds
# What the signature covers, by `Type`; `Subject` only where there is one.
SIGNED: Final[dict[str, tuple[str, ...]]] = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    "UnsubscribeConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
DIGESTS: Final[dict[str, hashes.HashAlgorithm]] = {
    "1": hashes.SHA1(),  # noqa: S303  # what a topic signs by unless it is told otherwise
    "2": hashes.SHA256(),
}
CERTIFICATE: Final = re.compile(
    r"https://sns\.([a-z]{2}(?:-[a-z]+)+-[0-9]{1,2})\.amazonaws\.com(?:\.cn)?"
    r"/SimpleNotificationService(?:-[0-9A-Za-z]{1,64})?\.pem"
)
CONNECT: Final = 3.0  # seconds
WITHIN: Final = 5.0  # seconds for a whole certificate
LARGEST: Final = 64 * 1024  # bytes of one
LIFETIME: Final = 24 * 60 * 60  # seconds it is kept
MOST: Final = 32  # certificates kept
# What confirming may be answered with where the message itself is to blame.
REFUSALS: Final = frozenset({"InvalidParameter", "InvalidParameterException", "NotFound", "NotFoundException"})


def fetch(url: str) -> bytes:
    """Return what is at an address of Amazon's, over verified TLS and without following it elsewhere.

    Raises `Rejected` where nothing is there, and `Unavailable` where that cannot be told. In development what stands
    there is the simulator's.
    """
    if settings.WEBHOOK_SIMULATED_CERTIFICATE:
        return bytes(settings.WEBHOOK_SIMULATED_CERTIFICATE)
    deadline = time.monotonic() + WITHIN
    try:
        with requests.get(url, timeout=(CONNECT, WITHIN), allow_redirects=False, stream=True) as response:
            if 400 <= response.status_code < 500:  # noqa: PLR2004  # RFC 9110, 15.5
                raise Rejected("there is no such certificate")
            if response.status_code != requests.codes.ok:
                raise Unavailable(f"Amazon's certificate: answered {response.status_code}")
            content = b""
            # One read from the network at a time: a server that dribbles is left in time.
            while piece := response.raw.read1(4096, decode_content=True):
                content += piece
                if len(content) > LARGEST or time.monotonic() > deadline:
                    raise Unavailable("Amazon's certificate: too slow or too large")
            return content
    except (requests.RequestException, HTTPError, OSError) as error:
        raise Unavailable(f"Amazon's certificate: {type(error).__name__}") from error


@dataclass
class Certificates:
    """Amazon's certificates by their addresses, kept for a day; one that could not be had is asked for again.

    One is fetched at a time: who needs another meanwhile is told to come again, and holds up no thread.
    """

    fetch: Callable[[str], bytes] = fetch
    _kept: dict[str, tuple[float, Certificate]] = field(default_factory=dict)
    _fetching: threading.Lock = field(default_factory=threading.Lock)

    def key(self, url: str) -> RSAPublicKey:
        """Return the public key at an address. Raises `Rejected`, where it is no more valid, and `Unavailable`."""
        certificate = self._known(url) or self._fetched(url)
        if not certificate.not_valid_before_utc <= datetime.now(UTC) <= certificate.not_valid_after_utc:
            raise Rejected("the certificate is not valid now")
        key = certificate.public_key()
        if not isinstance(key, RSAPublicKey):
            raise Rejected("the certificate's key is of another kind")
        return key

    def _known(self, url: str) -> Certificate | None:
        since, certificate = self._kept.get(url, (0.0, None))
        return certificate if certificate and time.monotonic() - since <= LIFETIME else None

    def _fetched(self, url: str) -> Certificate:
        if not self._fetching.acquire(blocking=False):
            raise Unavailable("Amazon's certificate: one is being fetched")
        try:
            if certificate := self._known(url):
                return certificate  # it has come since we looked
            certificate = _certificate(self.fetch(url))
            if len(self._kept) >= MOST:
                self._kept.clear()
            self._kept[url] = time.monotonic(), certificate
        finally:
            self._fetching.release()
        return certificate


CERTIFICATES: Final = Certificates()


def verify(incoming: Incoming, topics: Sequence[str]) -> Proof:
    """Check a message's signature, age, type and topic; confirm a subscription. Raises `Rejected`, `Unavailable`."""
    message = _message(incoming)
    _check_origin(message, topics)
    _check_signature(message)
    if message["Type"] == "SubscriptionConfirmation":
        confirm(message["TopicArn"], message["Token"])
    return Proof()


def confirm(topic: str, token: str) -> None:
    """Confirm a subscription through the API. Raises `Rejected` where the token is no good, else `Unavailable`.

    The address in the message would do as well, but it is somebody else's to choose.
    """
    limits = Config(connect_timeout=CONNECT, read_timeout=WITHIN, retries={"total_max_attempts": 1})
    try:
        client = boto3.session.Session().client("sns", region_name=_region(topic), config=limits)
        client.confirm_subscription(TopicArn=topic, Token=token, AuthenticateOnUnsubscribe="true")
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in REFUSALS:
            raise Rejected("the subscription cannot be confirmed") from error
        raise Unavailable(f"confirming the subscription: {code}") from error
    except (BotoCoreError, ResponseParserError) as error:
        raise Unavailable(f"confirming the subscription: {type(error).__name__}") from error
    log.info("subscription_confirmed", topic=topic)


def _message(incoming: Incoming) -> Mapping[str, str]:
    """Return the fields that are needed, all of them text. Raises `Rejected`."""
    try:
        body: Any = incoming.json()
    except Unreadable as error:
        raise Rejected("no message of SNS") from error
    kind = body.get("Type") if isinstance(body, dict) else None
    if not isinstance(kind, str) or kind not in SIGNED:
        raise Rejected("no message of SNS")
    if incoming.headers.get("x-amz-sns-message-type", kind) != kind:
        raise Rejected("the header names another type")
    names = (*SIGNED[kind], "Signature", "SignatureVersion", "SigningCertURL")
    message = {name: body[name] for name in names if body.get(name) is not None}
    if not all(isinstance(value, str) for value in message.values()) or not {*names} - {"Subject"} <= {*message}:
        raise Rejected("a field is missing")
    return message


def _check_origin(message: Mapping[str, str], topics: Sequence[str]) -> None:
    if message["TopicArn"] not in topics:
        raise Rejected("the topic is not one of ours")
    sent_at = of_iso(message["Timestamp"])
    fresh("" if sent_at is None else str(int(sent_at.timestamp())), TOLERANCE)
    found = CERTIFICATE.fullmatch(message["SigningCertURL"])
    # The topic's own region, and so no host that does not exist.
    if not found or found[1] != _region(message["TopicArn"]):
        raise Rejected("the certificate is not Amazon's")


def _check_signature(message: Mapping[str, str]) -> None:
    digest = DIGESTS.get(message["SignatureVersion"])
    if digest is None:
        raise Rejected("a signature version that is not known")
    try:
        signature = base64.b64decode(message["Signature"], validate=True)
        signed = "".join(f"{name}\n{message[name]}\n" for name in SIGNED[message["Type"]] if name in message).encode()
    except (binascii.Error, ValueError) as error:
        raise Rejected("the signature is missing or wrong") from error
    key = CERTIFICATES.key(message["SigningCertURL"])
    try:
        key.verify(signature, signed, PKCS1v15(), digest)
    except InvalidSignature as error:
        raise Rejected("the signature is missing or wrong") from error


def _certificate(content: bytes) -> Certificate:
    try:
        return load_pem_x509_certificate(content)
    except ValueError as error:
        raise Unavailable("Amazon's certificate: not readable") from error


def _region(topic: str) -> str:
    return topic.split(":")[3]
