"""Genuine requests of a few providers, as data: one that signs nothing, one that signs a batch, one with a nonce."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Headers = dict[str, str]

POSTMARK_SECRET: Final = "hook:a-genuine-password"
MAILGUN_SECRET: Final = "a-genuine-signing-key"
# The same in each process, and nobody's.
SENDGRID_KEY: Final = ec.derive_private_key(20261121, ec.SECP256R1())
SENDGRID_SECRET: Final = base64.b64encode(
    SENDGRID_KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
).decode()

# What a process needs to take them.
ENVIRON: Final = {
    "MAIL_PROVIDERS": "postmark,sendgrid,mailgun",
    "ANYMAIL_POSTMARK_SERVER_TOKEN": "a-token",
    "ANYMAIL_SENDGRID_API_KEY": "a-key",
    "ANYMAIL_MAILGUN_API_KEY": "a-key",
    "ANYMAIL_MAILGUN_SENDER_DOMAIN": "mg.example.com",
    "WEBHOOK_SECRET_POSTMARK": POSTMARK_SECRET,
    "WEBHOOK_SECRET_SENDGRID": SENDGRID_SECRET,
    "WEBHOOK_SECRET_MAILGUN": MAILGUN_SECRET,
}


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a mail: `kind` is SendGrid's word for it, `at` seconds of Unix time, `message_id` ours, if any.

    `tag` is the mail's: it may be as long as the request is to be large.
    """

    kind: str
    recipient: str
    esp_message_id: str
    at: int
    message_id: UUID | None = None
    tag: str = "welcome"


def _metadata(event: Event) -> dict[str, str]:
    return {"message_id": str(event.message_id)} if event.message_id else {}


def _postmark(event: Event) -> dict[str, Any]:
    return {
        "RecordType": {"delivered": "Delivery", "bounce": "Bounce", "spamreport": "SpamComplaint"}[event.kind],
        "MessageID": event.esp_message_id,
        "Recipient" if event.kind == "delivered" else "Email": event.recipient,
        "ID": event.at,
        "Type": "HardBounce" if event.kind == "bounce" else "SpamComplaint",
        "DeliveredAt" if event.kind == "delivered" else "BouncedAt": _iso(event.at),
        "ServerID": 23,
        "MessageStream": "outbound",
        "Tag": event.tag,
        "Details": "smtp;250 2.0.0 OK",
        "Metadata": _metadata(event),
    }


def _mailgun(event: Event) -> dict[str, Any]:
    return {
        "event": {"delivered": "delivered", "bounce": "failed", "spamreport": "complained"}[event.kind],
        "severity": "permanent",
        "id": f"{event.esp_message_id}-{event.kind}-{event.at}",
        "timestamp": event.at,
        "message": {"headers": {"message-id": event.esp_message_id}},
        "recipient": event.recipient,
        "tags": [event.tag],
        "delivery-status": {"code": 550 if event.kind == "bounce" else 250, "message": "5.1.1 No such user"},
        "user-variables": _metadata(event),
    }


def _sendgrid(event: Event) -> dict[str, Any]:
    return {
        "event": event.kind,
        "email": event.recipient,
        "timestamp": event.at,
        "anymail_id": event.esp_message_id,
        "smtp-id": f"<{event.esp_message_id}@ismtpd-555>",
        "sg_event_id": f"{event.esp_message_id}-{event.kind}-{event.at}",
        "sg_message_id": f"{event.esp_message_id}.filter0001.16648.5515E0B88.0",
        "category": [event.tag],
        "response": "250 2.0.0 OK",
        **({"type": "bounce", "status": "5.1.1"} if event.kind == "bounce" else {}),
        **_metadata(event),
    }


def _postmark_request(events: Sequence[Event]) -> tuple[bytes, Headers]:
    [event] = events
    credentials = base64.b64encode(POSTMARK_SECRET.encode()).decode()
    return json.dumps(_postmark(event)).encode(), {"Authorization": f"Basic {credentials}"}


def _mailgun_request(events: Sequence[Event]) -> tuple[bytes, Headers]:
    [event] = events
    token, timestamp = secrets.token_hex(25), str(int(time.time()))
    signature = hmac.new(MAILGUN_SECRET.encode(), f"{timestamp}{token}".encode(), hashlib.sha256).hexdigest()
    signed = {"token": token, "timestamp": timestamp, "signature": signature}
    return json.dumps({"signature": signed, "event-data": _mailgun(event)}).encode(), {}


def _sendgrid_request(events: Sequence[Event]) -> tuple[bytes, Headers]:
    body, timestamp = json.dumps([_sendgrid(event) for event in events]).encode(), str(int(time.time()))
    signature = SENDGRID_KEY.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    return body, {
        "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
        "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
    }


# How a provider's request is made of some events: its body and headers. Those but for SendGrid's hold one.
REQUESTS: Final[dict[str, Callable[[Sequence[Event]], tuple[bytes, Headers]]]] = {
    "postmark": _postmark_request,
    "mailgun": _mailgun_request,
    "sendgrid": _sendgrid_request,
}


def _iso(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
