"""Providers that cannot be asked now, or answer oddly: at one that answers as a test says."""

import threading
from datetime import timedelta

import pytest
from django.contrib.postgres.functions import TransactionNow
from django.db import OperationalError

from mailer import couriers, letters, sender
from mailer.models import DeliveryStatus
from tests.conftest import wait_until
from tests.mailer import tiny
from tests.mailer.conftest import delivery_of, enqueue
from tests.webhooks.reconcile.conftest import age, due_in, silence
from webhooks import consequences, reconcile
from webhooks.models import Inquiry

pytestmark = pytest.mark.django_db


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
