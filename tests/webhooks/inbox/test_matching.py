"""Which delivery an event is about, and what it proves."""

from datetime import timedelta

import pytest

from mailer import ledger, operators, outbox, sweeping
from mailer.ledger import own_fact
from mailer.models import DeliveryEvent, Message
from mailer.outbox import Outcome
from mailer.verdicts import Verdict
from tests.webhooks import payloads
from tests.webhooks.conftest import delivery_of, settle, state_of
from tests.webhooks.inbox.conftest import effects
from webhooks.models import WebhookReceipt

pytestmark = pytest.mark.django_db


class TestMatching:
    def test_event_before_the_outcome_is_stored_finds_its_delivery_by_our_id(self, post_resend, sending):
        claim = sending()

        response = post_resend(payloads.resend("email.delivered", claim.message))

        assert response.status_code == 200
        assert delivery_of(claim.message).status == "delivered"
        assert delivery_of(claim.message).esp_message_id == payloads.RESEND_ID

    def test_event_before_the_outcome_proves_the_acceptance(self, post_resend, sending):
        claim = sending()

        post_resend(payloads.resend("email.sent", claim.message))
        settle(claim, "sent", payloads.RESEND_ID)

        assert state_of(claim.message) == "sent"
        assert delivery_of(claim.message).status == "sent"

    def test_event_for_nobody_is_parked_and_taken(self, post_resend):
        response = post_resend(payloads.resend("email.delivered"))

        assert response.status_code == 200
        event = DeliveryEvent.objects.get()
        assert (event.effect, event.delivery_id, event.esp_message_id) == ("parked", None, payloads.RESEND_ID)
        assert WebhookReceipt.objects.get().state == "processed"

    def test_event_about_a_message_of_ours_that_is_gone_is_parked(self, post_resend, sent):
        message = sent()
        Message.objects.all().delete()

        response = post_resend(payloads.resend("email.delivered", message))

        assert response.status_code == 200
        assert DeliveryEvent.objects.get().effect == "parked"

    def test_parked_event_is_matched_when_the_outcome_is_stored(self, post_resend, sending):
        post_resend(payloads.resend("email.delivered"))
        claim = sending()

        settle(claim, "sent", payloads.RESEND_ID)

        assert delivery_of(claim.message).status == "delivered"
        assert effects(claim.message) == [("delivered", "changed")]

    def test_parked_event_is_matched_by_the_sweep(self, post_resend, sent):
        post_resend(payloads.resend("email.opened"))
        message = sent(esp_message_id="another")
        ledger.DeliveryStatus.objects.filter(message=message.pk).update(esp_message_id=payloads.RESEND_ID)

        moved = sweeping.sweep()

        assert moved == {"matched": 1}
        delivery = delivery_of(message)
        assert (delivery.status, delivery.open_count) == ("delivered", 1)

    def test_id_of_another_provider_matches_nothing(self, post_resend, sent):
        message = sent("postmark", payloads.RESEND_ID)

        post_resend(payloads.resend("email.delivered"))

        assert delivery_of(message).status == "sent"

    def test_metadata_that_names_no_id_of_ours_is_passed_over(self, post_postmark, sent):
        message = sent("postmark")

        post_postmark(payloads.postmark("Delivery", Metadata={"message_id": "42"}))

        assert delivery_of(message).status == "delivered"

    def test_spelling_of_the_recipient_does_not_matter(self, post_postmark, sent):
        message = sent("postmark")

        post_postmark(payloads.postmark("Delivery", message, Recipient="JOHN@EXAMPLE.COM"))

        assert delivery_of(message).status == "delivered"


class TestOtherProviders:
    """What one provider says, or who holds its secret, of a mail that is with another one."""

    def test_mail_that_another_one_accepted_is_not_moved(self, post_postmark, sent):
        message = sent("resend")
        before = delivery_of(message).__dict__

        response = post_postmark(payloads.postmark("Bounce", message))

        assert response.status_code == 200
        assert {**delivery_of(message).__dict__, "_state": None} == {**before, "_state": None}
        assert DeliveryEvent.objects.get(source="webhook").delivery is None

    def test_mail_that_is_under_way_to_another_one_is_not_moved(self, post_postmark, post_resend, sending):
        claim = sending("resend")

        post_postmark(payloads.postmark("Delivery", claim.message))
        post_resend(payloads.resend("email.delivered", claim.message))

        delivery = delivery_of(claim.message)
        assert (delivery.status, delivery.provider, state_of(claim.message)) == ("delivered", "resend", "sent")
        assert DeliveryEvent.objects.get(provider="postmark", source="webhook").delivery is None

    def test_mail_that_one_refused_and_another_one_took_follows_the_other(self, post_postmark, post_resend, sending):
        refused = sending("postmark")
        outbox.settle([Outcome(refused.message.pk, refused.message.token, "retry", verdict=Verdict.NOT_SENT)])
        [claim] = outbox.claim("a worker", 1)
        claim.message.provider = "resend"
        outbox.intend([claim])
        settle(claim, "sent", payloads.RESEND_ID)

        post_postmark(payloads.postmark("Bounce", claim.message))
        sweeping.sweep()
        post_resend(payloads.resend("email.delivered", claim.message))

        delivery = delivery_of(claim.message)
        assert (delivery.status, delivery.provider) == ("delivered", "resend")
        late = DeliveryEvent.objects.get(provider="postmark", source="webhook")
        assert (late.effect, late.delivery, late.esp_message_id) == ("parked", None, payloads.POSTMARK_ID)

    def test_mail_that_was_given_up_at_one_and_sent_by_another_follows_the_other(self, post_resend, sending):
        failed = sending("postmark")
        facts = [
            own_fact("failed", recipient.delivery_id, failed.message.token, provider="postmark")
            for recipient in failed.recipients
        ]
        outbox.settle([Outcome(failed.message.pk, failed.message.token, "dead", facts=tuple(facts))])
        assert operators.retry([failed.message.pk])
        [claim] = outbox.claim("a worker", 1)
        claim.message.provider = "resend"
        outbox.intend([claim])
        post_resend(payloads.resend("email.opened", claim.message))
        settle(claim, "sent", payloads.RESEND_ID)

        post_resend(payloads.resend("email.delivered", claim.message))

        delivery = delivery_of(claim.message)
        assert (delivery.status, delivery.provider, delivery.esp_message_id, delivery.open_count) == (
            "delivered",
            "resend",
            payloads.RESEND_ID,
            1,
        )


class TestEvidence:
    @pytest.mark.parametrize(
        ("kind", "status"),
        [
            ("email.sent", "sent"),
            ("email.delivered", "delivered"),
            ("email.opened", "delivered"),
            ("email.delivery_delayed", "deferred"),
            ("email.bounced", "bounced"),
            ("email.complained", "complained"),
        ],
    )
    def test_message_in_doubt_becomes_sent(self, post_resend, sending, kind, status):
        claim = sending()
        settle(claim, "unknown")

        post_resend(payloads.resend(kind, claim.message))

        assert state_of(claim.message) == "sent"
        assert delivery_of(claim.message).status == status

    def test_postmark_message_in_doubt_becomes_sent(self, post_postmark, sending):
        claim = sending("postmark")
        settle(claim, "unknown")

        post_postmark(payloads.postmark("Delivery", claim.message))

        assert state_of(claim.message) == "sent"
        assert delivery_of(claim.message).status == "delivered"

    def test_word_of_another_provider_leaves_the_doubt(self, post_postmark, sending):
        claim = sending("resend")
        settle(claim, "unknown")

        post_postmark(payloads.postmark("Delivery", claim.message))

        assert (state_of(claim.message), delivery_of(claim.message).status) == ("unknown", "unknown")
        assert DeliveryEvent.objects.get(source="webhook").effect == "parked"

    def test_event_that_says_nothing_of_acceptance_leaves_the_doubt(self, post_resend, sending):
        claim = sending()
        settle(claim, "unknown")

        post_resend({**payloads.resend("email.sent", claim.message), "type": "email.new"})

        assert state_of(claim.message) == "unknown"

    def test_confirmed_message_is_not_sent_again(self, post_resend, sending):
        claim = sending()
        post_resend(payloads.resend("email.sent", claim.message))
        Message.objects.update(lease_until=ledger.Message.objects.get().created_at - timedelta(days=1))

        sweeping.sweep()

        assert state_of(claim.message) == "sent"
        assert outbox.claim("another worker", 10) == []
