"""What Amazon SNS posts, signed as it signs."""

import base64
import json
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from tests.webhooks.conftest import encoded
from webhooks.providers import Incoming

TOPIC = "arn:aws:sns:us-east-1:123456789012:events"
URL = "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-f3ecfb7224c7233fe7bb5f59f96de52f.pem"
KEY = rsa.generate_private_key(65537, 2048)

_SIGNED = {
    "Notification": ["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"],
    "SubscriptionConfirmation": ["Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"],
}
_SIGNED["UnsubscribeConfirmation"] = _SIGNED["SubscriptionConfirmation"]


def certificate(key, first_day=-1, last_day=300):
    """Return a certificate of the key's, in PEM, valid between two days from now."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=first_day))
        .not_valid_after(now + timedelta(days=last_day))
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _at(age):
    return (datetime.now(UTC) - timedelta(seconds=age)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def notification(event, *, age=0, **fields):
    """Return a notification of an SES event, or of a text."""
    return {
        "Type": "Notification",
        "MessageId": "d1f52be2-4ab1-5b1c-a1b4-7e9b8d6c0f12",
        "TopicArn": TOPIC,
        "Message": event if isinstance(event, str) else json.dumps(event),
        "Timestamp": _at(age),
        "UnsubscribeURL": "https://sns.us-east-1.amazonaws.com/?Action=Unsubscribe",
        **fields,
    }


def confirmation(*, age=0, **fields):
    """Return what comes when an address is subscribed to a topic."""
    return {
        "Type": "SubscriptionConfirmation",
        "MessageId": "165545c9-2a5c-472c-8df2-7ff2be2b3b1b",
        "Token": "2336412f37f",
        "TopicArn": TOPIC,
        "Message": f"You have chosen to subscribe to the topic {TOPIC}.",
        "SubscribeURL": f"https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn={TOPIC}",
        "Timestamp": _at(age),
        **fields,
    }


def signed(message, *, version="2", key=KEY):
    """Return a message with its signature."""
    names = [name for name in _SIGNED[message["Type"]] if message.get(name) is not None]
    text = "".join(f"{name}\n{message[name]}\n" for name in names).encode()
    digest = {"1": hashes.SHA1(), "2": hashes.SHA256()}[version]
    signature = base64.b64encode(key.sign(text, padding.PKCS1v15(), digest)).decode()
    return {**message, "SignatureVersion": version, "Signature": signature, "SigningCertURL": URL}


def incoming(message, **headers):
    """Return the request that carries a message."""
    return Incoming(headers, encoded(message))


# What Amazon answers to a confirmation.
CONFIRMED = b"""<ConfirmSubscriptionResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><ConfirmSubscriptionResult>
<SubscriptionArn>arn:aws:sns:us-east-1:123456789012:events:1</SubscriptionArn></ConfirmSubscriptionResult>
<ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></ConfirmSubscriptionResponse>"""
