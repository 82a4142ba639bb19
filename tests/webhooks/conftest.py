"""Posting as the providers do, and messages that they report about."""

import base64
import hashlib
import hmac
import itertools
import json
import time
from datetime import UTC, datetime

import pytest
from svix.webhooks import Webhook

from mailer import outbox
from mailer.ledger import own_fact
from mailer.models import DeliveryStatus, Message
from mailer.outbox import Outcome
from mailer.verdicts import Verdict
from tests.webhooks import payloads

POSTMARK_URL = "/webhooks/postmark/"
RESEND_URL = "/webhooks/resend/"
POSTMARK_SECRETS = ("hook:first-password", "hook:second-password")
RESEND_SECRETS = ("whsec_Zmlyc3Qtc2VjcmV0LW9mLXRoZS10ZXN0cw==", "whsec_c2Vjb25kLXNlY3JldC1vZi10aGUtdGVzdHM=")

_numbers = itertools.count()


def encoded(payload):
    return payload if isinstance(payload, bytes) else json.dumps(payload).encode()


def basic(credentials):
    return {"Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}


def signed(body, *, svix_id=None, secret=RESEND_SECRETS[0], timestamp=None):
    """Return the headers that Svix' own library makes for a body, now unless said otherwise."""
    svix_id = svix_id or f"msg_{next(_numbers)}"
    timestamp = int(time.time()) if timestamp is None else timestamp
    try:
        signature = Webhook(secret).sign(svix_id, datetime.fromtimestamp(timestamp, UTC), body.decode())
    except UnicodeDecodeError:  # the library signs text only
        key = base64.b64decode(secret.removeprefix("whsec_"))
        digest = hmac.digest(key, f"{svix_id}.{timestamp}.".encode() + body, hashlib.sha256)
        signature = f"v1,{base64.b64encode(digest).decode()}"
    return {"svix-id": svix_id, "svix-timestamp": str(timestamp), "svix-signature": signature}


@pytest.fixture
def post_postmark(client):
    def post(payload, *, credentials=POSTMARK_SECRETS[0], **headers):
        return client.post(
            POSTMARK_URL,
            encoded(payload),
            content_type="application/json",
            headers={"User-Agent": "Postmark", **basic(credentials), **headers},
        )

    return post


@pytest.fixture
def post_resend(client):
    def post(payload, **how):
        body = encoded(payload)
        return client.post(
            RESEND_URL,
            body,
            content_type="application/json",
            headers={"User-Agent": "Svix-Webhooks/1.84.0 (+https://www.svix.com/http-sender/)", **signed(body, **how)},
        )

    return post


@pytest.fixture
def enqueued(db):
    """Make messages that wait to be sent."""

    def enqueue(recipient=payloads.RECIPIENT):
        return outbox.enqueue("welcome", recipient, dedupe_key=f"test:{next(_numbers)}")

    return enqueue


@pytest.fixture
def sending(enqueued):
    """Make messages whose request is under way: the claim, after its intent was committed."""

    def intend(provider="resend", recipient=payloads.RECIPIENT):
        message = enqueued(recipient)
        [claim] = [claim for claim in outbox.claim("a worker", 100) if claim.message.pk == message.pk]
        claim.message.provider = provider
        claim.message.content = {"subject": "Welcome"}
        [going] = outbox.intend([claim])
        return going

    return intend


def settle(claim, state, esp_message_id=""):
    """Write the outcome of a request, as the sender does."""
    event_type = {"sent": "sent", "unknown": "ambiguous"}[state]
    outbox.settle(
        [
            Outcome(
                message_id=claim.message.pk,
                token=claim.message.token,
                state=state,
                verdict=Verdict.ACCEPTED if state == "sent" else Verdict.AMBIGUOUS,
                facts=tuple(
                    own_fact(
                        event_type,
                        recipient.delivery_id,
                        claim.message.token,
                        provider=claim.message.provider,
                        esp_message_id=esp_message_id,
                    )
                    for recipient in claim.recipients
                ),
            )
        ]
    )


@pytest.fixture
def sent(sending):
    """Make messages that a provider has accepted under the id in its payloads, or another one."""

    def send(provider="resend", esp_message_id=None, recipient=payloads.RECIPIENT):
        claim = sending(provider, recipient)
        known = payloads.RESEND_ID if provider == "resend" else payloads.POSTMARK_ID
        settle(claim, "sent", known if esp_message_id is None else esp_message_id)
        return claim.message

    return send


def delivery_of(message):
    return DeliveryStatus.objects.get(message_id=message.pk)


def state_of(message):
    return Message.objects.get(pk=message.pk).state
