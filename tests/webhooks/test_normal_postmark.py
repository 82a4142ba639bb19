"""Every event of Postmark's, through the URL."""

from datetime import UTC, datetime

import pytest

from mailer.models import DeliveryEvent
from tests.webhooks import payloads
from tests.webhooks.conftest import delivery_of
from webhooks.models import WebhookReceipt

# Type, TypeCode -> the event as we record it, and the status it speaks for.
BOUNCES = [
    ("HardBounce", 1, "bounced", "bounced"),
    ("Transient", 2, "deferred", "deferred"),
    ("Unsubscribe", 16, "unsubscribed", "delivered"),
    ("Subscribe", 32, "subscribed", ""),
    ("AutoResponder", 64, "autoresponded", ""),
    ("AddressChange", 128, "autoresponded", ""),
    ("DnsError", 256, "deferred", "deferred"),
    ("SpamNotification", 512, "complained", "complained"),
    ("OpenRelayTest", 1024, "deferred", "deferred"),
    ("Unknown", 2048, "unknown", ""),
    ("SoftBounce", 4096, "bounced", "soft_bounced"),
    ("VirusNotification", 8192, "bounced", "bounced"),
    ("ChallengeVerification", 16384, "autoresponded", ""),
    ("BadEmailAddress", 100000, "rejected", "rejected"),
    ("SpamComplaint", 100001, "complained", "complained"),
    ("ManuallyDeactivated", 100002, "rejected", "rejected"),
    ("Unconfirmed", 100003, "rejected", "rejected"),
    ("Blocked", 100006, "rejected", "rejected"),
    ("SMTPApiError", 100007, "suppressed", "suppressed"),
    ("InboundError", 100008, "inbound_failed", ""),
    ("DMARCPolicy", 100009, "rejected", "rejected"),
    ("TemplateRenderingFailed", 100010, "failed", "failed"),
]


def recorded():
    """Return the one event that a webhook brought."""
    return DeliveryEvent.objects.get(source="webhook")


@pytest.fixture
def message(sent):
    return sent("postmark")


def test_delivery_makes_delivered(post_postmark, message):
    response = post_postmark(payloads.postmark("Delivery", message))

    assert response.status_code == 200
    assert response.content == b""
    delivery = delivery_of(message)
    assert delivery.status == "delivered"
    assert delivery.delivered_at == datetime(2026, 11, 20, 16, 33, 54, 907025, UTC)
    assert recorded().detail == "smtp;250 2.0.0 OK 1572971634 a26si3012421qte"


@pytest.mark.parametrize(("kind", "code", "event_type", "status"), BOUNCES, ids=[row[0] for row in BOUNCES])
def test_bounce_of_each_type(post_postmark, message, kind, code, event_type, status):
    response = post_postmark(payloads.postmark("Bounce", message, Type=kind, TypeCode=code))

    assert response.status_code == 200
    event = recorded()
    assert (event.event_type, event.status) == (event_type, status)
    assert delivery_of(message).status == (status or "sent")


def test_bounce_keeps_what_the_server_said(post_postmark, message):
    post_postmark(payloads.postmark("Bounce", message))

    event = recorded()
    assert event.detail == "smtp;550 5.1.1 The email account that you tried to reach does not exist."
    assert event.reject_reason == "bounced"
    assert event.esp_event_id == "4323372036854775807"


def test_spam_complaint_makes_complained(post_postmark, message):
    response = post_postmark(payloads.postmark("SpamComplaint", message))

    assert response.status_code == 200
    assert delivery_of(message).status == "complained"
    assert recorded().reject_reason == "spam"


def test_open_is_counted_and_implies_delivered(post_postmark, message):
    response = post_postmark(payloads.postmark("Open", message))

    assert response.status_code == 200
    delivery = delivery_of(message)
    assert (delivery.status, delivery.open_count) == ("delivered", 1)
    assert delivery.opened_at == datetime(2026, 11, 20, 16, 43, 54, 907025, UTC)


def test_second_open_is_counted_and_leaves_the_first_time(post_postmark, message):
    post_postmark(payloads.postmark("Open", message, ReceivedAt="2026-11-20T18:00:00Z", FirstOpen=False))
    post_postmark(payloads.postmark("Open", message))

    delivery = delivery_of(message)
    assert delivery.open_count == 2
    assert delivery.opened_at == datetime(2026, 11, 20, 16, 43, 54, 907025, UTC)


def test_click_is_counted_and_implies_delivered(post_postmark, message):
    response = post_postmark(payloads.postmark("Click", message))

    assert response.status_code == 200
    delivery = delivery_of(message)
    assert (delivery.status, delivery.click_count, delivery.open_count) == ("delivered", 1, 0)
    assert delivery.clicked_at == datetime(2026, 11, 20, 16, 44, 11, 906561, UTC)


@pytest.mark.parametrize(
    ("reason", "event_type", "status"),
    [
        ("HardBounce", "bounced", "bounced"),
        ("SpamComplaint", "complained", "complained"),
        ("ManualSuppression", "unsubscribed", "delivered"),
    ],
)
def test_subscription_change_that_suppresses(post_postmark, message, reason, event_type, status):
    response = post_postmark(payloads.postmark("SubscriptionChange", message, SuppressionReason=reason))

    assert response.status_code == 200
    assert recorded().event_type == event_type
    assert delivery_of(message).status == status


def test_subscription_change_that_reactivates_says_nothing_of_the_status(post_postmark, message):
    payload = payloads.postmark("SubscriptionChange", message, SuppressSending=False, SuppressionReason=None)

    response = post_postmark(payload)

    assert response.status_code == 200
    assert (recorded().event_type, recorded().effect) == ("subscribed", "none")
    assert delivery_of(message).status == "sent"


def test_subscription_change_by_an_operator_names_no_message_and_is_parked(post_postmark, message):
    payload = payloads.postmark("SubscriptionChange", SuppressionReason="ManualSuppression", Origin="Customer")

    response = post_postmark({**payload, "MessageID": None, "Metadata": {}})

    assert response.status_code == 200
    assert recorded().effect == "parked"
    assert delivery_of(message).status == "sent"


def test_record_type_we_do_not_know_is_kept_as_unknown(post_postmark, message):
    response = post_postmark({**payloads.postmark("Delivery", message), "RecordType": "Teleported"})

    assert response.status_code == 200
    assert (recorded().event_type, recorded().effect) == ("unknown", "none")


def test_inbound_mail_at_the_wrong_address_is_kept_as_poison(post_postmark, db):
    response = post_postmark({"RecordType": "Inbound", "FromFull": {"Email": "ada@example.org"}})

    assert response.status_code == 200
    assert WebhookReceipt.objects.get().state == "poison"


@pytest.mark.parametrize("record_type", payloads.POSTMARK)
def test_delivery_is_found_by_the_id_of_postmark_too(post_postmark, message, record_type):
    response = post_postmark(payloads.postmark(record_type))

    assert response.status_code == 200
    assert recorded().delivery_id == delivery_of(message).pk
