"""Every event of Resend's, through the URL."""

from datetime import UTC, datetime

import pytest

from mailer.models import DeliveryEvent
from tests.webhooks import payloads
from tests.webhooks.conftest import delivery_of

EVENTS = [
    ("email.sent", "sent", "sent"),
    ("email.delivered", "delivered", "delivered"),
    ("email.delivery_delayed", "deferred", "deferred"),
    ("email.bounced", "bounced", "bounced"),
    ("email.complained", "complained", "complained"),
    ("email.opened", "opened", "delivered"),
    ("email.clicked", "clicked", "delivered"),
    ("email.failed", "failed", "failed"),
    ("email.suppressed", "suppressed", "suppressed"),
    ("email.scheduled", "scheduled", "scheduled"),
]


def recorded():
    """Return the one event that a webhook brought."""
    return DeliveryEvent.objects.get(source="webhook")


@pytest.fixture
def message(sent):
    return sent("resend")


@pytest.mark.parametrize(("kind", "event_type", "status"), EVENTS, ids=[row[0] for row in EVENTS])
def test_event_of_each_type(post_resend, message, kind, event_type, status):
    response = post_resend(payloads.resend(kind, message))

    assert response.status_code == 200
    assert response.content == b""
    event = recorded()
    assert (event.event_type, event.status) == (event_type, status)
    assert event.occurred_at == datetime(2026, 11, 20, 23, 41, 12, 126000, UTC)
    assert delivery_of(message).status == ("sent" if status == "scheduled" else status)


@pytest.mark.parametrize(
    ("kind", "sub_type", "status"),
    [
        ("Permanent", "General", "bounced"),
        ("Permanent", "NoEmail", "bounced"),
        ("Transient", "General", "soft_bounced"),
        ("Transient", "MailboxFull", "soft_bounced"),
        ("Transient", "MessageTooLarge", "soft_bounced"),
        ("Transient", "ContentRejected", "soft_bounced"),
        ("Transient", "AttachmentRejected", "soft_bounced"),
        ("Undetermined", "Undetermined", "soft_bounced"),
    ],
)
def test_bounce_is_hard_or_soft_by_its_type(post_resend, message, kind, sub_type, status):
    payload = payloads.resend("email.bounced", message)
    payload["data"]["bounce"] |= {"type": kind, "subType": sub_type}

    response = post_resend(payload)

    assert response.status_code == 200
    assert (recorded().event_type, recorded().status) == ("bounced", status)
    assert delivery_of(message).status == status


@pytest.mark.parametrize("sub_type", ["Suppressed", "OnAccountSuppressionList"])
def test_bounce_of_what_was_never_sent_is_none(post_resend, message, sub_type):
    payload = payloads.resend("email.bounced", message)
    payload["data"]["bounce"] |= {"type": "Permanent", "subType": sub_type}

    post_resend(payload)

    assert (recorded().event_type, delivery_of(message).status) == ("suppressed", "suppressed")


def test_bounce_keeps_what_was_said(post_resend, message):
    post_resend(payloads.resend("email.bounced", message))

    assert recorded().detail.startswith("The recipient's email provider sent a hard bounce message")


def test_opens_and_clicks_are_counted(post_resend, message):
    for kind in ("email.opened", "email.opened", "email.clicked"):
        post_resend(payloads.resend(kind, message))

    delivery = delivery_of(message)
    assert (delivery.open_count, delivery.click_count) == (2, 1)


def test_first_open_is_the_earliest_whatever_came_first(post_resend, message):
    post_resend(payloads.resend("email.opened", message, created_at="2026-11-20T23:55:00.000Z"))
    post_resend(payloads.resend("email.opened", message, created_at="2026-11-20T23:50:00.000Z"))

    assert delivery_of(message).opened_at == datetime(2026, 11, 20, 23, 50, tzinfo=UTC)


@pytest.mark.parametrize("kind", ["contact.created", "domain.updated", "suppression.added"])
def test_event_about_no_mail_is_kept_and_changes_nothing(post_resend, message, kind):
    data = {"id": "e169aa45-1ecf-4183-9955-b1499d5701d3", "email": payloads.RECIPIENT}

    response = post_resend({"type": kind, "created_at": "2026-11-20T23:41:12.126Z", "data": data})

    assert response.status_code == 200
    assert (recorded().event_type, recorded().effect) == ("unknown", "parked")
    assert delivery_of(message).status == "sent"


def test_mail_that_came_in_changes_nothing(post_resend, message):
    data = {
        "email_id": "c9d4b7a2-3a61-4d53-9e0f-0a1b2c3d4e5f",
        "created_at": "2026-11-20T23:41:11.894719+00:00",
        "from": "Ada <ada@example.com>",
        "to": [payloads.RECIPIENT],
        "cc": [],
        "bcc": [],
        "message_id": "<example+123>",
        "subject": "Re: Welcome",
        "attachments": [],
    }

    response = post_resend({"type": "email.received", "created_at": "2026-11-20T23:41:12.126Z", "data": data})

    assert response.status_code == 200
    assert (recorded().event_type, recorded().effect) == ("unknown", "parked")
    assert delivery_of(message).status == "sent"


@pytest.mark.parametrize("kind", payloads.RESEND)
def test_delivery_is_found_by_the_id_of_resend_too(post_resend, message, kind):
    response = post_resend(payloads.resend(kind))

    assert response.status_code == 200
    assert recorded().delivery_id == delivery_of(message).pk


def test_delivery_is_found_by_our_id_where_the_provider_names_another(post_resend, message):
    post_resend(payloads.resend("email.delivered", message, email_id="00000000-0000-0000-0000-000000000000"))

    assert delivery_of(message).status == "delivered"
