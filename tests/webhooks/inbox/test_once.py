"""Whatever comes twice, and in whatever order, gives the same."""

import itertools

import pytest

from mailer.models import DeliveryEvent
from tests.webhooks import payloads
from tests.webhooks.conftest import delivery_of
from tests.webhooks.inbox.conftest import effects
from webhooks.models import WebhookReceipt

pytestmark = pytest.mark.django_db


class TestDuplicates:
    def test_resend_same_svix_id_changes_nothing(self, post_resend, sent):
        message = sent()
        payload = payloads.resend("email.opened", message)
        post_resend(payload, svix_id="msg_same")
        before = delivery_of(message).__dict__

        response = post_resend(payload, svix_id="msg_same")

        assert response.status_code == 200
        after = delivery_of(message).__dict__
        assert {**after, "_state": None} == {**before, "_state": None}
        assert [(r.events, r.new_events) for r in WebhookReceipt.objects.order_by("id")] == [(1, 1), (1, 0)]

    @pytest.mark.parametrize("record_type", payloads.POSTMARK)
    def test_postmark_same_body_changes_nothing(self, post_postmark, sent, record_type):
        message = sent("postmark")
        post_postmark(payloads.postmark(record_type, message))
        before = delivery_of(message).__dict__

        response = post_postmark(payloads.postmark(record_type, message))

        assert response.status_code == 200
        assert {**delivery_of(message).__dict__, "_state": None} == {**before, "_state": None}
        assert DeliveryEvent.objects.filter(source="webhook").count() == 1

    def test_postmark_bounce_is_known_by_its_id_however_it_is_told(self, post_postmark, sent):
        message = sent("postmark")
        post_postmark(payloads.postmark("Bounce", message))

        post_postmark(payloads.postmark("Bounce", message, Details="told otherwise", BouncedAt="2026-11-20T17:00:00Z"))

        assert DeliveryEvent.objects.filter(source="webhook").count() == 1

    def test_two_recipients_with_one_event_id_are_two_facts(self, post_postmark, sent):
        first = sent("postmark", "id-1", "ada@example.com")
        second = sent("postmark", "id-2", "bob@example.com")

        post_postmark(payloads.postmark("SpamComplaint", first, MessageID="id-1", Email="ada@example.com"))
        post_postmark(payloads.postmark("SpamComplaint", second, MessageID="id-2", Email="bob@example.com"))

        assert (delivery_of(first).status, delivery_of(second).status) == ("complained", "complained")


class TestOrder:
    KINDS = ("email.sent", "email.delivery_delayed", "email.delivered", "email.opened", "email.complained")

    def test_any_order_gives_the_same(self, post_resend, sent):
        """Each kind comes first and last, and before and after each other; all orders are tested of the ledger."""
        told = [*enumerate(self.KINDS)]
        around = [told[place:] + told[:place] for place in range(len(told))]
        results = set()
        for order in itertools.chain(around, map(reversed, around)):
            message = sent(esp_message_id="id")
            for number, kind in order:
                at = f"2026-11-20T23:4{number}:00.000Z"
                post_resend(payloads.resend(kind, message, created_at=at, email_id="id"))
            delivery = delivery_of(message)
            results.add((delivery.status, delivery.status_at, delivery.delivered_at, delivery.open_count))

        assert len(results) == 1
        [(status, *_)] = results
        assert status == "complained"

    def test_soft_bounce_after_the_delivery_does_not_undo_it(self, post_postmark, sent):
        message = sent("postmark")

        post_postmark(payloads.postmark("Delivery", message))
        post_postmark(payloads.postmark("Bounce", message, Type="SoftBounce", BouncedAt="2026-11-21T00:00:00Z"))

        assert delivery_of(message).status == "delivered"
        assert effects(message) == [("delivered", "changed"), ("bounced", "outranked")]

    def test_hard_bounce_after_the_delivery_counts(self, post_postmark, sent):
        message = sent("postmark")

        post_postmark(payloads.postmark("Delivery", message))
        post_postmark(payloads.postmark("Bounce", message))

        assert delivery_of(message).status == "bounced"
        assert effects(message) == [("delivered", "changed"), ("bounced", "changed")]

    def test_effect_of_each_event_is_kept(self, post_resend, sent):
        message = sent()

        post_resend(payloads.resend("email.delivered", message))
        post_resend(payloads.resend("email.opened", message, created_at="2026-11-20T23:50:00.000Z"))
        post_resend(payloads.resend("email.delivery_delayed", message))
        post_resend({**payloads.resend("email.sent", message), "type": "email.new"})

        assert effects(message) == [
            ("delivered", "changed"),
            ("opened", "confirmed"),
            ("deferred", "outranked"),
            ("unknown", "none"),
        ]
