"""Asking providers what no webhook told, at real servers: the simulator, and one that answers as a test says."""

import subprocess
import sys
import threading
from datetime import timedelta

import pytest
from anymail.exceptions import AnymailNotSupportedWarning
from anymail.signals import tracking
from django.contrib.postgres.functions import TransactionNow
from django.db import OperationalError
from django.db.models import F

from mailer import couriers, ledger, letters, sender, sweeping
from mailer.ledger import own_fact
from mailer.models import DeliveryEvent, DeliveryStatus, Suppression
from tests.conftest import PATIENCE, ROOT, in_threads, wait_until
from tests.mailer import tiny
from tests.mailer.conftest import ask, delivery_of, enqueue, fact, new_delivery, signal_receiver
from webhooks import consequences, reconcile
from webhooks.models import Inquiry
from webhooks.polls import POLLS
from webhooks.reconcile import DELAYS

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def fresh_courier():
    letters.backend_at.cache_clear()
    yield
    couriers.close()
    letters.backend_at.cache_clear()


def age(minutes, **which):
    """Let so many minutes have passed since deliveries were sent, and since anybody asked."""
    past = timedelta(minutes=minutes)
    DeliveryStatus.objects.filter(**which).update(
        sent_at=F("sent_at") - past, status_at=F("status_at") - past, inquire_at=F("inquire_at") - past
    )
    Inquiry.objects.update(silent_until=F("silent_until") - past, refilled_at=F("refilled_at") - past)


@pytest.fixture
def sent(simulator, settings):
    """Send mails through a provider's simulator, of which no webhook tells."""

    def sent(provider, *recipients):
        settings.MAIL_PROVIDERS = [provider]
        messages = [enqueue(recipient) for recipient in recipients]
        sender.drain()
        deliveries = [delivery_of(message) for message in messages]
        assert {delivery.status for delivery in deliveries} == {"sent"}
        return deliveries

    return sent


def events_of(delivery):
    return list(
        DeliveryEvent.objects.filter(delivery=delivery).exclude(source="sender").values_list("event_type", "source")
    )


def due_in(delivery):
    """Return in how many seconds a delivery is asked about; None where it is not."""
    if DeliveryStatus.objects.get(pk=delivery.pk).inquire_at is None:
        return None
    return ask(
        "SELECT extract(epoch FROM inquire_at - now()) FROM mailer_deliverystatus WHERE id = %s", str(delivery.pk)
    )


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


class TestTimes:
    def test_it_is_asked_at_ten_minutes_an_hour_six_hours_and_a_day(self, sent):
        [delivery] = sent("postmark", "slow@example.com")

        waits = [due_in(delivery)]
        for seconds in DELAYS:
            age((seconds - DELAYS[0]) / 60 + 11 if waits[-1] is None else waits[-1] / 60 + 1)
            reconcile.reconcile()
            waits.append(due_in(delivery))

        assert waits.pop() is None
        sums = [waits[0], *(wait + seconds for wait, seconds in zip(waits[1:], DELAYS, strict=False))]
        for total, seconds in zip(sums, DELAYS, strict=True):
            assert seconds - 120 <= total <= seconds + 120
        assert Inquiry.objects.get().asked == 4
        delivery.refresh_from_db()
        assert delivery.status == "sent"

    def test_nobody_asks_before_the_time(self, sent):
        sent("postmark", "silent@example.com")
        age(9)

        assert reconcile.reconcile() == 0
        assert not Inquiry.objects.exists()

    def test_a_webhook_that_came_is_no_reason_to_ask(self, sent, post_postmark):
        [delivery] = sent("postmark", "silent@example.com")
        post_postmark(
            {
                "RecordType": "Delivery",
                "MessageID": delivery.esp_message_id,
                "Recipient": "silent@example.com",
                "DeliveredAt": "2026-11-20T16:33:54Z",
                "Details": "",
                "Metadata": {},
            }
        )

        assert due_in(delivery) is None

    def test_a_provider_that_cannot_be_asked_is_not(self, sent):
        [delivery] = sent("resend", "silent@example.com")
        other = new_delivery("sent")
        DeliveryStatus.objects.filter(pk=other).update(provider="smtp")

        assert due_in(delivery) is not None
        assert DeliveryStatus.objects.get(pk=other).inquire_at is None

    @pytest.mark.parametrize(
        ("kind", "status"), [("Transient", "deferred"), ("SoftBounce", "soft_bounced"), ("HardBounce", "bounced")]
    )
    def test_what_is_not_the_last_word_is_asked_about_still(self, sent, post_postmark, kind, status):
        [delivery] = sent("postmark", "silent@example.com")
        before = due_in(delivery)
        post_postmark(
            {
                "RecordType": "Bounce",
                "Type": kind,
                "ID": 1,
                "MessageID": delivery.esp_message_id,
                "Email": "silent@example.com",
                "BouncedAt": "2026-11-20T16:33:54Z",
                "Details": "",
            }
        )

        delivery.refresh_from_db()
        assert delivery.status == status
        assert due_in(delivery) == (None if status == "bounced" else pytest.approx(before, abs=30))

    def test_deferral_that_comes_before_the_answer_is_asked_about(self, db):
        delivery = new_delivery()
        ledger.record([fact("deferred", provider="postmark", delivery_id=delivery, esp_message_id="the-id")])

        before = DeliveryStatus.objects.get(pk=delivery)
        assert 590 < due_in(before) <= 600
        ledger.record([own_fact("sent", delivery, "1", provider="postmark", esp_message_id="the-id")])

        after = DeliveryStatus.objects.get(pk=delivery)
        assert (after.status, after.inquire_at) == ("deferred", before.inquire_at)

    def test_what_became_of_a_deferred_mail_is_found(self, simulator, sent):
        [delivery] = sent("postmark", "silent@example.com")
        wait_until(lambda: "Delivery" in simulator.happened(delivery.esp_message_id))
        ledger.record([fact("deferred", provider="postmark", delivery_id=delivery.pk)])
        age(11)

        assert reconcile.reconcile() == 1

        delivery.refresh_from_db()
        assert (delivery.status, delivery.inquire_at) == ("delivered", None)

    def test_off_is_off(self, sent, settings):
        [before] = sent("postmark", "silent@example.com")
        settings.RECONCILE = False
        [after] = sent("postmark", "silent@example.com")
        age(11)

        assert reconcile.reconcile() == 0
        assert (due_in(before) is None, due_in(after) is None) == (False, True)

    def test_mail_without_the_providers_id_is_asked_about_no_more(self, sent):
        [delivery] = sent("postmark", "silent@example.com")
        DeliveryStatus.objects.update(esp_message_id="")
        age(11)

        assert reconcile.reconcile() == 0
        assert due_in(delivery) is None


@pytest.fixture
def answering(settings):
    """Have both providers asked at a server that answers as a test says."""
    servers = []

    def answering(status, body=b"{}", **headers):
        server = tiny.serving(lambda: (status, {name.replace("_", "-"): v for name, v in headers.items()}, body))
        servers.append(server)
        it = server.__enter__()
        settings.ANYMAIL = {**settings.ANYMAIL, "POSTMARK_API_URL": f"{it.url}/", "RESEND_API_URL": f"{it.url}/"}
        letters.backend_at.cache_clear()
        return it

    yield answering
    couriers.close()
    for server in servers:
        server.__exit__(None, None, None)


def silence():
    return ask("SELECT coalesce(extract(epoch FROM silent_until - now()), 0) FROM webhooks_inquiry")


class TestFailures:
    @pytest.mark.parametrize(
        ("status", "headers", "seconds"),
        [
            (429, {"Retry_After": "300"}, 300),
            (429, {}, 60),
            (500, {}, 60),
            (503, {}, 60),
            (401, {}, 3600),
            (403, {}, 3600),
        ],
    )
    def test_provider_is_left_alone_for_a_while(self, sent, answering, status, headers, seconds):
        deliveries = sent("postmark", "silent@example.com", "silent@example.org")
        server = answering(status, **headers)
        age(11)

        assert reconcile.reconcile() == 0
        age(2 / 60)
        assert reconcile.reconcile() == 0

        assert len(server.requests) == 1  # one token at first
        assert seconds - 10 <= silence() <= seconds
        inquiry = Inquiry.objects.get()
        assert (inquiry.asked, inquiry.told, inquiry.failed, inquiry.error) == (1, 0, 1, f"http_{status}")
        assert {delivery_of(delivery.message).status for delivery in deliveries} == {"sent"}
        assert all(due_in(delivery) is not None for delivery in deliveries)

    @pytest.mark.parametrize("status", [401, 403])
    def test_provider_that_refuses_for_good_is_not_asked_for_ever(self, sent, answering, status):
        early, late = sent("postmark", "silent@example.com", "silent@example.org")
        server = answering(status)
        Inquiry.objects.create(name="postmark", tokens=4)
        age(11)
        age(24 * 60, pk=late.pk)
        DeliveryStatus.objects.filter(pk=late.pk).update(inquire_at=TransactionNow())

        reconcile.reconcile()

        assert len(server.requests) == 2
        assert due_in(late) is None
        age(61)
        assert due_in(early) < 0
        reconcile.reconcile()
        assert len(server.requests) == 3

    def test_answer_that_never_comes_is_given_up_after_two_days(self, sent, answering):
        [delivery] = sent("postmark", "silent@example.com")
        server = answering(503)
        age(11)
        asked = 0
        while due_in(delivery) is not None and asked < 100:
            reconcile.reconcile()
            asked += 1
            age(60)
            DeliveryStatus.objects.filter(inquire_at__isnull=False).update(inquire_at=TransactionNow())

        assert 47 <= len(server.requests) <= 48

    def test_what_nobody_gets_to_ask_about_is_given_up_after_a_day(self, sent, settings):
        early, late = sent("postmark", "silent@example.com", "silent@example.org")
        Inquiry.objects.create(name="postmark", tokens=0, silent_until=TransactionNow() + timedelta(days=9))
        age(23 * 60)
        age(70, pk=late.pk)

        reconcile.reconcile()

        assert (due_in(early) is None, due_in(late) is None) == (False, True)

    def test_it_is_asked_again_after_that(self, simulator, sent, answering):
        [delivery] = sent("postmark", "silent@example.com")
        wait_until(lambda: "Delivery" in simulator.happened(delivery.esp_message_id))
        here = simulator.anymail["POSTMARK_API_URL"]
        answering(500)
        age(11)
        reconcile.reconcile()

        letters.backend_at("anymail.backends.postmark.EmailBackend").api_url = here
        age(2)
        assert reconcile.reconcile() == 1

        delivery.refresh_from_db()
        assert delivery.status == "delivered"

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            (200, b"<html>"),
            (200, b"[]"),
            (200, b"null"),
            (200, b'{"MessageEvents": {"a": 1}}'),
            (200, b'{"MessageEvents": [{"Type": "Delivered"}]}'),
            (422, b'{"ErrorCode": 300}'),
            (400, b""),
        ],
    )
    def test_answer_that_says_nothing_is_counted_and_harms_nothing(self, sent, answering, status, body):
        [delivery] = sent("postmark", "silent@example.com")
        answering(status, body)
        age(11)

        assert reconcile.reconcile() == 0

        inquiry = Inquiry.objects.get()
        assert (inquiry.asked, inquiry.failed, inquiry.silent_until) == (1, 1, None)
        assert inquiry.error
        assert 40 * 60 < due_in(delivery) < 60 * 60

    @pytest.mark.parametrize(
        ("status", "body"), [(404, b""), (422, b'{"ErrorCode": 701}'), (200, b'{"MessageEvents": []}')]
    )
    def test_mail_that_the_provider_knows_nothing_of_stays_sent(self, sent, answering, status, body):
        [delivery] = sent("postmark", "silent@example.com")
        answering(status, body)
        age(11)

        assert reconcile.reconcile() == 0

        inquiry = Inquiry.objects.get()
        assert (inquiry.asked, inquiry.failed, inquiry.silent_until) == (1, 0, None)
        assert 40 * 60 < due_in(delivery) < 60 * 60

    def test_odd_events_harm_no_other(self, sent, answering):
        [delivery] = sent("resend", "silent@example.com")
        answering(200, b'{"to": ["a@b.example"], "last_event": "delivered", "cc": null}')
        age(11)

        assert reconcile.reconcile() == 1
        delivery.refresh_from_db()
        assert delivery.status == "delivered"

    def test_event_of_one_of_several_recipients_is_left_to_the_webhook(self, sent, answering):
        [delivery] = sent("resend", "silent@example.com")
        answering(200, b'{"to": ["a@b.example", "c@b.example"], "last_event": "delivered"}')
        age(11)

        assert reconcile.reconcile() == 0
        assert due_in(delivery) > 0

    def test_provider_that_does_not_answer_costs_seconds(self, sent, settings, monkeypatch):
        monkeypatch.setattr(reconcile, "PATIENCE", 0.2)
        [delivery] = sent("postmark", "silent@example.com")
        over = threading.Event()

        def hang():
            over.wait(10)
            return 200, {}, b"{}"

        with tiny.serving(hang) as server:
            settings.ANYMAIL = {**settings.ANYMAIL, "POSTMARK_API_URL": f"{server.url}/"}
            letters.backend_at.cache_clear()
            age(11)
            assert reconcile.reconcile() == 0
            over.set()
            couriers.close()

        assert (Inquiry.objects.get().failed, Inquiry.objects.get().error) == (1, "TimeoutError")
        assert 50 <= silence() <= 60
        assert due_in(delivery) > 0

    def test_provider_that_is_not_there(self, sent, settings):
        sent("postmark", "silent@example.com")
        settings.ANYMAIL = {**settings.ANYMAIL, "POSTMARK_API_URL": "http://127.0.0.1:9/"}
        letters.backend_at.cache_clear()
        age(11)

        assert reconcile.reconcile() == 0
        assert Inquiry.objects.get().error == "ClientConnectorError"

    def test_provider_whose_credentials_are_gone(self, sent, settings):
        sent("postmark", "silent@example.com")
        settings.ANYMAIL = {}
        letters.backend_at.cache_clear()
        age(11)

        assert reconcile.reconcile() == 0
        assert 3000 < silence() <= 3600

    def test_sending_goes_on(self, sent, answering, simulator):
        sent("postmark", "silent@example.com")
        answering(429, Retry_After="300")
        age(11)
        reconcile.reconcile()

        letters.backend_at("anymail.backends.postmark.EmailBackend").api_url = simulator.anymail["POSTMARK_API_URL"]
        message = enqueue()
        sender.drain()

        assert delivery_of(message).status == "sent"

    def test_error_of_our_own_is_counted(self, simulator, sent, monkeypatch):
        [delivery] = sent("postmark", "silent@example.com")
        wait_until(lambda: "Delivery" in simulator.happened(delivery.esp_message_id))
        age(11)

        def refuse(*_):
            raise AssertionError("silent@example.com")

        monkeypatch.setattr(consequences, "draw", refuse)
        assert reconcile.reconcile() == 0

        assert Inquiry.objects.get().error == "AssertionError"
        delivery.refresh_from_db()
        assert delivery.status == "sent"

    def test_database_that_is_away_is_said(self, simulator, sent, monkeypatch):
        [delivery] = sent("postmark", "silent@example.com")
        wait_until(lambda: "Delivery" in simulator.happened(delivery.esp_message_id))
        age(11)

        def gone(*_):
            raise OperationalError

        monkeypatch.setattr(consequences, "draw", gone)
        with pytest.raises(OperationalError):
            reconcile.reconcile()


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
