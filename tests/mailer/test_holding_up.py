"""What must not wait: an answer to be written, an urgent mail behind others, all mail behind something that fails."""

import time
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest
from anymail.signals import pre_send
from django.core.management import call_command
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from mailer import doubts, packing, sender, sweeping
from mailer.kinds import KINDS
from tests.conftest import in_threads, wait_until
from tests.mailer.conftest import ask, change, enqueue, looks, read, signal_receiver
from tests.mailer.held import held
from tests.mailer.test_lanes import backlog

pytestmark = pytest.mark.usefixtures("fresh_courier")


def limit(settings, rate: float = 0.001) -> None:
    """Send welcomes through Resend, which is limited, and all else through Postmark."""
    settings.MAIL_PROVIDERS, settings.MAIL_BATCH_SIZE, settings.MAIL_CONCURRENCY = ["postmark", "resend"], 1, 8
    settings.MAIL_ROUTES, settings.MAIL_RATES = {"welcome": ["resend"]}, {"resend": rate}


# --- Answers --------------------------------------------------------------------------------------------


def test_an_answer_is_written_though_all_that_is_due_waits_for_its_provider(db, simulator, settings):
    limit(settings)
    backlog(1600)
    message = enqueue(kind="account_exists")
    states = []

    def keep_on() -> bool:
        states.append(read(message).state)
        return len(states) < 190 and states[-1] != "sent"

    sender.drain(keep_on)

    # More was due each time it looked but the last.
    assert "sent" in states[:190]


def test_what_waits_for_its_provider_costs_no_query_each(db, simulator, settings):
    limit(settings)
    backlog(1)
    sender.drain(looks(1))  # takes the one token there is

    def queries(count: int) -> int:
        backlog(count)
        with CaptureQueriesContext(connection) as queries:
            sender.drain(looks(1))
        return len(queries)

    few = queries(1)

    assert queries(4) == few


def test_what_is_under_way_is_settled_before_an_error_that_nobody_foresaw_is_told(db, simulator, settings, monkeypatch):
    def fail(_):
        raise RuntimeError("a fork's mistake")

    settings.MAIL_CONCURRENCY, settings.MAIL_BATCH_SIZE = 2, 1
    monkeypatch.setitem(KINDS, "broken", replace(KINDS["verification"], gather=fail))
    simulator.faults(latency_ms=300)
    message = enqueue()
    came = iter([True, lambda: enqueue(kind="broken")])

    def keep_on() -> bool:
        turn = next(came, False)
        return bool(turn() if callable(turn) else turn)

    with pytest.raises(RuntimeError, match="a fork's mistake"):
        sender.drain(keep_on)

    assert read(message).state == "sent"


# --- A lease that is too short for all that was claimed ---------------------------------------------------


@pytest.mark.parametrize("limit", ["HEAVY", "HASTE"])
def test_no_more_is_written_than_can_be_sent_in_time(db, simulator, prefer, monkeypatch, limit):
    prefer("postmark")
    monkeypatch.setattr(packing, limit, 0)
    messages = [enqueue(f"user-{number}@example.com") for number in range(3)]

    sender.drain(looks(1))
    first = len(simulator.accepted())
    sender.drain()

    assert (first, len(simulator.accepted())) == (1, 3)
    assert {(read(message).state, read(message).attempts) for message in messages} == {("sent", 0)}


# --- A worker that was frozen -----------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_request_does_not_leave_once_its_lease_is_over(simulator, settings):
    settings.MAIL_LEASE_SECONDS = 0.2
    message = enqueue()
    late = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND now() - query_start > interval '0.3 s'"
    )
    with psycopg.connect(connection.connection.info.dsn) as other:

        def hold(**_):
            other.execute("SELECT FROM mailer_message WHERE id = %s FOR UPDATE", [message.pk])

        def let_go() -> None:
            wait_until(lambda: ask(late))
            other.rollback()

        # The commit of the intent waits for the row, from when its request is written.
        with signal_receiver(pre_send, hold):
            in_threads(2, lambda number: (let_go, sender.drain)[number]())

    assert simulator.accepted() == []
    assert (read(message).state, read(message).error_class) == ("retry", "LeftTooLate")


# --- Urgent mails -----------------------------------------------------------------------------------------


def test_half_of_a_rate_stays_free_for_what_is_urgent(db, simulator, settings):
    limit(settings, rate=10)
    settings.MAIL_CONCURRENCY = 64
    settings.MAIL_ROUTES["account_exists"] = ["resend"]
    backlog(40)
    sender.drain(looks(1))
    bulk = len(simulator.accepted())
    messages = [enqueue(f"urgent-{number}@example.com", kind="account_exists") for number in range(4)]

    sender.drain(looks(1))

    assert bulk == 5
    assert {read(message).state for message in messages} == {"sent"}


@pytest.mark.django_db(transaction=True)
def test_what_is_urgent_leaves_though_bulk_outlasts_a_shift(settings):
    settings.MAIL_BATCH_SIZE = 1
    backlog(1)

    def watch() -> int:
        provider.wait_for(1, "bulk@")
        wait_until(lambda: time.monotonic() > end)
        backlog(1)
        enqueue("urgent@example.com", kind="account_exists")
        provider.wait_for(1, "urgent@")
        provider.answer()
        return provider.count("bulk@")

    with held(settings, "resend") as provider:
        end = time.monotonic() + 1
        bulk, taken = in_threads(2, lambda number: (watch, lambda: sender.drain(shift=1))[number]())

    assert (bulk, taken) == (1, 2)


# --- What else a relay does ---------------------------------------------------------------------------------


def test_doubts_end_after_a_while_and_go_on_in_the_next_round(db, simulator, monkeypatch):
    monkeypatch.setattr(doubts, "SHIFT", 0.0)
    for message in [enqueue() for _ in range(3)]:
        change(message, state="unknown", inquire_at=Now() - timedelta(hours=1), provider="postmark")

    rounds = [doubts.resolve() for _ in range(4)]

    assert rounds == [1, 1, 1, 0]


def test_a_chore_that_fails_holds_up_no_mail(db, simulator, monkeypatch):
    monkeypatch.setitem(sweeping.CHORES, "broken", "builtins.breakpoint_that_is_none")
    message = enqueue()

    call_command("relay", "--once")

    assert read(message).state == "sent"
