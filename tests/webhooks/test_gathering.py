"""Requests that come at the same time: answered together, and each as if it had come alone."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from django.db import OperationalError

from mailer.models import DeliveryEvent
from tests.webhooks import payloads
from tests.webhooks.conftest import POSTMARK_SECRETS, RESEND_SECRETS, basic, encoded, signed
from webhooks import door, gathering, inbox
from webhooks.door import TAKEN, Arrival
from webhooks.gathering import Gathering
from webhooks.models import Nonce, WebhookReceipt
from webhooks.providers import WEBHOOKS, Incoming, Proof
from webhooks.providers.base import listed


def arrival(payload, *, credentials=POSTMARK_SECRETS[0], **headers):
    lower = {name.lower(): value for name, value in {**basic(credentials), **headers}.items()}
    return Arrival(Incoming(lower, encoded(payload)), request_id="a-request")


def delivery(number):
    return payloads.postmark("Delivery", MessageID=f"mail-{number}")


def statuses(*arrivals, esp="postmark"):
    return [answer.status for answer in door.answers(esp, arrivals)]


@pytest.fixture
def named(monkeypatch):
    """Have Postmark's requests carry a name in a header that no signature covers."""
    monkeypatch.setitem(
        WEBHOOKS,
        "postmark",
        replace(WEBHOOKS["postmark"], verify=lambda incoming, _: Proof(nonce=incoming.headers.get("x-name", ""))),
    )


@pytest.mark.django_db(transaction=True)
class TestTogether:
    def test_requests_are_recorded_in_one_transaction(self):
        assert statuses(*map(arrival, map(delivery, range(3)))) == [200, 200, 200]

        receipts = WebhookReceipt.objects.all()
        assert [(receipt.events, receipt.new_events, receipt.state) for receipt in receipts] == [
            (1, 1, "processed")
        ] * 3
        assert len({receipt.received_at for receipt in receipts}) == 1
        assert {receipt.request_id for receipt in receipts} == {"a-request"}
        assert DeliveryEvent.objects.count() == 3

    def test_forged_one_is_refused_alone(self):
        forged = arrival(delivery(1), credentials="hook:wrong")

        assert statuses(arrival(delivery(0)), forged, arrival(delivery(2))) == [200, 401, 200]
        assert WebhookReceipt.objects.count() == 2

    def test_encoded_one_and_one_with_too_many_events_are_refused_alone(self, settings, monkeypatch):
        settings.WEBHOOK_MAX_EVENTS = 2
        monkeypatch.setitem(WEBHOOKS, "postmark", replace(WEBHOOKS["postmark"], parts=listed))
        crowd = arrival([delivery(number) for number in range(3)])
        encoded_one = arrival(delivery(1), **{"Content-Encoding": "gzip"})

        assert statuses(arrival(delivery(0)), crowd, encoded_one) == [200, 413, 415]
        assert WebhookReceipt.objects.count() == 1

    def test_one_that_cannot_be_recorded_waits_alone(self, monkeypatch):
        def judge(event):
            if event.message_id == "mail-1":
                raise AssertionError
            return judged(event)

        judged = WEBHOOKS["postmark"].judge
        monkeypatch.setitem(WEBHOOKS, "postmark", replace(WEBHOOKS["postmark"], judge=judge))

        assert statuses(*map(arrival, map(delivery, range(3)))) == [200, 200, 200]
        states = dict(WebhookReceipt.objects.values_list("events", "state"))
        assert states == {1: "processed", 0: "retry"}
        assert WebhookReceipt.objects.count() == 3
        assert DeliveryEvent.objects.count() == 2

    def test_same_event_twice_is_news_once(self):
        assert statuses(arrival(delivery(0)), arrival(delivery(0))) == [200, 200]

        assert sorted(WebhookReceipt.objects.values_list("events", "new_events")) == [(1, 0), (1, 1)]
        event = DeliveryEvent.objects.get()
        assert event.receipt_id == WebhookReceipt.objects.get(new_events=1).pk

    def test_name_that_comes_with_two_bodies_is_bound_to_the_first(self, named):
        answered = statuses(
            arrival(delivery(0), **{"X-Name": "a"}),
            arrival(delivery(1), **{"X-Name": "a"}),
            arrival(delivery(0), **{"X-Name": "a"}),
            arrival(delivery(2), **{"X-Name": "b"}),
        )

        assert answered == [200, 401, 200, 200]
        assert Nonce.objects.count() == 2
        assert set(DeliveryEvent.objects.values_list("esp_message_id", flat=True)) == {"mail-0", "mail-2"}

    def test_requests_without_a_database_all_come_again(self, monkeypatch):
        def lose(*_):
            raise OperationalError

        monkeypatch.setattr(inbox, "record_all", lose)

        answers = door.answers("postmark", [arrival(delivery(0)), arrival(delivery(1), credentials="hook:wrong")])

        assert [answer.status for answer in answers] == [503, 401]
        assert "Retry-After" in answers[0].headers
        assert not WebhookReceipt.objects.exists()


class Thread:
    """The thread that answers, with what it was given, held back until `go` is called."""

    def __init__(self, monkeypatch):
        self.groups = []
        self._held = threading.Semaphore(0)
        monkeypatch.setattr(gathering, "_answers", self._answer)

    def _answer(self, esp, arrivals):
        self._held.acquire()
        self.groups.append((esp, [bytes(each.incoming.body) for each in arrivals]))
        return [TAKEN] * len(arrivals)

    def go(self, times=1):
        self._held.release(times)


@pytest.fixture
def thread(monkeypatch):
    return Thread(monkeypatch)


def gathered(thread, *requests, times=10):
    """Ask with all requests at once; return the groups that they were answered in."""

    async def play():
        with ThreadPoolExecutor(1) as executor:
            ours = Gathering(executor)
            asked = [asyncio.create_task(ours.answer(esp, Arrival(Incoming({}, body)))) for esp, body in requests]
            await asyncio.sleep(0)
            thread.go(times)
            return await asyncio.gather(*asked)

    assert asyncio.run(play()) == [TAKEN] * len(requests)
    return thread.groups


class TestGroups:
    def test_those_that_come_while_one_is_answered_are_answered_together(self, thread):
        groups = gathered(thread, *(("postmark", body) for body in (b"0", b"1", b"2", b"3")))

        assert groups == [("postmark", [b"0"]), ("postmark", [b"1", b"2", b"3"])]

    def test_a_group_has_one_provider(self, thread):
        groups = gathered(thread, *((esp, b"x") for esp in ("resend", "postmark", "postmark", "resend", "postmark")))

        assert [(esp, len(bodies)) for esp, bodies in groups] == [
            ("resend", 1),
            ("postmark", 2),
            ("resend", 1),
            ("postmark", 1),
        ]

    def test_a_group_has_so_many_requests_and_bytes_at_most(self, thread, monkeypatch):
        monkeypatch.setattr(gathering, "MOST", 3)
        monkeypatch.setattr(gathering, "MOST_BYTES", 10)

        groups = gathered(thread, *(("postmark", body) for body in (b"x", b"x", b"x", b"x", b"x", b"x" * 9, b"x" * 11)))

        assert [[len(body) for body in bodies] for _, bodies in groups] == [[1], [1, 1, 1], [1, 9], [11]]

    def test_who_has_left_harms_nobody(self, thread):
        async def play():
            with ThreadPoolExecutor(1) as executor:
                ours = Gathering(executor)
                asked = [
                    asyncio.create_task(ours.answer("postmark", Arrival(Incoming({}, body)))) for body in (b"0", b"1")
                ]
                await asyncio.sleep(0)
                asked[0].cancel()
                thread.go(2)
                return await asyncio.gather(*asked, return_exceptions=True)

        left, answer = asyncio.run(play())

        assert isinstance(left, asyncio.CancelledError)
        assert answer == TAKEN

    def test_error_reaches_all_of_a_group_and_the_next_one_is_answered(self, monkeypatch):
        def fail(_esp, arrivals):
            if arrivals[0].incoming.body == b"bad":
                raise ZeroDivisionError
            return [TAKEN] * len(arrivals)

        monkeypatch.setattr(gathering, "_answers", fail)

        async def play():
            with ThreadPoolExecutor(1) as executor:
                ours = Gathering(executor)
                asked = [ours.answer(esp, Arrival(Incoming({}, b))) for esp, b in (("a", b"bad"), ("b", b"good"))]
                return await asyncio.gather(*asked, return_exceptions=True)

        failed, answer = asyncio.run(play())

        assert isinstance(failed, ZeroDivisionError)
        assert answer == TAKEN


@pytest.mark.parametrize(
    ("esp", "size", "taken"),
    [
        ("postmark", 0, True),
        ("postmark", gathering.SMALL, True),
        ("postmark", gathering.SMALL + 1, False),
        ("amazon_ses", 1, False),  # its certificate may have to be fetched
        ("nobody", 1, False),
    ],
)
def test_what_is_gathered(esp, size, taken, settings):
    settings.WEBHOOK_SECRETS = {"postmark": POSTMARK_SECRETS, "resend": RESEND_SECRETS, "amazon_ses": ["arn"]}

    assert Gathering.takes(esp, size) is taken


def test_only_those_wait_for_the_network_that_say_so():
    assert [name for name, webhook in WEBHOOKS.items() if webhook.fetches] == ["amazon_ses"]


@pytest.mark.django_db(transaction=True)
def test_signature_is_verified_for_each_request_of_a_group():
    bodies = [encoded(payloads.resend("email.sent")) for _ in range(2)]
    [good, bad] = [signed(body) for body in bodies]
    arrivals = [Arrival(Incoming(good, bodies[0])), Arrival(Incoming(bad, bodies[1] + b" "))]

    assert statuses(*arrivals, esp="resend") == [200, 401]
