"""What forks hear of, and that it harms nothing."""

from dataclasses import replace

import pytest
from anymail.signals import tracking
from anymail.webhooks.postmark import PostmarkTrackingWebhookView

from mailer.models import DeliveryEvent, DeliveryStatus
from tests.mailer.conftest import signal_receiver
from tests.webhooks import payloads
from tests.webhooks.conftest import delivery_of, settle
from webhooks.models import WebhookReceipt
from webhooks.providers import WEBHOOKS
from webhooks.providers.base import listed
from webhooks.signals import delivery_changed

pytestmark = pytest.mark.django_db(transaction=True)


class Ear:
    """A receiver that remembers what it heard, whether it is committed, and raises if told to."""

    def __init__(self, error=None):
        self.heard, self.error = [], error

    def __call__(self, sender, **what):
        self.heard.append((sender, what))
        if self.error:
            raise self.error

    @property
    def changes(self):
        return [(what["delivery"].pk, what["old_status"], what["new_status"]) for _, what in self.heard]


def test_change_of_a_status_is_told(post_postmark, sent):
    message, ear = sent("postmark"), Ear()

    with signal_receiver(delivery_changed, ear):
        post_postmark(payloads.postmark("Delivery", message))

    [(sender, what)] = ear.heard
    assert sender is DeliveryStatus
    assert (what["old_status"], what["new_status"], what["delivery"].status) == ("sent", "delivered", "delivered")


@pytest.mark.parametrize("record_type", ["Open", "Delivery"])
def test_event_that_changes_no_status_is_not_told(post_postmark, sent, record_type):
    message, ear = sent("postmark"), Ear()
    post_postmark(payloads.postmark("Delivery", message))

    with signal_receiver(delivery_changed, ear):
        post_postmark(payloads.postmark(record_type, message))

    assert ear.heard == []


def test_several_events_about_one_delivery_are_one_change(post_postmark, sent, monkeypatch):
    monkeypatch.setitem(WEBHOOKS, "postmark", replace(WEBHOOKS["postmark"], parts=listed))
    message, ear = sent("postmark"), Ear()

    with signal_receiver(delivery_changed, ear):
        post_postmark([payloads.postmark(kind, message) for kind in ("Delivery", "Open", "SpamComplaint")])

    assert ear.changes == [(delivery_of(message).pk, "sent", "complained")]


def test_what_our_sender_and_a_parked_event_change_is_told(post_postmark, sending):
    post_postmark(payloads.postmark("Delivery"))
    claim, ear = sending("postmark"), Ear()

    with signal_receiver(delivery_changed, ear):
        settle(claim, "sent", payloads.POSTMARK_ID)

    delivery = delivery_of(claim.message)
    assert ear.changes == [(delivery.pk, "queued", "sent"), (delivery.pk, "sent", "delivered")]


def test_receiver_that_raises_is_logged_and_harms_nothing(post_postmark, sent, caplog):
    message, deaf, ear = sent("postmark"), Ear(RuntimeError("ada@example.com")), Ear()

    with (
        signal_receiver(delivery_changed, deaf),
        signal_receiver(tracking, deaf),
        signal_receiver(delivery_changed, ear),
        signal_receiver(tracking, ear),
    ):
        response = post_postmark(payloads.postmark("Delivery", message))

    assert response.status_code == 200
    assert (len(deaf.heard), len(ear.heard)) == (2, 2)
    assert delivery_of(message).status == "delivered"
    assert WebhookReceipt.objects.get().state == "processed"
    failures = [record.msg for record in caplog.records if "receiver_failed" in record.getMessage()]
    assert {(each["receiver"], each["error_class"]) for each in failures} == {("Ear", "RuntimeError")}
    assert len(failures) == 2
    assert "ada@example.com" not in caplog.text


def test_tracking_is_sent_for_each_new_event_once_it_is_committed(post_postmark, sent):
    message, seen = sent("postmark"), []

    def receiver(sender, event, esp_name, **_):
        known = DeliveryEvent.objects.filter(source="webhook", event_type=event.event_type).count()
        seen.append((sender, event.event_type, event.recipient, esp_name, known))

    with signal_receiver(tracking, receiver):
        for _ in range(2):
            post_postmark(payloads.postmark("Bounce", message))

    assert seen == [(PostmarkTrackingWebhookView, "bounced", payloads.RECIPIENT, "Postmark", 1)]


def test_tracking_is_sent_of_a_mail_nobody_knows(post_postmark):
    ear = Ear()

    with signal_receiver(tracking, ear):
        post_postmark(payloads.postmark("Delivery"))

    assert [what["event"].event_type for _, what in ear.heard] == ["delivered"]
