"""Several who ask, and how many requests they make."""

import pytest

from mailer.models import DeliveryStatus
from tests.conftest import in_threads, wait_until
from tests.mailer.conftest import delivery_of
from tests.webhooks.reconcile.conftest import age
from webhooks import reconcile
from webhooks.models import Inquiry
from webhooks.polls import POLLS

pytestmark = pytest.mark.django_db


class TestTogether:
    def test_what_a_process_did_not_live_to_ask_is_asked_a_minute_later(self, simulator, sent):
        [delivery] = sent("postmark", "silent@example.com")
        wait_until(lambda: "Delivery" in simulator.happened(delivery.esp_message_id))
        age(11)
        reconcile._claim("postmark")

        assert reconcile.reconcile() == 0
        age(1.1)
        assert reconcile.reconcile() == 1

    @pytest.mark.django_db(transaction=True)
    def test_two_at_once_ask_once(self, sent, answering):
        sent("postmark", "silent@example.com")
        server = answering(200, b'{"MessageEvents": []}')
        age(11)

        in_threads(4, lambda _: reconcile.reconcile())

        assert len(server.requests) == 1
        assert Inquiry.objects.get().asked == 1

    def test_requests_are_as_many_as_the_settings_allow(self, sent, answering, settings):
        settings.RECONCILE_RATES, settings.RECONCILE_BURSTS = {"resend": 2}, {"resend": 20}
        sent("resend", *(f"silent@{number}.example" for number in range(40)))
        server = answering(200, b'{"to": [], "last_event": "sent"}')
        age(11)
        reconcile.reconcile()
        first = len(server.requests)

        age(3 / 60)
        reconcile.reconcile()
        second = len(server.requests) - first
        age(15)
        reconcile.reconcile()

        assert first == 1
        assert 6 <= second <= 8
        assert len(server.requests) - first - second == 20

    @pytest.mark.parametrize("provider", ["postmark", "resend"])
    def test_requests_are_as_many_as_the_provider_allows_by_itself(self, sent, answering, provider):
        poll = POLLS[provider]
        sent(provider, *(f"silent@{number}.example" for number in range(10)))
        server = answering(200, b'{"to": [], "last_event": "sent", "MessageEvents": []}')
        Inquiry.objects.create(name=provider, tokens=1000)
        age(11)

        reconcile.reconcile()

        assert len(server.requests) == poll.burst / poll.most
        assert Inquiry.objects.get().tokens == pytest.approx(poll.burst - len(server.requests), abs=0.1)

    def test_question_that_takes_two_requests_is_charged_for_both(self, sent, answering):
        sent("postmark", "bounce@example.com", "silent@example.org")
        server = answering(200, b'{"MessageEvents": [{"Type": "Bounced"}], "Bounces": []}')
        age(11)

        assert (reconcile.reconcile(), len(server.requests)) == (0, 2)
        age(1 / 60)
        assert (reconcile.reconcile(), len(server.requests)) == (0, 2)
        age(1 / 60)
        assert (reconcile.reconcile(), len(server.requests)) == (0, 4)

    def test_burst_below_what_one_question_takes_is_one_question(self, sent, answering, settings):
        settings.RECONCILE_BURSTS = {"postmark": 1}
        sent("postmark", "silent@example.com")
        server = answering(200, b'{"MessageEvents": []}')
        age(11)

        reconcile.reconcile()

        assert len(server.requests) == 1

    def test_message_to_several_is_one_question(self, sent, answering, settings):
        settings.MAIL_PROVIDERS = ["postmark"]
        deliveries = sent("postmark", "silent@example.com", "silent@example.org")
        DeliveryStatus.objects.update(esp_message_id="one")
        events = b",".join(
            b'{"Type": "Delivered", "Recipient": "%s", "ReceivedAt": "2026-11-21T08:00:00Z", "Details": {}}' % address
            for address in (b"silent@example.com", b"silent@example.org")
        )
        server = answering(200, b'{"MessageEvents": [%s]}' % events)
        age(11)
        reconcile.reconcile()
        Inquiry.objects.update(tokens=20)
        age(2)
        reconcile.reconcile()

        assert len(server.requests) == 1
        assert {delivery_of(delivery.message).status for delivery in deliveries} == {"delivered"}
