"""Unisender Go: godocs.unisender.ru/web-api-ref#callback-format, docs.unione.io/en/email-statuses."""

import hashlib
import json
from datetime import UTC, datetime

import pytest

from tests.webhooks.conftest import delivery_of
from tests.webhooks.providers.reading import MESSAGE, contents_of, fact_of, facts_of, without
from webhooks.exceptions import Rejected
from webhooks.models import WebhookReceipt
from webhooks.providers import WEBHOOKS, Incoming, unisender_go

SECRETS = ("6nsx9rrwhcerqdzbuzjt4osg9d4cqr8e", "5mrw8qqvgbdqpcyatyis3nrf8c3bpq7d")
UNISENDER_ID = "9f8b3a7d-5c2e-4d4a-8c1e-8d9a3c0e7f5b"
EVENT = {
    "job_id": "1ZymBc-00041N-9X",
    "metadata": {"message_id": str(MESSAGE), "anymail_id": UNISENDER_ID},
    "email": "john@example.com",
    "status": "delivered",
    "event_time": "2026-11-20 16:33:54",
    "delivery_info": {"delivery_status": "ok_delivered", "destination_response": "250 2.0.0 OK"},
}
BLOCK = {
    "event_name": "transactional_spam_block",
    "event_data": {
        "block_time": "2026-11-20 16:33:54",
        "block_type": "one_smtp",
        "domain": "example.com",
        "SMTP_blocks_count": 8,
        "domain_status": "blocked",
    },
}
STATUSES = [
    ("accepted", "queued", "queued"),
    ("sent", "sent", "sent"),
    ("delivered", "delivered", "delivered"),
    ("opened", "opened", "delivered"),
    ("clicked", "clicked", "delivered"),
    ("unsubscribed", "unsubscribed", "delivered"),
    ("subscribed", "subscribed", None),
    ("soft_bounced", "deferred", "deferred"),
    ("hard_bounced", "bounced", "bounced"),
    ("spam", "complained", "complained"),
    ("something_new", "unknown", None),
]
# What the server said, type, status, category, enhanced code.
BOUNCES = {
    "err_user_unknown": ("550 5.1.1 User unknown", "bounced", "bounced", "no_mailbox", "5.1.1"),
    "err_user_inactive": ("550 5.2.1 Disabled", "bounced", "bounced", "no_mailbox", "5.2.1"),
    "err_mailbox_discarded": ("550 gone", "bounced", "bounced", "no_mailbox", ""),
    "err_mailbox_full": ("552 5.2.2 Quota exceeded", "bounced", "soft_bounced", "mailbox_full", "5.2.2"),
    "skip_dup_mailbox_full": (None, "suppressed", "suppressed", "mailbox_full", ""),
    "err_spam_rejected": ("550 Spam rejected", "bounced", "bounced", "spam", ""),
    "err_spam_skipped": (None, "bounced", "bounced", "spam", ""),
    "err_spam_removed": (None, "bounced", "bounced", "spam", ""),
    "err_blacklisted": ("554 5.7.1 listed", "bounced", "bounced", "spam", "5.7.1"),
    "err_too_large": ("552 5.3.4 Too big", "bounced", "bounced", "policy", "5.3.4"),
    "err_unreachable": (None, "bounced", "bounced", "unreachable", ""),
    "skip_dup_unreachable": (None, "suppressed", "suppressed", "unreachable", ""),
    "skip_dup_temp_unreachable": (None, "suppressed", "suppressed", "unreachable", ""),
    "err_skip_letter": (None, "suppressed", "suppressed", "unreachable", ""),
    "err_destination_misconfigured": (None, "bounced", "soft_bounced", "unreachable", ""),
    "err_no_smtp": (None, "bounced", "soft_bounced", "unreachable", ""),
    "err_domain_inactive": (None, "bounced", "bounced", "dns", ""),
    "err_no_dns": (None, "bounced", "bounced", "dns", ""),
    "err_unsubscribed": (None, "suppressed", "suppressed", "policy", ""),
    "err_lost": (None, "failed", "failed", "other", ""),
    "err_internal": (None, "failed", "failed", "other", ""),
    "err_delivery_failed": ("550 5.7.1 Rejected by policy", "bounced", "bounced", "policy", "5.7.1"),
    "err_giveup": (None, "bounced", "bounced", "other", ""),
}


def status_event(**changes):
    return {"event_name": "transactional_email_status", "event_data": EVENT | changes}


def envelope(*events):
    return {"auth": "0" * 32, "events_by_user": [{"user_id": 456, "project_id": "64328", "events": list(events)}]}


def signed(payload, secret=SECRETS[0], **how):
    """Return the body as the provider signs it: the MD5 of what it is with the key in it."""
    body = json.dumps(payload | {"auth": secret}, **how).encode()
    return body.replace(secret.encode(), hashlib.md5(body, usedforsecurity=False).hexdigest().encode())


def accepts(body, secrets=SECRETS):
    try:
        unisender_go.verify(Incoming({}, body), secrets)
    except Rejected:
        return False
    return True


@pytest.fixture
def post(client, settings):
    settings.WEBHOOK_SECRETS = {"unisender_go": list(SECRETS)}

    def send(payload, secret=SECRETS[0]):
        return client.post("/webhooks/unisender_go/", signed(payload, secret), "application/json")

    return send


@pytest.mark.parametrize(("raw", "event_type", "status"), STATUSES)
def test_event_of_each_status(raw, event_type, status):
    fact = fact_of("unisender_go", envelope(status_event(status=raw)))

    assert (fact.event_type, fact.status) == (event_type, status)
    assert fact.occurred_at == datetime(2026, 11, 20, 16, 33, 54, tzinfo=UTC)
    assert (fact.message_id, fact.esp_message_id, fact.recipient_canonical) == (
        MESSAGE,
        UNISENDER_ID,
        "john@example.com",
    )


@pytest.mark.parametrize("delivery_status", BOUNCES)
def test_hard_bounce_of_each_cause(delivery_status):
    said, *expected = BOUNCES[delivery_status]
    info = {"delivery_status": delivery_status} | ({"destination_response": said} if said else {})

    fact = fact_of("unisender_go", envelope(status_event(status="hard_bounced", delivery_info=info)))

    assert [fact.event_type, fact.status, fact.category, fact.smtp_status] == expected
    assert fact.detail == (said or delivery_status)


def test_every_cause_of_the_table_is_tested():
    assert unisender_go.BOUNCES.keys() <= BOUNCES.keys()


def test_soft_bounce_is_tried_again():
    info = {"delivery_status": "err_will_retry", "destination_response": "452 4.2.2 Over quota"}

    fact = fact_of("unisender_go", envelope(status_event(status="soft_bounced", delivery_info=info)))

    assert (fact.status, fact.category, fact.smtp_status) == ("deferred", "mailbox_full", "4.2.2")


def test_single_event_is_read_as_one_of_many():
    single = {"auth": "0" * 32, "event_name": "transactional_email_status", "user_id": 456, **EVENT}

    assert facts_of("unisender_go", single) == facts_of("unisender_go", envelope(status_event()))


def test_block_of_a_server_says_nothing():
    assert facts_of("unisender_go", envelope(BLOCK)) == []


@pytest.mark.parametrize("missing", ["job_id", "metadata", "email", "event_time", "delivery_info"])
def test_event_without_a_field_is_read(missing):
    event = {"event_name": "transactional_email_status", "event_data": without(EVENT, missing)}

    fact = fact_of("unisender_go", envelope(event))

    assert fact.status == "delivered"
    assert (fact.occurred_at is None) == (missing == "event_time")


def test_mail_without_anymails_id_has_the_jobs():
    fact = fact_of("unisender_go", envelope(status_event(metadata={})))

    assert (fact.esp_message_id, fact.message_id) == ("1ZymBc-00041N-9X", None)


def test_bad_event_in_a_batch_harms_no_other():
    bad = [None, {}, {"event_name": "transactional_email_status", "event_data": None}, status_event(event_time="now")]
    contents = contents_of("unisender_go", envelope(status_event(), *bad, status_event()))

    assert len(contents.facts) == 2
    assert len(contents.unreadable) == 4


def test_repeat_is_the_same_fact_and_another_recipient_is_not():
    [first, again, other, later] = facts_of(
        "unisender_go",
        envelope(
            status_event(),
            status_event(),
            status_event(email="mary@example.com"),
            status_event(event_time="2026-11-20 16:33:55"),
        ),
    )

    assert first.dedupe_key == again.dedupe_key
    assert len({first.dedupe_key, other.dedupe_key, later.dedupe_key}) == 3


@pytest.mark.parametrize("how", [{}, {"indent": 2}, {"sort_keys": True}, {"separators": (",", ":")}])
@pytest.mark.parametrize("secret", SECRETS)
def test_signature_however_the_json_is_written(how, secret):
    assert accepts(signed(envelope(status_event(email="jöhn@example.com")), secret, **how))


def test_foreign_key_is_refused():
    assert not accepts(signed(envelope(status_event()), "another-key-that-is-long-enough"))


@pytest.mark.parametrize("auth", ["", "0" * 32, "0", None, 7, [], "g" * 32, "é" * 32])
def test_forged_signature_is_refused(auth):
    assert not accepts(json.dumps(envelope(status_event()) | {"auth": auth}).encode())


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b"\xff", b"{", b"[" * 100_000])
def test_body_without_a_signature_is_refused(body):
    assert not accepts(body)


def test_one_byte_of_the_body_decides():
    body = signed(envelope(status_event()))

    assert accepts(body)
    for position in range(len(body)):
        assert not accepts(body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :])


def test_body_that_was_lengthened_is_refused():
    body = signed(envelope(status_event()))

    assert not accepts(body + b"\x80" + b"\0" * 20 + b"{}")


def test_address_is_asked_by_get():
    assert "GET" in WEBHOOKS["unisender_go"].answers


def test_events_through_the_url(post, sent):
    message = sent("unisender_go", UNISENDER_ID)
    payload = envelope(BLOCK, status_event(status="hard_bounced", metadata={"anymail_id": UNISENDER_ID}))

    assert post(payload).status_code == 200
    assert post(payload, SECRETS[1]).status_code == 200

    assert delivery_of(message).status == "bounced"
    assert [receipt.new_events for receipt in WebhookReceipt.objects.order_by("id")] == [1, 0]


@pytest.mark.django_db
def test_forged_request_is_refused(post):
    assert post(envelope(status_event()), "another-key-that-is-long-enough").status_code == 401
    assert not WebhookReceipt.objects.exists()
