"""Requests that report too much to be read before they are answered."""

import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from celery import current_app
from django.conf import settings as configured
from django.db import connection
from django.db.models.functions import Now

from mailer import sweeping
from mailer.doorbell import Hint, Ringer
from mailer.management.commands import relay
from mailer.models import DeliveryEvent
from tests.conftest import in_threads
from tests.webhooks import payloads
from tests.webhooks.conftest import delivery_of
from webhooks import inbox, later, replaying, retention, tasks
from webhooks.models import WebhookReceipt
from webhooks.providers import WEBHOOKS
from webhooks.providers.base import listed

pytestmark = pytest.mark.django_db
AT_ONCE = 3


@pytest.fixture(autouse=True)
def _few_at_once(settings, monkeypatch):
    settings.WEBHOOK_AT_ONCE = AT_ONCE
    monkeypatch.setitem(WEBHOOKS, "postmark", replace(WEBHOOKS["postmark"], parts=listed))


def opens(message, count):
    """Return so many events about a mail, of which the last is its delivery."""
    clues = {"MessageID": f"id of {message.pk}", "Recipient": message.deliveries.get().recipient}
    times = [f"2026-11-02T10:00:{second:02}Z" for second in range(count - 1)]
    return [
        *(payloads.postmark("Open", message, ReceivedAt=time, **clues) for time in times),
        payloads.postmark("Delivery", message, **clues),
    ]


def state():
    receipt = WebhookReceipt.objects.get()
    return receipt.state, receipt.events, receipt.new_events, receipt.attempts


def test_what_can_be_read_at_once_is(post_postmark, sent):
    message = sent("postmark")

    post_postmark(opens(message, AT_ONCE))

    assert state() == ("processed", AT_ONCE, AT_ONCE, 0)
    assert delivery_of(message).status == "delivered"


def test_what_is_more_is_stored_answered_and_left_unread(post_postmark, sent):
    message = sent("postmark")

    answer = post_postmark(opens(message, AT_ONCE + 1))

    assert answer.status_code == 200
    assert state() == ("waiting", AT_ONCE + 1, 0, 0)
    assert not DeliveryEvent.objects.filter(source="webhook").exists()


def test_a_worker_reads_it(post_postmark, sent):
    message = sent("postmark")
    post_postmark(opens(message, 5))

    assert tasks.read() == 1

    receipt = WebhookReceipt.objects.get()
    assert (state(), receipt.run_at) == (("processed", 5, 5, 1), None)
    delivery = delivery_of(message)
    assert (delivery.status, delivery.open_count) == ("delivered", 4)
    assert tasks.read() == 0


def test_the_sweep_reads_what_nobody_was_rung_for(post_postmark, sent):
    post_postmark(opens(sent("postmark"), 5))

    assert sweeping.sweep()["receipts"] == 1
    assert state() == ("processed", 5, 5, 1)


@pytest.mark.django_db(transaction=True)
def test_a_relay_goes_on_while_there_is_something_to_read(monkeypatch):
    left, stop = [1, 1, 0], threading.Event()
    monkeypatch.setattr(later, "read_due", lambda: left.pop(0))
    monkeypatch.setattr(relay, "_notified", lambda _session: stop.set() or True)

    relay.Command._serve(stop, 1.0, None)

    assert left == []


def test_a_worker_is_rung_for_once_it_is_stored(post_postmark, sent, monkeypatch, django_capture_on_commit_callbacks):
    rung = threading.Event()
    monkeypatch.setattr(inbox.READING, "_ringer", Ringer(rung.set))
    message = sent("postmark")

    with django_capture_on_commit_callbacks() as callbacks:
        post_postmark(opens(message, AT_ONCE))
    for callback in callbacks:
        callback()
    assert not inbox.READING._ringer._thread

    with django_capture_on_commit_callbacks() as callbacks:
        post_postmark(opens(message, AT_ONCE + 1))
    assert not inbox.READING._ringer._thread
    for callback in callbacks:
        callback()
    assert rung.wait(30)


def test_the_worker_knows_the_task_that_is_rung_for():
    task = current_app.tasks[inbox.READING.task]

    assert (task, isinstance(task, Hint)) == (tasks.read, True)
    assert current_app.amqp.router.route({}, task.name)["queue"].name == configured.READING_QUEUE


def test_a_worker_that_has_read_long_enough_rings_for_the_rest(post_postmark, sent, monkeypatch):
    rung = threading.Event()
    monkeypatch.setattr(inbox.READING, "_ringer", Ringer(rung.set))
    monkeypatch.setattr(later, "SHIFT", 0.0)
    for number in range(2):
        post_postmark(opens(sent("postmark", recipient=f"{number}@example.com"), 5))

    assert tasks.read() == 1
    # What it has not begun with is as it was.
    assert WebhookReceipt.objects.filter(state="waiting", attempts=0).count() == 1
    assert rung.wait(30)


def fail(_facts):
    raise AssertionError


def take_too_long(_facts):
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = 1")
        cursor.execute("SELECT pg_sleep(30)")


@pytest.mark.parametrize("broken", [fail, take_too_long])
def test_one_that_fails_keeps_no_other_waiting(post_postmark, sent, monkeypatch, broken):
    for number in range(3):
        post_postmark(opens(sent("postmark", recipient=f"{number}@example.com"), 5))
    record, calls = inbox.ledger.record, []

    def fail_first(facts):
        calls.append(facts)
        return broken(facts) if len(calls) == 1 else record(facts)

    monkeypatch.setattr(inbox.ledger, "record", fail_first)

    assert tasks.read() == 2
    assert sorted(WebhookReceipt.objects.values_list("state", flat=True)) == ["processed", "processed", "retry"]


def test_what_says_no_time_happened_when_it_came(post_postmark, sent):
    event = payloads.postmark("Open", sent("postmark"))
    del event["ReceivedAt"]
    post_postmark([event] * 5)
    WebhookReceipt.objects.update(received_at=Now() - timedelta(hours=1))

    later.read_due()

    [recorded] = DeliveryEvent.objects.filter(source="webhook")
    assert recorded.occurred_at == WebhookReceipt.objects.get().received_at


def test_what_waits_may_be_replayed_and_is_read_no_more(post_postmark, sent):
    message = sent("postmark")
    post_postmark(opens(message, 5))
    waiting = replaying.Selection(states=["waiting"])

    [rehearsed] = replaying.replay(waiting, dry_run=True)
    before = state()
    [done] = replaying.replay(waiting)

    assert ([change.new_status for change in rehearsed.changes], before) == (["delivered"], ("waiting", 5, 0, 0))
    assert (done.new_events, done.failures, state()) == (5, {}, ("processed", 5, 5, 0))
    assert (later.read_due(), delivery_of(message).open_count) == (0, 4)


def test_what_waits_is_kept_however_old_it_is(post_postmark, sent):
    post_postmark(opens(sent("postmark"), 5))
    WebhookReceipt.objects.update(received_at=Now() - timedelta(days=90))

    retention.cleanup(retention.rules())

    assert state() == ("waiting", 5, 0, 0)


def test_what_waits_is_erased_with_what_it_says(post_postmark, sent):
    post_postmark(opens(sent("postmark", recipient="ada@example.com"), 5))

    erased = retention.erase("ada@example.com")

    assert (erased.receipts, erased.waiting) == (1, 0)
    assert not WebhookReceipt.objects.exists()
    assert not DeliveryEvent.objects.filter(recipient_canonical="ada@example.com").exists()


def test_one_whose_reader_died_is_read_a_minute_later(post_postmark, sent, monkeypatch):
    message = sent("postmark")
    post_postmark(opens(message, 5))

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(inbox, "record_all", die)
        with pytest.raises(KeyboardInterrupt):
            later.read_due()

    assert (state(), later.read_due()) == (("waiting", 5, 0, 1), 0)
    # By the clock of the take, half as long again at most.
    put_off = {"run_at__gt": Now() + timedelta(seconds=50), "run_at__lt": Now() + timedelta(seconds=91)}
    assert WebhookReceipt.objects.filter(**put_off).update(run_at=Now() - timedelta(hours=1)) == 1
    assert later.read_due() == 1
    assert (state(), delivery_of(message).status) == (("processed", 5, 5, 2), "delivered")


def test_one_whose_readers_all_died_is_poison_and_says_so(post_postmark, sent):
    post_postmark(opens(sent("postmark"), 5))
    WebhookReceipt.objects.update(attempts=len(inbox.DELAYS))

    assert later.read_due() == 0

    receipt = WebhookReceipt.objects.get()
    assert (receipt.state, receipt.run_at, receipt.error) == ("poison", None, "unfinished")


def test_one_that_cannot_be_recorded_is_tried_again_as_others_are(post_postmark, sent, monkeypatch):
    post_postmark(opens(sent("postmark"), 5))

    monkeypatch.setattr(inbox.ledger, "record", fail)
    assert later.read_due() == 0

    receipt = WebhookReceipt.objects.get()
    assert (receipt.state, receipt.error, receipt.attempts) == ("retry", "AssertionError", 1)


def test_one_that_says_nothing_that_can_be_read_is_poison_once_a_worker_looks(post_postmark):
    post_postmark(["nonsense"] * 5)

    later.read_due()

    receipt = WebhookReceipt.objects.get()
    assert (receipt.state, receipt.unreadable, receipt.events) == ("poison", 5, 0)


def test_the_same_again_is_no_news(post_postmark, sent):
    message = sent("postmark")
    for _ in range(2):
        post_postmark(opens(message, 5))
        later.read_due()

    assert sorted(WebhookReceipt.objects.values_list("state", "new_events")) == [("processed", 0), ("processed", 5)]
    assert delivery_of(message).open_count == 4


@pytest.mark.django_db(transaction=True)
def test_each_is_read_by_one_of_many(post_postmark, sent):
    messages = [sent("postmark", recipient=f"{number}@example.com") for number in range(6)]
    for message in messages:
        post_postmark(opens(message, 5))

    assert sum(in_threads(4, lambda _: tasks.read())) == 6
    assert sorted(WebhookReceipt.objects.values_list("state", "new_events")) == [("processed", 5)] * 6
