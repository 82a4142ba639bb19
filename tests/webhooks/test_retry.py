"""What becomes of a genuine request that cannot be recorded, or that comes again with another body."""

import hashlib
import json
from dataclasses import replace
from datetime import timedelta

import pytest
from django.conf import settings as configured
from django.db import DataError, OperationalError, connection
from django.db.models import DurationField, ExpressionWrapper, F
from django.db.models.functions import Now
from django.urls import reverse

from mailer import ledger, sweeping
from mailer.models import DeliveryEvent
from tests.conftest import in_threads
from tests.webhooks import payloads
from tests.webhooks.conftest import POSTMARK_SECRETS, POSTMARK_URL, basic, delivery_of, encoded
from webhooks import inbox, later
from webhooks.models import DeadLetter, Nonce, WebhookReceipt
from webhooks.providers import WEBHOOKS, Incoming, Proof
from webhooks.providers.base import Meaning, listed

pytestmark = pytest.mark.django_db
WAIT = ExpressionWrapper(F("run_at") - Now(), output_field=DurationField())


@pytest.fixture
def judged(monkeypatch):
    """Have Postmark's events judged by another function, until it is taken back."""

    def judge(function):
        monkeypatch.setitem(WEBHOOKS, "postmark", replace(WEBHOOKS["postmark"], judge=function))

    return judge


@pytest.fixture
def named(monkeypatch):
    """Have Postmark's requests carry a name in a header that no signature covers."""
    webhook = WEBHOOKS["postmark"]

    def verify(incoming, secrets):
        webhook.verify(incoming, secrets)
        return Proof(nonce=incoming.headers.get("x-name", ""))

    monkeypatch.setitem(WEBHOOKS, "postmark", replace(webhook, verify=verify))


def broken(_event):
    raise AssertionError("ada@example.com")


def let_time_pass():
    WebhookReceipt.objects.filter(state="retry").update(run_at=Now() - timedelta(seconds=1))


class TestRetry:
    def test_receipt_that_cannot_be_judged_is_kept_and_taken(self, post_postmark, sent, judged, caplog):
        message = sent("postmark")
        judged(broken)

        response = post_postmark(payloads.postmark("Delivery", message))

        assert response.status_code == 200
        receipt = WebhookReceipt.objects.get()
        assert (receipt.state, receipt.error, receipt.attempts) == ("retry", "AssertionError", 0)
        assert json.loads(receipt.body)["MessageID"] == payloads.POSTMARK_ID
        assert receipt.run_at > receipt.received_at
        assert delivery_of(message).status == "sent"
        assert "ada@example.com" not in caplog.text

    def test_receipt_that_the_database_refuses_is_kept(self, post_postmark, sent, judged):
        message = sent("postmark")
        judged(lambda _: Meaning("a type that is longer than the thirty-two characters of its column", None))

        response = post_postmark(payloads.postmark("Delivery", message))

        assert response.status_code == 200
        assert WebhookReceipt.objects.get().state == "retry"
        assert not DeliveryEvent.objects.filter(source="webhook").exists()

    def test_receipt_is_tried_again_by_the_sweep_when_its_time_has_come(self, post_postmark, sent, judged):
        message, judge = sent("postmark"), WEBHOOKS["postmark"].judge
        judged(broken)
        post_postmark(payloads.postmark("Delivery", message))
        judged(judge)

        early = sweeping.sweep()
        let_time_pass()
        moved = sweeping.sweep()

        assert ("receipts" in early, moved["receipts"]) == (False, 1)
        receipt = WebhookReceipt.objects.get()
        assert (receipt.state, receipt.error, receipt.new_events, receipt.run_at) == ("processed", "", 1, None)
        assert delivery_of(message).status == "delivered"

    def test_receipt_is_poison_after_its_last_try(self, post_postmark, judged):
        judged(broken)
        post_postmark(payloads.postmark("Delivery"))

        states = []
        for _ in inbox.DELAYS:
            let_time_pass()
            later.read_due()
            states.append(WebhookReceipt.objects.get().state)

        assert states == ["retry"] * (len(inbox.DELAYS) - 1) + ["poison"]
        receipt = WebhookReceipt.objects.get()
        assert (receipt.attempts, receipt.run_at, receipt.error) == (len(inbox.DELAYS), None, "AssertionError")

    def test_receipt_waits_longer_each_time(self, post_postmark, judged):
        judged(broken)
        post_postmark(payloads.postmark("Delivery"))

        waits = []
        for _ in inbox.DELAYS[1:]:
            let_time_pass()
            later.read_due()
            waits.append(WebhookReceipt.objects.annotate(wait=WAIT).get().wait.total_seconds())

        for wait, delay in zip(waits, inbox.DELAYS[1:], strict=True):
            assert delay - 60 <= wait <= 1.5 * delay

    def test_receipt_whose_last_try_killed_its_process_is_poison(self, post_postmark, judged):
        judged(broken)
        post_postmark(payloads.postmark("Delivery"))
        WebhookReceipt.objects.update(attempts=len(inbox.DELAYS))
        let_time_pass()

        assert later.read_due() == 0
        assert WebhookReceipt.objects.get().state == "poison"

    def test_one_that_fails_harms_no_other(self, post_postmark, sent, judged):
        message, judge = sent("postmark"), WEBHOOKS["postmark"].judge
        judged(broken)
        post_postmark(payloads.postmark("Open"))
        post_postmark(payloads.postmark("Delivery", message))
        judged(lambda event: broken(event) if event.event_type == "opened" else judge(event))
        let_time_pass()

        assert later.read_due() == 1
        assert sorted(WebhookReceipt.objects.values_list("state", flat=True)) == ["processed", "retry"]

    def test_database_that_goes_away_while_a_receipt_is_tried_again_leaves_it_as_it_was(self, post_postmark, judged):
        judged(broken)
        post_postmark(payloads.postmark("Delivery"))
        let_time_pass()

        def gone(_):
            raise OperationalError

        judged(gone)
        with pytest.raises(OperationalError):
            later.read_due()

        assert WebhookReceipt.objects.get().state == "retry"

    def test_what_exceeds_a_limit_of_the_database_is_not_its_being_away(self, post_postmark, judged):
        def too_much(_):
            with connection.cursor() as cursor:
                cursor.execute("DO $$ BEGIN RAISE EXCEPTION 'too much' USING ERRCODE = '54000'; END $$")

        judged(too_much)

        assert post_postmark(payloads.postmark("Delivery")).status_code == 200
        assert WebhookReceipt.objects.get().state == "retry"

    def test_receipt_is_shown_as_one_that_waits(self, admin_client, post_postmark, judged):
        judged(broken)
        post_postmark(payloads.postmark("Delivery"))

        page = admin_client.get(reverse("admin:webhooks_webhookreceipt_changelist"), {"state": "retry"})

        assert str(WebhookReceipt.objects.get().pk) in page.content.decode()
        assert "AssertionError" in page.content.decode()

    @pytest.mark.django_db(transaction=True)
    def test_receipt_is_tried_by_one_of_many(self, post_postmark, sent, judged):
        message, judge = sent("postmark"), WEBHOOKS["postmark"].judge
        judged(broken)
        post_postmark(payloads.postmark("Open", message))
        judged(judge)
        let_time_pass()

        assert sum(in_threads(4, lambda _: later.read_due())) == 1
        assert delivery_of(message).open_count == 1


@pytest.mark.usefixtures("named")
class TestNonce:
    def test_same_name_and_body_is_taken_again(self, post_postmark):
        answers = [post_postmark(payloads.postmark("Delivery"), **{"X-Name": "a"}).status_code for _ in range(2)]

        assert answers == [200, 200]
        assert WebhookReceipt.objects.count() == 2
        assert DeliveryEvent.objects.count() == 1

    def test_same_name_with_another_body_is_401_and_nothing_is_stored(self, post_postmark, sent):
        message = sent("postmark")
        post_postmark(payloads.postmark("Open", message), **{"X-Name": "a"})

        response = post_postmark(payloads.postmark("SpamComplaint", message), **{"X-Name": "a"})

        assert response.status_code == 401
        assert WebhookReceipt.objects.count() == 1
        assert delivery_of(message).status == "delivered"

    def test_other_name_may_come_with_any_body(self, post_postmark):
        bodies = [("a", "Open"), ("b", "Delivery"), ("c", "Open")]

        assert {post_postmark(payloads.postmark(kind), **{"X-Name": name}).status_code for name, kind in bodies} == {
            200
        }

    def test_name_of_one_provider_is_free_for_another(self):
        body = encoded(payloads.postmark("Open"))
        inbox.process("postmark", Incoming({}, body), Proof("a"))

        inbox.process("resend", Incoming({"svix-id": "msg"}, encoded(payloads.resend("email.sent"))), Proof("a"))

        assert WebhookReceipt.objects.count() == 2

    def test_name_is_kept_as_a_digest(self, post_postmark):
        body = encoded(payloads.postmark("Delivery"))

        post_postmark(body, **{"X-Name": "x" * 5000})

        nonce = Nonce.objects.get()
        assert nonce.key == ledger.dedupe_key("postmark", "x" * 5000)
        assert nonce.digest == hashlib.sha256(body).hexdigest()

    def test_name_is_bound_where_the_receipt_waits(self, post_postmark, monkeypatch):
        monkeypatch.setitem(WEBHOOKS, "postmark", replace(WEBHOOKS["postmark"], judge=broken))
        post_postmark(payloads.postmark("Open"), **{"X-Name": "a"})

        response = post_postmark(payloads.postmark("Delivery"), **{"X-Name": "a"})

        assert response.status_code == 401
        assert WebhookReceipt.objects.get().state == "retry"

    @pytest.mark.django_db(transaction=True)
    def test_one_body_of_many_at_once_is_bound(self, client):
        bodies = [encoded(payloads.postmark("Delivery", Details=str(number))) for number in range(8)]

        def post(number):
            headers = {**basic(POSTMARK_SECRETS[0]), "X-Name": "a"}
            return client.post(
                POSTMARK_URL, bodies[number], content_type="application/json", headers=headers
            ).status_code

        answers = in_threads(8, post)

        assert sorted(answers) == [200] + [401] * 7
        assert bytes(WebhookReceipt.objects.get().body) == bodies[answers.index(200)]


class TestLimits:
    @pytest.fixture(autouse=True)
    def _lists(self, monkeypatch):
        monkeypatch.setitem(WEBHOOKS, "postmark", replace(WEBHOOKS["postmark"], parts=listed))

    def test_as_many_events_as_may_be_are_taken(self, post_postmark):
        events = [payloads.postmark("Open", MessageID=str(n)) for n in range(configured.WEBHOOK_MAX_EVENTS)]

        assert post_postmark(events).status_code == 200
        assert later.read_due() == 1
        assert WebhookReceipt.objects.get().new_events == 5000

    def test_one_event_more_is_413_and_nothing_is_stored(self, post_postmark):
        assert post_postmark([{}] * 5001).status_code == 413
        assert not WebhookReceipt.objects.exists()

    @pytest.mark.parametrize(("depth", "unreadable"), [(98, 0), (99, 1), (300, 1)])
    def test_nesting_is_bounded_and_harms_no_neighbour(self, post_postmark, depth, unreadable):
        deep = json.loads("[" * depth + "]" * depth)

        response = post_postmark([payloads.postmark("Open"), payloads.postmark("Click", Tag={"a": deep})])

        assert response.status_code == 200
        receipt = WebhookReceipt.objects.get()
        assert (receipt.state, receipt.events, receipt.unreadable) == ("processed", 2 - unreadable, unreadable)
        assert receipt.error == "TooDeep" * unreadable


class TestDeadLetters:
    def test_event_that_nobody_claims_is_a_dead_letter_after_a_day(self, post_postmark, admin_client):
        post_postmark(payloads.postmark("Bounce", MessageID="lost"))
        before = DeadLetter.objects.count()
        DeliveryEvent.objects.update(recorded_at=Now() - timedelta(hours=24))

        after = DeadLetter.objects.get()

        assert (before, after.esp_message_id) == (0, "lost")
        listed = admin_client.get(reverse("admin:webhooks_deadletter_changelist"), {"q": "lost"})
        shown = admin_client.get(reverse("admin:webhooks_deadletter_change", args=[after.pk]))
        assert "lost" in listed.content.decode()
        assert payloads.RECIPIENT in shown.content.decode()

    def test_dead_letter_is_kept_and_still_finds_its_delivery(self, post_postmark, sent):
        post_postmark(payloads.postmark("Bounce", MessageID="late"))
        DeliveryEvent.objects.update(recorded_at=Now() - timedelta(days=30))
        sweeping.sweep()
        assert DeadLetter.objects.count() == 1

        message = sent("postmark", "late")

        assert not DeadLetter.objects.exists()
        assert delivery_of(message).status == "bounced"


def test_error_of_a_receipt_that_cannot_even_be_kept_is_503(post_postmark, monkeypatch):
    def refuse(*_, **__):
        raise DataError

    monkeypatch.setattr(inbox, "_insert", refuse)

    assert post_postmark(payloads.postmark("Delivery")).status_code == 503
    assert not DeliveryEvent.objects.exists()
