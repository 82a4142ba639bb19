"""Batches for which one key holds: kept as they were sent, and repeated so until they are answered."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import OperationalError, connections
from django.db.models.functions import Now

from mailer import batches, doubts, letters, outbox, routing, sender, sweeping
from mailer.models import Attempt, Batch, DeliveryStatus, Message, ProviderState
from tests.mailer.conftest import ask, delivery_of, enqueue, make_due, read, run
from tests.mailer.kept import COUNT, REFUSED, ids_at, left_in_doubt, repeat, requests, several, states

# What happens to the first request, and how many of it are accepted before it is repeated.
FAULTS = pytest.mark.parametrize(
    ("fault", "accepted"),
    [("rate_reset_after", COUNT), ("rate_5xx_after", COUNT), ("rate_reset_before", 0), ("rate_5xx_before", 0)],
)

# --- Kept, and let go -----------------------------------------------------------------------------------


def test_what_is_answered_is_kept_no_longer(db, resend):
    messages = several()

    sender.drain()

    assert requests(resend) == [(COUNT, "accepted")]
    assert states() == {"sent": COUNT}
    assert ids_at(resend) == {str(each.pk): delivery_of(each).esp_message_id for each in messages}
    assert not Batch.objects.exists()
    assert Attempt.objects.exclude(batch_id=None).count() == COUNT


def test_what_is_throttled_is_kept_no_longer_and_goes_in_another_batch(db, resend):
    left_in_doubt(resend, "rate_429")

    assert states() == {"retry": COUNT}
    assert not Batch.objects.exists()
    make_due()
    sender.drain()

    assert requests(resend) == [(COUNT, "429"), (COUNT, "accepted")]
    assert len(set(Attempt.objects.values_list("batch_id", flat=True))) == 2


def test_more_than_a_batch_holds_go_in_several(db, resend, settings):
    settings.MAIL_BATCH_SIZE = 10
    several(20, kind="account_exists")  # there are slots for both

    sender.drain()

    assert requests(resend) == [(10, "accepted")] * 2
    assert not Batch.objects.exists()


def test_fewer_than_are_worth_it_go_alone_under_their_own_keys(db, resend):
    messages = several(3)

    sender.drain()

    assert requests(resend) == [(1, "accepted")] * 3
    assert {mail["idempotency_key"] for mail in resend.accepted()} == {str(each.pk) for each in messages}


def test_batch_has_its_id_for_a_key_and_its_messages_in_order(db, resend):
    left_in_doubt(resend, "rate_reset_after")

    batch = Batch.objects.get()
    assert {mail["idempotency_key"] for mail in resend.accepted()} == {str(batch.pk)}
    assert [mail["metadata"]["message_id"] for mail in resend.accepted()] == list(map(str, batch.message_ids))
    assert set(Attempt.objects.values_list("batch_id", flat=True)) == {batch.pk}


# --- Repeated -------------------------------------------------------------------------------------------


@FAULTS
def test_what_got_no_answer_is_repeated_as_it_was(db, resend, fault, accepted):
    messages = left_in_doubt(resend, fault)
    assert states() == {"unknown": COUNT}
    assert set(Message.objects.values_list("inquire_at", flat=True)) == {None}
    assert len(resend.accepted()) == accepted

    assert repeat() == 1

    assert states() == {"sent": COUNT}
    assert len(resend.accepted()) == COUNT
    assert requests(resend)[-1] == (COUNT, "repeated" if accepted else "accepted")
    assert ids_at(resend) == {str(each.pk): delivery_of(each).esp_message_id for each in messages}
    assert set(DeliveryStatus.objects.values_list("status", flat=True)) == {"sent"}
    assert not Batch.objects.exists()


def test_each_repeat_has_an_intent_of_its_own(db, resend):
    left_in_doubt(resend, "rate_reset_before")
    repeat()

    outcomes = Attempt.objects.order_by("token").values_list("token", "outcome")
    assert Counter(outcomes) == {(1, "ambiguous"): COUNT, (2, "accepted"): COUNT}


def test_it_is_repeated_until_it_is_answered(db, resend):
    left_in_doubt(resend, "rate_reset_after")
    resend.faults(rate_5xx_after=1)
    for _ in range(3):
        assert repeat() == 1
        assert states() == {"unknown": COUNT}
        ProviderState.objects.all().delete()
    assert Batch.objects.get().repeats == 3

    resend.faults()
    repeat()

    assert states() == {"sent": COUNT}
    assert len(resend.accepted()) == COUNT


def test_it_waits_between_repeats_and_for_longer_each_time(db, resend, monkeypatch):
    left_in_doubt(resend, "rate_reset_after")
    [batch] = Batch.objects.all()
    monkeypatch.setattr(batches, "LONGEST", 500.0)
    for repeats, longest in ((0, 2), (3, 16), (7, 256), (12, 500)):
        waits = []
        for _ in range(50):
            Batch.objects.update(repeats=repeats)
            batches.answered([batch.pk])
            waits.append(ask("SELECT extract(epoch FROM repeat_at - now()) FROM mailer_batch"))
        assert longest / 2 < max(waits) <= longest
    Batch.objects.update(repeat_at=Now() + timedelta(seconds=5))
    assert batches.resolve() == 0


@pytest.mark.usefixtures("left_by_a_dead_worker")
def test_what_a_dead_worker_left_is_repeated(resend):
    assert states() == {"sending": COUNT}
    assert sweeping.sweep() == {"unknown": COUNT}
    assert set(Message.objects.values_list("inquire_at", flat=True)) == {None}
    run("UPDATE mailer_batch SET repeat_at = now()")

    doubts.resolve()

    assert states() == {"sent": COUNT}
    assert requests(resend) == [(COUNT, "accepted")]


@pytest.mark.usefixtures("left_by_a_dead_worker")
def test_what_its_worker_may_still_send_is_left_alone(resend):
    Message.objects.update(lease_until=Now() + timedelta(minutes=1))

    assert repeat() == 1

    assert requests(resend) == []
    assert states() == {"sending": COUNT}
    assert Batch.objects.get().repeat_at > Message.objects.values_list(Now(), flat=True)[0]


def test_one_that_was_refused_is_told_so_by_the_repeat(db, resend):
    refused = enqueue("eve@example.com", content=REFUSED)
    sound = left_in_doubt(resend, "rate_reset_after")
    assert states() == {"unknown": COUNT + 1}

    repeat()

    assert (read(refused).state, delivery_of(refused).status) == ("dead", "failed")
    assert {(read(each).state, delivery_of(each).status) for each in sound} == {("sent", "sent")}
    assert not Batch.objects.exists()


def test_an_answer_that_cannot_be_read_is_asked_for_again(db, resend):
    refused = enqueue("eve@example.com", content=REFUSED)
    left_in_doubt(resend, "rate_unreadable")
    assert states() == {"unknown": COUNT + 1}
    assert not ProviderState.objects.exclude(reason="").exists()

    repeat()

    assert (read(refused).state, delivery_of(refused).status) == ("dead", "failed")
    assert states() == {"dead": 1, "sent": COUNT}


def test_what_is_taken_again_and_again_and_never_said_of_whom_is_taken(db, resend):
    left_in_doubt(resend, "rate_unreadable")
    resend.faults(rate_unreadable=1)
    for _ in range(batches.PATIENCE - 1):
        repeat()
        assert states() == {"unknown": COUNT}

    repeat()

    assert states() == {"sent": COUNT}
    assert len(resend.accepted()) == COUNT
    assert not Batch.objects.exists()


def test_a_throttled_repeat_leaves_the_provider_alone(db, resend):
    left_in_doubt(resend, "rate_reset_after")
    resend.faults(rate_429=1)

    assert repeat() == 1

    assert states() == {"unknown": COUNT}
    assert not routing.is_open()
    attempts = Attempt.objects.count()
    assert repeat() == 1
    assert Attempt.objects.count() == attempts
    resend.faults()
    ProviderState.objects.all().delete()
    assert repeat() == 1
    assert states() == {"sent": COUNT}


def test_a_repeat_that_never_left_changes_nothing(db, resend, settings):
    left_in_doubt(resend, "rate_reset_after")
    settings.ANYMAIL = {**settings.ANYMAIL, "RESEND_API_URL": "https://127.0.0.1:9/resend/"}
    letters.backend_at.cache_clear()

    repeat()

    assert states() == {"unknown": COUNT}
    assert Counter(Attempt.objects.values_list("outcome", flat=True)) == {"ambiguous": COUNT, "not_sent": COUNT}
    assert Batch.objects.exists()


@pytest.mark.parametrize("status", [401, 403])
def test_a_repeat_that_is_refused_for_who_we_are_waits(db, resend, answering, status):
    left_in_doubt(resend, "rate_reset_after")
    answering("resend", status, b'{"name": "restricted_api_key"}')

    repeat()

    assert states() == {"unknown": COUNT}
    assert ProviderState.objects.get().reason == "refused"
    assert Batch.objects.exists()


def test_a_silent_provider_is_asked_once_a_round(db, resend, answering):
    for _ in range(3):
        left_in_doubt(resend, "rate_reset_before")
    answering("resend", None)

    assert repeat() == 1

    assert ProviderState.objects.get().failures == 1
    assert Attempt.objects.filter(token=2).count() == COUNT


def test_a_database_that_is_lost_for_a_while_costs_nothing(transactional_db, resend, monkeypatch):
    left_in_doubt(resend, "rate_reset_after")
    settle, lost = outbox.settle, iter([True, True, False])

    def settle_at_last(outcomes):
        if next(lost):
            raise OperationalError("the connection is lost")
        settle(outcomes)

    monkeypatch.setattr(outbox, "settle", settle_at_last)

    repeat()

    assert states() == {"sent": COUNT}


def test_of_two_processes_one_repeats(transactional_db, resend):
    left_in_doubt(resend, "rate_reset_before")
    resend.faults(latency_ms=300)
    run("UPDATE mailer_batch SET repeat_at = now()")

    def resolve(_):
        try:
            return batches.resolve()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(resolve, range(2))) == [0, 1]

    assert requests(resend)[1:] == [(COUNT, "accepted")]
    assert states() == {"sent": COUNT}


# --- What is known of some of them meanwhile ------------------------------------------------------------


def test_what_a_webhook_has_confirmed_stays_in_the_repeat(db, resend):
    first, *others = left_in_doubt(resend, "rate_reset_after")
    assert doubts.confirm("resend", [first.pk]) == 1

    repeat()

    assert states() == {"sent": COUNT}
    assert requests(resend)[-1] == (COUNT, "repeated")
    assert all(delivery_of(each).esp_message_id for each in others)
    # The provider was asked about it, too.
    assert Attempt.objects.filter(message=first).count() == 2


def test_once_all_are_confirmed_there_is_nothing_to_repeat(db, resend):
    messages = left_in_doubt(resend, "rate_reset_after")
    doubts.confirm("resend", [each.pk for each in messages])

    repeat()

    assert requests(resend) == [(COUNT, "reset_after")]
    assert not Batch.objects.exists()


def test_what_was_answered_by_a_process_that_died_is_not_repeated(db, resend):
    left_in_doubt(resend, "rate_reset_before")
    Message.objects.update(state="sent", finished_at=Now())

    repeat()

    assert len(requests(resend)) == 1
    assert not Batch.objects.exists()


def test_a_batch_whose_messages_went_on_without_it_is_not_repeated(db, resend):
    """The answer that it was throttled was written; the process died before it let the batch go."""
    left_in_doubt(resend, "rate_reset_before")
    [old] = Batch.objects.values()
    Batch.objects.all().delete()
    Message.objects.update(state="retry", attempts=0, first_ambiguous_at=None, provider="")
    make_due()
    resend.faults(rate_reset_after=1)
    sender.drain()
    resend.faults()
    ProviderState.objects.all().delete()
    Batch.objects.create(**old)

    assert repeat() == 2

    assert states() == {"sent": COUNT}
    assert len(resend.accepted()) == COUNT
    assert not Batch.objects.exists()
