"""Postal: docs.postalserver.io/developer/webhooks; its app/services/webhook_delivery_service.rb for the envelope."""

import base64
import json
from datetime import UTC, datetime
from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.webhooks.conftest import delivery_of
from tests.webhooks.providers.reading import contents_of, fact_of, facts_of, without
from webhooks.exceptions import Rejected
from webhooks.models import WebhookReceipt
from webhooks.providers import WEBHOOKS, Incoming, postal

MESSAGE = {
    "id": 12345,
    "token": "abcdef123",
    "direction": "outgoing",
    "message_id": "5817a64332f44_4ec93ff59e79d154565eb@mail.example.com",
    "to": "john@example.com",
    "from": "accounts@example.org",
    "subject": "Welcome",
    "timestamp": 1795192430.5,
    "spam_status": "NotSpam",
    "tag": "welcome",
}
BOUNCE = {
    "id": 12347,
    "token": "abcdef124",
    "direction": "incoming",
    "message_id": "5817a64332f44_4ec93ff59e79d154565ec@mx.example.com",
    "to": "abcde@psrp.example.org",
    "from": "postmaster@example.com",
    "subject": "Delivery Error",
    "timestamp": 1795192434.25,
    "spam_status": "NotSpam",
    "tag": None,
}
DELIVERY = {
    "status": "Sent",
    "details": "Message sent by SMTP to mx.example.com (192.0.2.1)",
    "output": "250 2.0.0 OK 1795192434 ly2si31746747wjb.95 - gsmtp",
    "time": 0.22,
    "sent_with_ssl": True,
    "timestamp": 1795192434.25,
    "message": MESSAGE,
}
CLICK = {
    "url": "https://example.org/",
    "token": "VJzsFA0S",
    "ip_address": "192.0.2.9",
    "user_agent": "Mozilla/5.0",
    "message": MESSAGE,
}
OPEN = {"ip_address": "192.0.2.9", "user_agent": "Mozilla/5.0", "message": MESSAGE}
REFUSED = "550 5.1.1 No such user"
GIVEN_UP = "451 4.4.1 Connection timed out"
# Event, payload, type, status, category, enhanced code.
EVENTS = [
    ("MessageSent", DELIVERY, "delivered", "delivered", "", ""),
    (
        "MessageDelayed",
        DELIVERY | {"status": "SoftFail", "output": "452 4.2.2 Mailbox full"},
        "deferred",
        "deferred",
        "mailbox_full",
        "4.2.2",
    ),
    (
        "MessageDeliveryFailed",
        DELIVERY | {"status": "HardFail", "output": REFUSED},
        "bounced",
        "bounced",
        "no_mailbox",
        "5.1.1",
    ),
    (
        "MessageDeliveryFailed",
        DELIVERY | {"status": "HardFail", "output": GIVEN_UP},
        "bounced",
        "soft_bounced",
        "unreachable",
        "4.4.1",
    ),
    (
        "MessageDeliveryFailed",
        DELIVERY | {"status": "HardFail", "output": "", "details": "Message is likely spam."},
        "failed",
        "failed",
        "spam",
        "",
    ),
    (
        "MessageHeld",
        DELIVERY | {"status": "Held", "output": "", "details": "Message held because send limit has been reached."},
        "deferred",
        "deferred",
        "policy",
        "",
    ),
    (
        "MessageHeld",
        DELIVERY
        | {
            "status": "Held",
            "output": "",
            "details": "Recipient (john@example.com) is on the suppression list (reason: too many hard fails)",
        },
        "suppressed",
        "suppressed",
        "other",
        "",
    ),
    ("MessageBounced", {"original_message": MESSAGE, "bounce": BOUNCE}, "bounced", "bounced", "", ""),
    (
        "MessageBounced",
        {"original_message": MESSAGE, "bounce": BOUNCE | {"bounce_type": "soft"}},
        "bounced",
        "soft_bounced",
        "",
        "",
    ),
    ("MessageLinkClicked", CLICK, "clicked", "delivered", "", ""),
    ("MessageLoaded", OPEN, "opened", "delivered", "", ""),
]
DOMAIN = {"server": {"uuid": "54529725"}, "domain": "example.org", "dns_checked_at": 1795192434.25, "spf_status": "OK"}
LIMIT = {"server": {"uuid": "54529725"}, "volume": 50, "limit": 50}


def envelope(event="MessageSent", payload=DELIVERY):
    return {
        "event": event,
        "timestamp": 1795192434.75,
        "payload": payload,
        "uuid": "3c5b1a0e-2cdb-4f4d-a1ad-f3a4f0e6d5a8",
    }


@cache
def private_key(_number=0):
    return generate_private_key(public_exponent=65537, key_size=1024)


def in_base64(public_key):
    return base64.b64encode(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def secret(number=0):
    return in_base64(private_key(number).public_key())


def signed(body, algorithm, number=0):
    return base64.b64encode(private_key(number).sign(body, PKCS1v15(), algorithm)).decode()


def headers_of(body, number=0):
    return {
        "x-postal-signature": signed(body, SHA1(), number),
        "x-postal-signature-256": signed(body, SHA256(), number),
    }


def accepts(headers, body, secrets=None):
    try:
        postal.verify(Incoming(headers, body), secrets or [secret(), secret(1)])
    except Rejected:
        return False
    return True


@pytest.fixture
def post(client, settings):
    settings.WEBHOOK_SECRETS = {"postal": [secret(), secret(1)]}

    def send(payload, number=0):
        body = json.dumps(payload).encode()
        return client.post("/webhooks/postal/", body, "application/json", headers=headers_of(body, number))

    return send


@pytest.mark.parametrize(("event", "payload", "event_type", "status", "category", "smtp_status"), EVENTS)
def test_event_of_each_type(event, payload, event_type, status, category, smtp_status):
    fact = fact_of("postal", envelope(event, payload))

    assert (fact.event_type, fact.status, fact.category, fact.smtp_status) == (
        event_type,
        status,
        category,
        smtp_status,
    )
    assert (fact.esp_message_id, fact.recipient_canonical) == ("12345", "john@example.com")
    assert fact.esp_event_id == "3c5b1a0e-2cdb-4f4d-a1ad-f3a4f0e6d5a8"
    own_time = 750_000 if event in {"MessageLinkClicked", "MessageLoaded"} else 250_000
    assert fact.occurred_at == datetime(2026, 11, 20, 16, 33, 54, own_time, UTC)


@pytest.mark.parametrize("payload", [DELIVERY | {"output": REFUSED}, DELIVERY | {"output": "", "details": REFUSED}])
def test_detail_is_the_servers_reply_or_else_postals_own(payload):
    assert fact_of("postal", envelope("MessageDeliveryFailed", payload)).detail == REFUSED


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        ("DomainDNSError", DOMAIN),
        ("SendLimitApproaching", LIMIT),
        ("SendLimitExceeded", LIMIT),
        ("SomethingNew", {}),
        ("MessageSent", DELIVERY | {"message": MESSAGE | {"direction": "incoming"}}),
    ],
)
def test_what_is_not_about_a_message_of_ours_says_nothing(event, payload):
    assert facts_of("postal", envelope(event, payload)) == []


@pytest.mark.parametrize("missing", ["timestamp", "uuid"])
def test_envelope_without_a_field_is_read(missing):
    assert fact_of("postal", without(envelope(), missing)).status == "delivered"


@pytest.mark.parametrize("missing", ["timestamp", "output", "details", "sent_with_ssl"])
def test_payload_without_a_field_is_read(missing):
    assert fact_of("postal", envelope(payload=without(DELIVERY, missing))).status == "delivered"


@pytest.mark.parametrize("missing", ["id", "to", "tag", "direction"])
def test_message_without_a_field_is_read(missing):
    fact = fact_of("postal", envelope(payload=DELIVERY | {"message": without(MESSAGE, missing)}))

    assert fact.status == "delivered"


@pytest.mark.parametrize("body", [[], "text", None, envelope() | {"payload": None}, {"rcpt_to": "a@example.com"}])
def test_what_is_no_event_is_unreadable(body):
    assert contents_of("postal", body).unreadable


@pytest.mark.parametrize(("algorithm", "name"), [(SHA1(), "x-postal-signature"), (SHA256(), "x-postal-signature-256")])
@pytest.mark.parametrize("number", [0, 1])
def test_either_signature_of_either_key_will_do(algorithm, name, number):
    assert accepts({name: signed(b"{}", algorithm, number)}, b"{}")


def test_weaker_signature_does_not_make_up_for_a_wrong_stronger_one():
    good = headers_of(b"{}")

    assert accepts(good, b"{}")
    assert not accepts(good | {"x-postal-signature-256": signed(b"[]", SHA256())}, b"{}")
    assert not accepts(good | {"x-postal-signature-256": ""}, b"{}")
    # Nor is one taken for the other.
    assert not accepts({"x-postal-signature-256": good["x-postal-signature"]}, b"{}")
    assert not accepts({"x-postal-signature": good["x-postal-signature-256"]}, b"{}")


@pytest.mark.parametrize("given", ["", "AAAA", "no base64!", "é", base64.b64encode(b"\0" * 128).decode()])
def test_forged_signature_is_refused(given):
    assert not accepts({"x-postal-signature": given}, b"{}")
    assert not accepts({}, b"{}")


def test_foreign_key_is_refused():
    assert not accepts(headers_of(b"{}", 2), b"{}")


def test_one_byte_of_the_body_decides():
    body = json.dumps(envelope()).encode()
    headers = headers_of(body)

    assert accepts(headers, body)
    for position in range(len(body)):
        assert not accepts(headers, body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :])


def test_secret_is_an_rsa_key():
    is_secret = WEBHOOKS["postal"].is_secret

    assert is_secret(secret())
    assert not is_secret("")
    assert not is_secret("AAAA")
    assert not is_secret(in_base64(ec.generate_private_key(ec.SECP256R1()).public_key()))


def test_events_through_the_url(post, sent):
    message = sent("postal", "12345")
    payload = envelope("MessageDeliveryFailed", DELIVERY | {"status": "HardFail", "output": REFUSED})

    assert post(payload).status_code == 200
    assert post(payload, 1).status_code == 200

    assert delivery_of(message).status == "bounced"
    assert [receipt.new_events for receipt in WebhookReceipt.objects.order_by("id")] == [1, 0]


@pytest.mark.django_db
def test_forged_request_is_refused(post):
    assert post(envelope(), 2).status_code == 401
    assert not WebhookReceipt.objects.exists()
