"""Which receipts are read again, in which order and how many at a time."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from tests.webhooks import payloads
from tests.webhooks.replaying.conftest import replay
from webhooks import replaying
from webhooks.models import WebhookReceipt
from webhooks.replaying import Selection

pytestmark = pytest.mark.django_db


class TestSelection:
    def test_narrows_by_id_provider_state_and_time(self, post_postmark, post_resend):
        post_postmark(payloads.postmark("Delivery"))
        post_postmark(b"{")
        post_resend(payloads.resend("email.sent"))
        postmark, poison, resend = WebhookReceipt.objects.order_by("pk")
        now = timezone.now()

        def found(**chosen):
            return set(Selection(**chosen).receipts())

        assert found(ids=[poison.pk, uuid4()]) == {poison}
        assert found(providers=["postmark"]) == {postmark, poison}
        assert found(states=["processed"]) == {postmark, resend}
        assert found(providers=["postmark"], states=["processed"]) == {postmark}
        assert found(since=resend.received_at) == {
            one for one in (postmark, poison, resend) if one.received_at >= resend.received_at
        }
        assert found(until=postmark.received_at) == set()
        assert found(since=now - timedelta(days=1), until=now + timedelta(days=1)) == {postmark, poison, resend}
        assert found(since=now + timedelta(days=1)) == set()
        assert Selection(states=["poison", "processed"]).counts() == {
            "postmark poison": 1,
            "postmark processed": 1,
            "resend processed": 1,
        }

    def test_what_comes_in_meanwhile_is_left_out(self, post_postmark):
        selection = Selection(providers=["postmark"])
        post_postmark(payloads.postmark("Delivery"))

        assert list(replaying.replay(selection)) == []

    def test_receipt_of_a_clock_that_is_ahead_is_found_by_its_id(self, post_postmark):
        post_postmark(payloads.postmark("Delivery"))
        ahead = replaying._first_id(timezone.now() + timedelta(seconds=5))
        WebhookReceipt.objects.update(id=ahead)

        assert replay(ids=[ahead]).receipts == 1

    def test_rounds_are_bounded_and_in_order(self, post_postmark, monkeypatch, django_assert_max_num_queries):
        monkeypatch.setattr(replaying, "BATCH", 2)
        for number in range(5):
            post_postmark(payloads.postmark("Delivery", MessageID=str(number)))

        with django_assert_max_num_queries(60):
            rounds = list(replaying.replay(Selection(providers=["postmark"])))

        assert [done.receipts for done in rounds] == [2, 2, 1]

    def test_time_is_found_by_the_key_that_rounds_walk_along(self, post_postmark):
        post_postmark(payloads.postmark("Delivery"))
        first = replaying._first_id(timezone.now() - timedelta(seconds=60))
        last = replaying._first_id(timezone.now() + timedelta(seconds=60))

        assert first < WebhookReceipt.objects.get().pk < last
