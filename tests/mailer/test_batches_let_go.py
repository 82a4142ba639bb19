"""Batches for which one key holds: they are let go where a repeat could be a second mail."""

from collections import Counter
from datetime import timedelta

import pytest
from django.db.models.functions import Now
from uuid_utils.compat import uuid7

from mailer import batches, doubts, operators, outbox, retention, sender, sweeping
from mailer.models import Attempt, Batch, DeliveryStatus, Message, ProviderState
from tests.mailer.conftest import ask, change, enqueue, make_due, open_delivery, run
from tests.mailer.kept import COUNT, left_in_doubt, repeat, requests, several, states


def mails_of(simulator) -> set[int]:
    """Return how many mails each recipient got."""
    return set(Counter(address for mail in simulator.accepted() for address in mail["to"]).values())


# --- When a repeat could be a second mail ---------------------------------------------------------------


def released() -> dict[str, int]:
    """Repeat, look into what is let go, and return the states."""
    assert repeat() == 1
    assert not Batch.objects.exists()
    doubts.resolve()
    return states()


@pytest.mark.parametrize(("kind", "state"), [("welcome", "unknown"), ("account_exists", "retry")])
def test_once_the_key_is_no_more_each_goes_by_its_kind(db, resend, kind, state):
    left_in_doubt(resend, "rate_reset_after", kind=kind)
    run("UPDATE mailer_batch SET started_at = now() - interval '23 hours'")

    assert released() == {state: COUNT}

    assert len(requests(resend)) == 1


def test_just_before_it_is_repeated(db, resend):
    left_in_doubt(resend, "rate_reset_after")
    run("UPDATE mailer_batch SET started_at = now() - interval '22 hours 59 minutes'")

    repeat()

    assert states() == {"sent": COUNT}


def test_what_was_erased_meanwhile_is_not_sent_again(db, resend):
    left_in_doubt(resend, "rate_reset_before")
    retention.erase("user-0@example.com")

    assert released() == {"cancelled": 1, "unknown": COUNT - 1}

    assert len(requests(resend)) == 1


def test_what_kills_the_workers_is_repeated_no_more(db, resend):
    first, *_ = left_in_doubt(resend, "rate_reset_before")
    change(first, crashes=sweeping.MAX_CRASHES)

    assert released() == {"unknown": COUNT}

    assert len(requests(resend)) == 1


def test_what_has_expired_is_repeated_with_what_has_not(db, resend):
    first, *_ = left_in_doubt(resend, "rate_reset_after")
    change(first, expires_at=Now() - timedelta(seconds=1))

    repeat()

    assert states() == {"sent": COUNT}


def test_once_all_have_expired_nothing_is_repeated(db, resend):
    left_in_doubt(resend, "rate_reset_before")
    Message.objects.update(expires_at=Now() - timedelta(seconds=1))

    assert released() == {"unknown": COUNT}

    assert len(requests(resend)) == 1


def test_what_goes_on_alone_after_that_has_a_key_of_its_own(db, resend):
    messages = left_in_doubt(resend, "rate_reset_before", kind="account_exists")
    run("UPDATE mailer_batch SET started_at = now() - interval '23 hours'")
    released()

    sender.drain()

    assert {mail["idempotency_key"] for mail in resend.accepted()} == {str(each.pk) for each in messages}
    assert states() == {"sent": COUNT}


def test_an_operator_cannot_send_again_what_will_be_repeated(db, resend):
    messages = left_in_doubt(resend, "rate_reset_after")
    ids = [each.pk for each in messages]

    assert operators.retry(ids) == []

    run("UPDATE mailer_batch SET started_at = now() - interval '23 hours'")
    released()
    assert sorted(operators.retry(ids)) == sorted(ids)


@pytest.mark.usefixtures("left_by_a_dead_worker")
def test_a_lapsed_lease_whose_batch_is_gone_is_looked_into():
    Batch.objects.all().delete()

    assert sweeping.sweep() == {"unknown": COUNT}

    assert Message.objects.filter(inquire_at=None).count() == 0


def test_messages_that_parted_ways_are_not_repeated_together(db, resend, monkeypatch):
    """The answer that it was throttled came as the leases ran out, and the sweep had moved the half of them."""
    several()
    settle = outbox.settle

    def settle_late(outcomes):
        early = Message.objects.filter(state="sending").values_list("pk", flat=True)[: COUNT // 2]
        Message.objects.filter(pk__in=list(early)).update(lease_until=Now() - timedelta(seconds=1))
        sweeping.sweep()
        settle(outcomes)

    resend.faults(rate_429=1)
    with monkeypatch.context() as patched:
        patched.setattr(outbox, "settle", settle_late)
        sender.drain()
    resend.faults()
    ProviderState.objects.all().delete()
    assert states() == {"retry": COUNT // 2, "unknown": COUNT // 2}
    make_due()
    sender.drain()

    assert released() == {"sent": COUNT // 2, "unknown": COUNT // 2}

    assert mails_of(resend) == {1}


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_is_refused_as_a_whole_is_let_go(db, resend, answering, status):
    left_in_doubt(resend, "rate_reset_before", kind="account_exists")
    answering("resend", status, b'{"name": "validation_error", "message": "too large"}')

    assert released() == {"retry": COUNT}

    assert not ProviderState.objects.exclude(reason="").exists()


def test_whoever_comes_late_finds_it_gone(db, resend):
    left_in_doubt(resend, "rate_reset_before")
    run("UPDATE mailer_batch SET repeat_at = now()")
    late = batches._take([])
    run("UPDATE mailer_batch SET started_at = now() - interval '23 hours'")
    released()

    batches._resolve(late, set())

    assert len(requests(resend)) == 1
    assert Attempt.objects.count() == COUNT


def test_it_is_let_go_while_its_provider_is_left_alone(db, resend):
    left_in_doubt(resend, "rate_reset_before")
    run("UPDATE mailer_batch SET started_at = now() - interval '23 hours'")
    ProviderState.objects.create(name="resend", reason="refused", blocked_until=Now() + timedelta(minutes=1))

    assert released() == {"unknown": COUNT}


def test_a_mail_to_several_is_not_repeated_once_one_was_erased(db, resend):
    shared = enqueue("user-0@example.com")
    open_delivery(shared, "bob@example.com")
    left_in_doubt(resend, "rate_reset_before")
    run("UPDATE mailer_batch SET repeat_at = now() + interval '1 hour'")
    retention.erase("bob@example.com")
    assert ask("SELECT (repeat_at <= clock_timestamp())::int FROM mailer_batch") == 1

    repeat()

    assert not Batch.objects.exists()
    assert len(requests(resend)) == 1


def test_who_was_erased_is_told_nothing(db, resend):
    shared = enqueue("user-0@example.com")
    open_delivery(shared, "bob@example.com")
    retention.erase("bob@example.com")
    left_in_doubt(resend, "rate_reset_before")

    repeat()

    assert DeliveryStatus.objects.get(message=shared, recipient="").sent_at is None


def test_cleanup_leaves_the_bodies_of_what_will_be_repeated(db, resend, settings):
    left_in_doubt(resend, "rate_reset_before")
    settings.MAIL_BODY_DAYS = settings.MAIL_HISTORY_DAYS = 0.0
    Message.objects.update(first_ambiguous_at=Now() - timedelta(hours=1))

    retention.cleanup(retention.rules())
    assert Message.objects.filter(content=None).count() == 0

    Batch.objects.all().delete()
    retention.cleanup(retention.rules())
    assert Message.objects.count() == 0


# --- Under their own keys -------------------------------------------------------------------------------


def test_what_was_in_doubt_alone_goes_again_alone(db, resend, settings):
    settings.MAIL_BATCH_SIZE = 1
    resend.faults(rate_reset_after=1)
    messages = several()
    sender.drain()
    resend.faults()
    ProviderState.objects.all().delete()
    settings.MAIL_BATCH_SIZE = 200
    ids = [each.pk for each in messages]
    operators.stop(ids, operators.WAITING)
    assert sorted(operators.retry(ids)) == sorted(ids)

    sender.drain()

    assert states() == {"sent": COUNT}
    assert mails_of(resend) == {1}
    assert not Batch.objects.exists()


def test_a_sender_that_is_not_ours_makes_the_others_go_alone_and_holds_up_none(db, resend, answering):
    server = answering("resend", 403, b'{"name": "validation_error", "message": "The domain is not verified."}')
    several(11)
    enqueue("eve@example.com", content={"subject": "s", "text": "t", "html": "h", "from_email": "me@elsewhere.example"})

    sender.drain()

    assert (len(server.requests), states()) == (1, {"retry": COUNT})
    assert set(Message.objects.values_list("error_class", "attempts")) == {("batch_refused", 1)}
    assert not ProviderState.objects.exclude(reason="").exists()


def test_one_batch_that_cannot_be_looked_into_does_not_stop_the_others(db, resend, monkeypatch, caplog):
    left_in_doubt(resend, "rate_reset_after")
    broken = Batch.objects.create(provider="resend", body="[]", message_ids=[uuid7()], repeat_at=Now())
    locked = batches._locked

    def break_one(batch):
        if batch.id == broken.pk:
            raise LookupError
        return locked(batch)

    monkeypatch.setattr(batches, "_locked", break_one)

    assert repeat() == 2

    assert states() == {"sent": COUNT}
    assert list(Batch.objects.all()) == [broken]
    assert "batch_failed" in caplog.text
