"""What no webhook told is found at real servers, the simulator's, and counts like a webhook."""

import subprocess
import sys

import pytest
from anymail.exceptions import AnymailNotSupportedWarning
from anymail.signals import tracking

from mailer import sweeping
from mailer.models import Suppression
from tests.conftest import PATIENCE, ROOT, wait_until
from tests.mailer.conftest import signal_receiver
from tests.webhooks.reconcile.conftest import age, events_of
from webhooks import reconcile
from webhooks.models import Inquiry

pytestmark = pytest.mark.django_db


class TestFound:
    @pytest.mark.parametrize(
        ("provider", "recipient", "event", "status"),
        [
            ("postmark", "silent@example.com", "Delivery", "delivered"),
            ("postmark", "bounce@example.com", "Bounce", "bounced"),
            ("postmark", "soft@example.com", "Bounce", "soft_bounced"),
            ("resend", "silent@example.com", "email.delivered", "delivered"),
            ("resend", "bounce@example.com", "email.bounced", "soft_bounced"),
            ("resend", "reject@example.com", "email.suppressed", "suppressed"),
        ],
    )
    def test_what_no_webhook_told_is_found(self, simulator, sent, provider, recipient, event, status):
        [delivery] = sent(provider, recipient)
        wait_until(lambda: event in simulator.happened(delivery.esp_message_id))
        age(11)

        assert reconcile.reconcile() == 1

        delivery.refresh_from_db()
        assert delivery.status == status
        assert (delivery.inquire_at is None) == (status != "soft_bounced")
        assert [source for _, source in events_of(delivery)] == ["poll"]

    @pytest.mark.filterwarnings(f"ignore::{AnymailNotSupportedWarning.__module__}.AnymailNotSupportedWarning")
    def test_delivery_by_sendgrid_is_found_and_its_bounce_is_left_to_the_webhook(self, sent):
        delivered, bounced = sent("sendgrid", "silent@example.com", "bounce@example.com")
        Inquiry.objects.create(name="sendgrid", tokens=20)

        def found():
            age(11)
            return reconcile.reconcile()

        wait_until(found)

        delivered.refresh_from_db()
        bounced.refresh_from_db()
        assert (delivered.status, bounced.status) == ("delivered", "sent")

    def test_hard_bounce_suppresses_and_a_soft_one_does_not(self, simulator, sent):
        deliveries = sent("postmark", "bounce@example.com", "soft@example.com")
        for delivery in deliveries:
            wait_until(lambda delivery=delivery: "Bounce" in simulator.happened(delivery.esp_message_id))
        age(11)
        reconcile.reconcile()

        age(11)
        reconcile.reconcile()

        assert [row.address for row in Suppression.objects.all()] == ["bounce@example.com"]

    def test_same_event_by_webhook_is_the_same(self, simulator, sent, post_postmark):
        [delivery] = sent("postmark", "bounce@example.com")
        wait_until(lambda: "Bounce" in simulator.happened(delivery.esp_message_id))
        age(11)
        reconcile.reconcile()

        [body] = [row["body"] for row in simulator.webhooks(delivery.esp_message_id) if row["event"] == "Bounce"]
        assert post_postmark(body).status_code == 200

        assert events_of(delivery) == [("bounced", "poll")]

    def test_webhook_that_comes_after_all_counts(self, simulator, sent, post_resend):
        [delivery] = sent("resend", "bounce@example.com")
        wait_until(lambda: "email.bounced" in simulator.happened(delivery.esp_message_id))
        age(11)
        reconcile.reconcile()

        for row in simulator.webhooks(delivery.esp_message_id):
            assert post_resend(row["body"]).status_code == 200

        delivery.refresh_from_db()
        assert delivery.status == "bounced"

    def test_sweep_asks(self, simulator, sent):
        [delivery] = sent("postmark", "silent@example.com")
        wait_until(lambda: "Delivery" in simulator.happened(delivery.esp_message_id))
        age(11)

        assert sweeping.sweep()["inquiries"] == 1

        delivery.refresh_from_db()
        assert delivery.status == "delivered"

    @pytest.mark.django_db(transaction=True)
    def test_relay_asks(self, simulator, sent, environment):
        [delivery] = sent("postmark", "silent@example.com")
        wait_until(lambda: "Delivery" in simulator.happened(delivery.esp_message_id))
        age(11)

        command = [sys.executable, "manage.py", "relay", "--once"]
        subprocess.run(command, cwd=ROOT, env={**environment, **simulator.environment}, check=True, timeout=PATIENCE)

        delivery.refresh_from_db()
        assert delivery.status == "delivered"

    @pytest.mark.django_db(transaction=True)
    def test_those_who_listen_are_told(self, simulator, sent):
        [delivery] = sent("postmark", "silent@example.com")
        wait_until(lambda: "Delivery" in simulator.happened(delivery.esp_message_id))
        age(11)
        heard = []

        def hear(event, esp_name, **_):
            heard.append((esp_name, event.event_type))

        with signal_receiver(tracking, hear):
            reconcile.reconcile()

        assert heard == [("Postmark", "delivered")]
