"""Brevo: developers.brevo.com/docs/transactional-webhooks, batch-webhooks."""

import base64
import json
from datetime import UTC, datetime

import pytest
from django.db import OperationalError

from tests.webhooks.conftest import basic, delivery_of
from tests.webhooks.providers.reading import MESSAGE, contents_of, fact_of, facts_of, without
from webhooks import inbox
from webhooks.models import WebhookReceipt

SECRETS = ("hook:first-password", "hook:second-password")
BREVO_ID = "<202611201633.21234567890@smtp-relay.example.com>"
EVENT = {
    "event": "delivered",
    "email": "john@example.com",
    "id": 26224,
    "date": "2026-11-20 17:33:54",
    "ts": 1795192434,
    "message-id": BREVO_ID,
    "ts_event": 1795192434,
    "subject": "Welcome",
    "X-Mailin-custom": json.dumps({"message_id": str(MESSAGE)}),
    "sending_ip": "192.0.2.10",
    "ts_epoch": 1795192434907,
    "tags": ["welcome"],
}
NO_SUCH_USER = "550 5.1.1 <john@example.com>: Recipient address rejected: User unknown"
# Event, what it says, type, status, category, enhanced code.
EVENTS = [
    ("request", None, "queued", "queued", "", ""),
    ("delivered", None, "delivered", "delivered", "", ""),
    ("hard_bounce", NO_SUCH_USER, "bounced", "bounced", "no_mailbox", "5.1.1"),
    ("soft_bounce", "452 4.2.2 The mailbox is full", "bounced", "soft_bounced", "mailbox_full", "4.2.2"),
    ("soft_bounce", "Unable to connect to the server", "bounced", "soft_bounced", "unreachable", ""),
    ("blocked", "blocked : due to blacklist user", "suppressed", "suppressed", "other", ""),
    ("blocked", "sender is not valid", "rejected", "rejected", "policy", ""),
    ("blocked", None, "rejected", "rejected", "policy", ""),
    ("invalid_email", None, "bounced", "bounced", "no_mailbox", ""),
    ("deferred", "451 4.7.1 Greylisted, try again later", "deferred", "deferred", "policy", "4.7.1"),
    ("error", "error while sending", "failed", "failed", "other", ""),
    ("spam", None, "complained", "complained", "", ""),
    ("complaint", None, "complained", "complained", "", ""),
    ("unique_opened", None, "opened", "delivered", "", ""),
    ("opened", None, "opened", "delivered", "", ""),
    ("unique_proxy_open", None, "opened", "delivered", "", ""),
    ("proxy_open", None, "opened", "delivered", "", ""),
    ("click", None, "clicked", "delivered", "", ""),
    ("unsubscribe", None, "unsubscribed", "delivered", "", ""),
    ("list_addition", None, "subscribed", None, "", ""),
    ("something_new", None, "unknown", None, "", ""),
]


@pytest.fixture
def post(client, settings):
    settings.WEBHOOK_SECRETS = {"brevo": list(SECRETS)}

    def send(payload, authorization=None):
        headers = basic(SECRETS[0]) if authorization is None else authorization
        return client.post("/webhooks/brevo/", json.dumps(payload), "application/json", headers=headers)

    return send


@pytest.mark.parametrize(("event", "reason", "event_type", "status", "category", "smtp_status"), EVENTS)
def test_event_of_each_type(event, reason, event_type, status, category, smtp_status):
    fact = fact_of("brevo", EVENT | {"event": event} | ({"reason": reason} if reason else {}))

    assert (fact.event_type, fact.status, fact.category, fact.smtp_status) == (
        event_type,
        status,
        category,
        smtp_status,
    )
    assert fact.detail == (reason or "")
    assert fact.occurred_at == datetime(2026, 11, 20, 16, 33, 54, 907000, UTC)
    assert (fact.message_id, fact.esp_message_id, fact.recipient_canonical) == (MESSAGE, BREVO_ID, "john@example.com")


def test_time_in_seconds_is_told_from_milliseconds():
    seconds = fact_of("brevo", EVENT | {"ts_epoch": 1795192434})

    assert seconds.occurred_at == datetime(2026, 11, 20, 16, 33, 54, tzinfo=UTC)


@pytest.mark.parametrize("missing", ["ts_epoch", "message-id", "email", "X-Mailin-custom", "tags", "subject"])
def test_event_without_a_field_is_read(missing):
    assert fact_of("brevo", without(EVENT, missing)).event_type == "delivered"


def test_event_without_any_time_has_none():
    assert fact_of("brevo", without(EVENT, "ts_epoch", "ts_event", "ts", "date")).occurred_at is None


@pytest.mark.parametrize("custom", ["some_custom_header", "[1]", "", None, 7, "[" * 10_000])
def test_metadata_that_is_not_ours_harms_nothing(custom):
    assert fact_of("brevo", EVENT | {"X-Mailin-custom": custom}).message_id is None


def test_repeat_is_the_same_fact_and_another_recipient_is_not():
    [first, again, other, later] = facts_of(
        "brevo", [EVENT, EVENT, EVENT | {"email": "mary@example.com"}, EVENT | {"ts_epoch": 1795192434908}]
    )

    assert first.dedupe_key == again.dedupe_key
    assert len({first.dedupe_key, other.dedupe_key, later.dedupe_key}) == 3


def test_bad_event_in_a_batch_harms_no_other():
    contents = contents_of("brevo", [EVENT, None, "text", {"items": []}, EVENT | {"ts_epoch": "now"}, EVENT])

    assert len(contents.facts) == 2
    assert len(contents.unreadable) == 4


def test_batch_through_the_url(post, sent):
    first = sent("brevo", BREVO_ID)
    second = sent("brevo", "<other@smtp-relay.example.com>")
    plain = without(EVENT, "X-Mailin-custom")

    response = post(
        [
            plain,
            plain | {"event": "hard_bounce", "message-id": "<other@smtp-relay.example.com>", "reason": NO_SUCH_USER},
        ]
    )

    assert response.status_code == 200
    assert delivery_of(first).status == "delivered"
    assert delivery_of(second).status == "bounced"


def test_replay_changes_nothing(post, sent):
    sent("brevo", BREVO_ID)
    payload = without(EVENT, "X-Mailin-custom")

    post(payload)
    response = post(payload, basic(SECRETS[1]))

    assert response.status_code == 200
    assert [receipt.new_events for receipt in WebhookReceipt.objects.order_by("id")] == [1, 0]


@pytest.mark.django_db
@pytest.mark.parametrize(
    "authorization",
    [
        {},
        basic("hook:another-password"),
        basic("hook:first-passwore"),
        {"Authorization": "Bearer " + base64.b64encode(SECRETS[0].encode()).decode()},
    ],
)
def test_wrong_credentials_are_refused(post, authorization):
    response = post(EVENT, authorization)

    assert response.status_code == 401
    assert not WebhookReceipt.objects.exists()


@pytest.mark.django_db
def test_what_could_not_be_stored_is_answered_so_that_it_comes_again(post, monkeypatch):
    def lose(*_):
        raise OperationalError("the connection is lost")

    monkeypatch.setattr(inbox, "process_all", lose)

    assert post(EVENT).status_code == 429
