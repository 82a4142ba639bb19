"""Mailtrap: docs.mailtrap.io/email-api-smtp/advanced/webhooks, analytics/statuses-and-events, bounce-categorization."""

import hashlib
import hmac
import json
from datetime import UTC, datetime

import pytest

from tests.webhooks.conftest import delivery_of
from tests.webhooks.providers.reading import MESSAGE, contents_of, fact_of, facts_of, without
from webhooks.exceptions import Rejected
from webhooks.models import WebhookReceipt
from webhooks.providers import Incoming, mailtrap

SECRETS = ("8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e", "1f2e3d4c5b6a79880123456789abcdef")
MAILTRAP_ID = "1df37d17-0286-4d8b-8edf-bc4ec5be86e6"
EVENT = {
    "event": "delivery",
    "message_id": MAILTRAP_ID,
    "sending_stream": "transactional",
    "email": "john@example.com",
    "timestamp": 1795192434,
    "event_id": "bede7236-2284-43d6-a953-1fdcafd0fdbc",
    "category": "welcome",
    "custom_variables": {"message_id": str(MESSAGE)},
}
NO_SUCH_USER = {"response": "550 5.1.1 No such user", "response_code": 550, "bounce_category": "badrecipient"}
FULL = {"response": "452 4.2.2 Over quota", "response_code": 452, "bounce_category": "overquota"}
LATER = {"response": "451 4.3.2 Try again later", "response_code": 451, "bounce_category": "transientfail"}
# Event, more of it, type, status, category, enhanced code, detail.
EVENTS = [
    ("delivery", {}, "delivered", "delivered", "", "", ""),
    ("open", {"ip": "192.0.2.1", "user_agent": "Mozilla/5.0"}, "opened", "delivered", "", "", ""),
    ("click", {"ip": "192.0.2.1", "url": "https://example.com/"}, "clicked", "delivered", "", "", ""),
    ("unsubscribe", {"ip": "192.0.2.1"}, "unsubscribed", "delivered", "", "", ""),
    ("spam", {}, "complained", "complained", "", "", ""),
    ("soft bounce", LATER, "deferred", "deferred", "unreachable", "4.3.2", "451 4.3.2 Try again later"),
    ("soft bounce", FULL, "deferred", "deferred", "mailbox_full", "4.2.2", "452 4.2.2 Over quota"),
    ("bounce", NO_SUCH_USER, "bounced", "bounced", "no_mailbox", "5.1.1", "550 5.1.1 No such user"),
    ("bounce", FULL, "bounced", "soft_bounced", "mailbox_full", "4.2.2", "452 4.2.2 Over quota"),
    ("suspension", {"reason": "Unverified domain"}, "deferred", "deferred", "policy", "", "Unverified domain"),
    ("reject", {"reason": "unknown"}, "rejected", "rejected", "policy", "", "unknown"),
    (
        "reject",
        {"reason": "On the Suppression List"},
        "suppressed",
        "suppressed",
        "other",
        "",
        "On the Suppression List",
    ),
    ("reject", {}, "rejected", "rejected", "policy", "", ""),
    ("something new", {}, "unknown", None, "", "", ""),
]
CATEGORIES = [
    ("transientfail", "soft_bounced", "other"),
    ("greylisting", "soft_bounced", "policy"),
    ("badsender", "bounced", "policy"),
    ("block", "bounced", "policy"),
    ("content", "bounced", "spam"),
    ("dnsFail", "bounced", "dns"),
    ("generalfail", "bounced", "other"),
    ("other", "bounced", "other"),
    ("relayfail", "bounced", "policy"),
    ("serverfail", "soft_bounced", "unreachable"),
    ("spam", "bounced", "spam"),
    ("verifyfail", "bounced", "other"),
    ("timeout", "soft_bounced", "unreachable"),
    ("badrecipient", "bounced", "no_mailbox"),
    ("overquota", "soft_bounced", "mailbox_full"),
    ("serverpolicy", "bounced", "policy"),
    ("spam_gmail", "bounced", "policy"),
    (None, "bounced", "other"),
]


def signature(body, secret=SECRETS[0]):
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def accepts(body, given, secrets=SECRETS):
    try:
        mailtrap.verify(Incoming({} if given is None else {"mailtrap-signature": given}, body), secrets)
    except Rejected:
        return False
    return True


@pytest.fixture
def post(client, settings):
    settings.WEBHOOK_SECRETS = {"mailtrap": list(SECRETS)}

    def send(payload, secret=SECRETS[0]):
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        return client.post(
            "/webhooks/mailtrap/", body, "application/json", headers={"Mailtrap-Signature": signature(body, secret)}
        )

    return send


@pytest.mark.parametrize(("event", "more", "event_type", "status", "category", "smtp_status", "detail"), EVENTS)
def test_event_of_each_type(event, more, event_type, status, category, smtp_status, detail):
    fact = fact_of("mailtrap", {"events": [EVENT | {"event": event} | more]})

    assert (fact.event_type, fact.status, fact.category, fact.smtp_status, fact.detail) == (
        event_type,
        status,
        category,
        smtp_status,
        detail,
    )
    assert fact.occurred_at == datetime(2026, 11, 20, 16, 33, 54, tzinfo=UTC)
    assert (fact.message_id, fact.esp_message_id, fact.esp_event_id, fact.recipient_canonical) == (
        MESSAGE,
        MAILTRAP_ID,
        EVENT["event_id"],
        "john@example.com",
    )


@pytest.mark.parametrize(("kind", "status", "category"), CATEGORIES)
def test_bounce_of_each_category(kind, status, category):
    bounce = EVENT | {"event": "bounce", "response": "Sorry"} | ({"bounce_category": kind} if kind else {})

    fact = fact_of("mailtrap", {"events": [bounce]})

    assert (fact.status, fact.category) == (status, category)


@pytest.mark.parametrize("missing", ["timestamp", "message_id", "event_id", "email", "custom_variables", "category"])
def test_event_without_a_field_is_read(missing):
    fact = fact_of("mailtrap", {"events": [without(EVENT, missing)]})

    assert fact.event_type == "delivered"
    assert (fact.occurred_at is None) == (missing == "timestamp")


def test_lines_are_read_as_a_list_is():
    other = EVENT | {"email": "mary@example.com"}
    lines = b"\n".join(json.dumps(event).encode() for event in (EVENT, other)) + b"\n"

    assert facts_of("mailtrap", lines) == facts_of("mailtrap", {"events": [EVENT, other]})
    assert facts_of("mailtrap", json.dumps(EVENT).encode() + b"\n") == facts_of("mailtrap", {"events": [EVENT]})


def test_bad_event_in_a_batch_harms_no_other():
    foreign = {"event": "activity_log.user.updated", "description": "updated", "timestamp": 1795192434}
    contents = contents_of("mailtrap", {"events": [EVENT, None, {}, {"event": "inbound_message"}, foreign, EVENT]})
    lines = contents_of("mailtrap", json.dumps(EVENT).encode() + b"\n{broken\n" + json.dumps(EVENT).encode())

    assert [fact.event_type for fact in contents.facts] == ["delivered", "delivered"]
    assert len(contents.unreadable) == 3
    assert (len(lines.facts), len(lines.unreadable)) == (2, 1)


def test_recipients_are_told_apart_where_an_id_is_shared():
    [john, mary] = facts_of("mailtrap", {"events": [EVENT, EVENT | {"email": "mary@example.com"}]})

    assert john.dedupe_key != mary.dedupe_key


@pytest.mark.parametrize("secret", SECRETS)
def test_any_of_the_secrets_will_do(secret):
    assert accepts(b"{}", signature(b"{}", secret))


def test_signature_that_openssl_made():
    # printf '{"events":[]}' | openssl dgst -sha256 -hmac 8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e
    assert accepts(b'{"events":[]}', "5a75b1192b7fb957d36cd10f25bb497389717a3b38e6e4789db08615016c10b4")


@pytest.mark.parametrize("given", [None, "", "0" * 64, signature(b"{}")[:-1], signature(b"{}").upper(), "é"])
def test_forged_signature_is_refused(given):
    assert not accepts(b"{}", given)


def test_one_byte_of_the_body_decides():
    body = json.dumps({"events": [EVENT]}).encode()
    given = signature(body)

    assert accepts(body, given)
    for position in range(len(body)):
        assert not accepts(body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :], given)


def test_events_through_the_url(post, sent):
    message = sent("mailtrap", MAILTRAP_ID)
    payload = {"events": [without(EVENT, "custom_variables") | {"event": "bounce"} | NO_SUCH_USER]}

    assert post(payload).status_code == 200
    assert post(payload, SECRETS[1]).status_code == 200

    assert delivery_of(message).status == "bounced"
    assert [receipt.new_events for receipt in WebhookReceipt.objects.order_by("id")] == [1, 0]


@pytest.mark.django_db
def test_forged_request_is_refused(post):
    assert post({"events": [EVENT]}, "another-secret-that-is-long").status_code == 401
    assert not WebhookReceipt.objects.exists()
