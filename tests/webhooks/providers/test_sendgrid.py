"""Every event of SendGrid's: twilio.com/docs/sendgrid/for-developers/tracking-events/event."""

import base64
import time
from datetime import UTC, datetime
from uuid import UUID

import pytest
from anymail.exceptions import AnymailNotSupportedWarning
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from tests.webhooks.conftest import delivery_of, encoded
from tests.webhooks.providers import mangled
from tests.webhooks.providers.reading import contents_of, fact_of
from webhooks.exceptions import Rejected
from webhooks.models import WebhookReceipt
from webhooks.providers import WEBHOOKS, Incoming, sendgrid

pytestmark = pytest.mark.filterwarnings(f"ignore::{AnymailNotSupportedWarning.__module__}.AnymailNotSupportedWarning")

URL = "/webhooks/sendgrid/"
RECIPIENT = "john@example.com"
KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
SENT_AT = 1795218072  # 2026-11-20T23:41:12Z

COMMON = {
    "email": RECIPIENT,
    "timestamp": SENT_AT,
    "smtp-id": "<14c5d75ce93.dfd.64b469@ismtpd-555>",
    "anymail_id": "5f1a7b2e-8a39-4a1d-9d1e-0c5a3c6b7d11",
    "category": ["welcome"],
    "sg_event_id": "ZGVsaXZlcmVkLTAtMTIzNDU2Nzg",
    "sg_message_id": "14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0",
}
OPENED = {"useragent": "Mozilla/5.0", "ip": "192.0.2.7"}


def event(kind, **fields):
    return {**COMMON, "event": kind, **fields}


def without(name, kind="delivered"):
    return {key: value for key, value in event(kind).items() if key != name}


# Event -> what it means: type, status, category, enhanced code, detail.
EVENTS = {
    "processed": (event("processed"), ("queued", "queued", "", "", "")),
    "deferred": (
        event("deferred", response="421 4.7.0 try again later", attempt="5"),
        ("deferred", "deferred", "policy", "4.7.0", "421 4.7.0 try again later"),
    ),
    "delivered": (
        event("delivered", response="250 2.0.0 OK", ip="192.0.2.1", tls=1),
        ("delivered", "delivered", "", "2.0.0", "250 2.0.0 OK"),
    ),
    "bounce": (
        event(
            "bounce",
            type="bounce",
            status="5.1.1",
            reason="550 5.1.1 the account does not exist",
            bounce_classification="Invalid Address",
        ),
        ("bounced", "bounced", "no_mailbox", "5.1.1", "550 5.1.1 the account does not exist"),
    ),
    "bounce, full": (
        event("bounce", type="bounce", status="5.2.2", reason="552", bounce_classification="Mailbox Unavailable"),
        ("bounced", "bounced", "mailbox_full", "5.2.2", "552"),
    ),
    "bounce, blocked": (
        event("bounce", type="blocked", status="5.7.1", reason="blocked", bounce_classification="Reputation"),
        ("bounced", "soft_bounced", "spam", "5.7.1", "blocked"),
    ),
    "bounce, content": (
        event("bounce", type="blocked", reason="no", bounce_classification="Content"),
        ("bounced", "soft_bounced", "spam", "", "no"),
    ),
    "bounce, volume": (
        event("bounce", type="blocked", reason="no", bounce_classification="Frequency or Volume Too High"),
        ("bounced", "soft_bounced", "policy", "", "no"),
    ),
    "bounce, expired": (
        event("bounce", type="expired", reason="unable to connect", bounce_classification="Technical"),
        ("bounced", "soft_bounced", "unreachable", "", "unable to connect"),
    ),
    "bounce, unclassified": (
        event("bounce", type="bounce", reason="no", bounce_classification="Unclassified"),
        ("bounced", "bounced", "other", "", "no"),
    ),
    "bounce, no type": (event("bounce", status="4.2.2"), ("bounced", "soft_bounced", "mailbox_full", "4.2.2", "")),
    "bounce, nothing": (event("bounce"), ("bounced", "bounced", "", "", "")),
    "dropped, bounced": (
        event("dropped", reason="Bounced Address"),
        ("suppressed", "suppressed", "no_mailbox", "", "Bounced Address"),
    ),
    "dropped, invalid": (event("dropped", reason="Invalid"), ("suppressed", "suppressed", "no_mailbox", "", "Invalid")),
    "dropped, spam report": (
        event("dropped", reason="Spam Reporting Address"),
        ("suppressed", "suppressed", "policy", "", "Spam Reporting Address"),
    ),
    "dropped, unsubscribed": (
        event("dropped", reason="Unsubscribed Address"),
        ("suppressed", "suppressed", "policy", "", "Unsubscribed Address"),
    ),
    "dropped, content": (
        event("dropped", reason="Spam Content"),
        ("rejected", "rejected", "spam", "", "Spam Content"),
    ),
    "dropped, header": (
        event("dropped", reason="Invalid SMTPAPI header"),
        ("rejected", "rejected", "other", "", "Invalid SMTPAPI header"),
    ),
    "dropped, quota": (
        event("dropped", reason="Recipient List over Package Quota"),
        ("rejected", "rejected", "policy", "", "Recipient List over Package Quota"),
    ),
    "open": (event("open", **OPENED, sg_machine_open=False), ("opened", "delivered", "", "", "")),
    "click": (event("click", **OPENED, url="https://example.com/a"), ("clicked", "delivered", "", "", "")),
    "spamreport": (event("spamreport"), ("complained", "complained", "", "", "")),
    "unsubscribe": (event("unsubscribe"), ("unsubscribed", "delivered", "", "", "")),
    "group_unsubscribe": (event("group_unsubscribe", asm_group_id=10), ("unsubscribed", "delivered", "", "", "")),
    "group_resubscribe": (event("group_resubscribe", asm_group_id=10), ("subscribed", None, "", "", "")),
    "account_status_change": (
        {"event": "account_status_change", "sg_event_id": "x", "timestamp": SENT_AT, "type": "compliance_suspend"},
        ("unknown", None, "", "", ""),
    ),
}


def public(key):
    """Return what SendGrid's dashboard shows."""
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return base64.b64encode(key.public_key().public_bytes(encoding, form)).decode()


SECRETS = [public(key) for key in KEYS]


def signed(body, *, key=KEYS[0], timestamp=None):
    timestamp = str(int(time.time())) if timestamp is None else str(timestamp)
    signature = key.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    return {
        "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
        "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
    }


def incoming(body, headers):
    return Incoming({name.casefold(): value for name, value in headers.items()}, body)


def accepts(body, headers, secrets=SECRETS):
    try:
        sendgrid.verify(incoming(body, headers), secrets)
    except Rejected:
        return False
    return True


def read(*events):
    return contents_of("sendgrid", [*events])


def only(payload):
    return fact_of("sendgrid", [payload])


@pytest.fixture
def post(client, settings):
    settings.WEBHOOK_SECRETS = {"sendgrid": SECRETS}

    def post(payload, headers=None, **how):
        body = encoded(payload)
        headers = signed(body, **how) if headers is None else headers
        return client.post(URL, body, content_type="application/json", headers=headers)

    return post


@pytest.mark.parametrize(("payload", "meaning"), EVENTS.values(), ids=EVENTS)
def test_meaning_of_each_event(payload, meaning):
    fact = only(payload)

    assert (fact.event_type, fact.status, fact.category, fact.smtp_status, fact.detail) == meaning
    assert fact.occurred_at == datetime(2026, 11, 20, 23, 41, 12, tzinfo=UTC)


def test_identity_of_a_mail():
    fact = only(event("delivered", message_id="0193b2a0-5d4c-7c11-8f00-1d2a3b4c5d6e"))

    assert fact.message_id == UUID("0193b2a0-5d4c-7c11-8f00-1d2a3b4c5d6e")
    assert (fact.esp_message_id, fact.recipient_canonical) == (COMMON["anymail_id"], RECIPIENT)


@pytest.mark.parametrize("kind", ["delivered", "open", "bounce", "deferred"])
def test_repeat_has_another_id_and_is_the_same_event(kind):
    first, second = only(event(kind)), only(event(kind, sg_event_id="YW5vdGhlci1pZA"))

    assert first.dedupe_key == second.dedupe_key


@pytest.mark.parametrize(
    "fields",
    [
        {"timestamp": SENT_AT + 1},
        {"email": "jane@example.com"},
        {"event": "open"},
        {"url": "https://example.com/b"},
        {"useragent": "Other/1.0"},
        {"anymail_id": "another"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_events_that_differ_are_two(fields):
    click = event("click", **OPENED, url="https://example.com/a")

    assert only(click).dedupe_key != only({**click, **fields}).dedupe_key


@pytest.mark.parametrize("name", sorted(COMMON))
def test_event_lacks_a_field(name):
    fact = only(without(name))

    assert (fact.event_type, fact.status) == ("delivered", "delivered")
    assert fact.esp_message_id == (COMMON["smtp-id"] if name == "anymail_id" else COMMON["anymail_id"])


@pytest.mark.parametrize("timestamp", [10**17, -(10**17), 2**70, 1e300, "soon", None, [], {}])
def test_time_that_is_none(timestamp):
    assert only(event("delivered", timestamp=timestamp)).occurred_at is None


@pytest.mark.parametrize("broken", [5, None, [], {}, "delivered", event(["delivered"]), event("dropped", type=5)])
def test_broken_event_harms_no_neighbour(broken):
    contents = read(event("open"), broken, event("delivered"))

    assert [fact.event_type for fact in contents.facts] == ["opened", "delivered"]
    assert len(contents.unreadable) == 1


@pytest.mark.parametrize("key", KEYS)
def test_either_key_is_accepted(key):
    assert accepts(b"[]", signed(b"[]", key=key))


def test_another_key_is_refused():
    assert not accepts(b"[]", signed(b"[]", key=ec.generate_private_key(ec.SECP256R1())))


@pytest.mark.parametrize("age", [-240, 0, 3600, 25 * 3600])
def test_age_up_to_a_day_of_repeats_is_accepted(age):
    assert accepts(b"[]", signed(b"[]", timestamp=int(time.time()) - age))


@pytest.mark.parametrize("age", [-600, 27 * 3600, 10**9])
def test_older_or_of_the_future_is_refused(age):
    assert not accepts(b"[]", signed(b"[]", timestamp=int(time.time()) - age))


@pytest.mark.parametrize("name", ["X-Twilio-Email-Event-Webhook-Signature", "X-Twilio-Email-Event-Webhook-Timestamp"])
def test_header_is_missing(name):
    headers = signed(b"[]")
    del headers[name]

    assert not accepts(b"[]", headers)


def test_timestamp_is_signed():
    headers = signed(b"[]", timestamp=int(time.time()) - 100)
    headers["X-Twilio-Email-Event-Webhook-Timestamp"] = str(int(time.time()))

    assert not accepts(b"[]", headers)


@limits(max_examples=100, deadline=None)
@given(data=st.data())
def test_one_byte_of_the_body_decides(data):
    body = encoded([EVENTS["bounce"][0]])
    position, byte = data.draw(st.integers(0, len(body) - 1)), data.draw(st.integers(0, 255))
    changed = body[:position] + bytes([byte]) + body[position + 1 :]

    assert accepts(changed, signed(body)) == (changed == body)


@limits(max_examples=100, deadline=None)
@given(data=st.data(), body=st.binary(max_size=50))
def test_garbage_in_a_header_is_refused(data, body):
    headers = signed(body)
    name = data.draw(st.sampled_from(sorted(headers)))
    headers[name] = data.draw(st.text(st.characters(max_codepoint=255), max_size=90))

    assert not accepts(body, headers)


@limits(max_examples=200, deadline=None)
@given(body=mangled.bodies([[payload for payload, _ in EVENTS.values()], *([p] for p, _ in EVENTS.values())]))
def test_mangled_body_is_read_or_unreadable(body):
    contents = contents_of("sendgrid", body)

    assert len({fact.dedupe_key for fact in contents.facts}) <= len(contents.facts) <= len(EVENTS)


@pytest.mark.parametrize("secret", ["", "secret", "A" * 40, base64.b64encode(b"key").decode(), SECRETS[0][:-8], "é"])
def test_what_is_no_key_is_no_secret(secret):
    assert not WEBHOOKS["sendgrid"].is_secret(secret)


def test_keys_of_curves_are_secrets_and_others_are_not():
    assert all(WEBHOOKS["sendgrid"].is_secret(secret) for secret in SECRETS)
    assert not WEBHOOKS["sendgrid"].is_secret(public(rsa.generate_private_key(65537, 2048)))


@pytest.mark.django_db
def test_batch_through_the_url(post, sent):
    message = sent("sendgrid", COMMON["anymail_id"], RECIPIENT)

    response = post([event("processed"), EVENTS["deferred"][0], EVENTS["delivered"][0], EVENTS["open"][0]])

    assert response.status_code == 200
    assert delivery_of(message).status == "delivered"
    assert delivery_of(message).open_count == 1


@pytest.mark.django_db
def test_replay_changes_nothing(post, sent):
    message = sent("sendgrid", COMMON["anymail_id"], RECIPIENT)
    body = encoded([EVENTS["open"][0]])
    headers = signed(body)

    answers = [post(body, headers).status_code for _ in range(2)]

    assert answers == [200, 200]
    assert delivery_of(message).open_count == 1


@pytest.mark.django_db
def test_forged_request_is_401_and_nothing_is_stored(post, sent):
    message = sent("sendgrid", COMMON["anymail_id"], RECIPIENT)
    genuine = encoded([event("delivered")])

    response = post(genuine.replace(b"delivered", b"spamreport"), signed(genuine))

    assert response.status_code == 401
    assert delivery_of(message).status == "sent"
    assert not WebhookReceipt.objects.exists()
