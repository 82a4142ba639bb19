"""What a lost hint, a dead worker or a passed deadline left behind."""

from datetime import timedelta

import pytest
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from mailer import doubts, ledger, outbox, sweeping
from mailer.models import Attempt, DeliveryEvent, DeliveryStatus, Message
from mailer.outbox import Claimed
from mailer.verdicts import Verdict
from tests.conftest import in_threads
from tests.mailer.conftest import change, claim_one, delivery_of, enqueue, fact, intend_one, lapse, outcome, read

HOUR = timedelta(hours=1)


def test_sweep_with_nothing_to_do(db):
    enqueue()

    assert sweeping.sweep() == {}


def test_sweep_leaves_a_lease_that_runs(db):
    message = enqueue()
    claim_one(message)

    assert sweeping.sweep() == {}

    assert read(message).state == "leased"


def test_sweep_returns_a_lease_that_ran_out_before_the_intent(db):
    message = enqueue()
    claim_one(message)
    lapse(message)

    assert sweeping.sweep() == {"retry": 1}

    row = read(message)
    assert (row.state, row.crashes, row.attempts, row.first_ambiguous_at) == ("retry", 1, 0, None)
    assert (row.lease_owner, row.lease_until) == ("", None)
    assert claim_one(message).message.token == 2


def test_sweep_retries_after_the_intent_where_a_key_makes_it_harmless(db):
    message = enqueue()
    intend_one(message, "resend")
    lapse(message)

    assert sweeping.sweep() == {"retry": 1}

    row, attempt = read(message), Attempt.objects.get()
    assert (row.state, row.provider) == ("retry", "resend")
    assert row.first_ambiguous_at == attempt.started_at
    assert (attempt.outcome, attempt.error_class) == ("ambiguous", "lease_ran_out")


def test_sweep_does_not_repeat_where_no_key_makes_it_harmless(db):
    message = enqueue()
    intend_one(message, "postmark")
    lapse(message)

    assert sweeping.sweep() == {"unknown": 1}

    assert read(message).state == "unknown"
    assert delivery_of(message).status == "unknown"
    assert outbox.claim("worker", 10) == []


def test_sweep_does_not_repeat_once_the_keys_life_is_over(db):
    message = enqueue()
    intend_one(message, "resend")
    Attempt.objects.update(started_at=Now() - 24 * HOUR)
    lapse(message)

    assert sweeping.sweep() == {"unknown": 1}


def test_sweep_counts_the_keys_life_from_the_first_doubt(db):
    message = enqueue()
    intend_one(message, "resend")
    lapse(message, first_ambiguous_at=Now() - 24 * HOUR)

    assert sweeping.sweep() == {"unknown": 1}


def test_sweep_keeps_a_doubt_of_before_the_lapsed_lease(db):
    message = enqueue()
    outbox.settle([outcome(intend_one(message), "retry", "retried", verdict=Verdict.AMBIGUOUS)])
    doubted = read(message).first_ambiguous_at
    claim_one(message)
    lapse(message)

    assert sweeping.sweep() == {"retry": 1}

    assert read(message).first_ambiguous_at == doubted


@pytest.mark.parametrize(
    ("provider", "state", "status"),
    [(None, "dead", "failed"), ("resend", "unknown", "unknown"), ("postmark", "unknown", "unknown")],
)
def test_sweep_quarantines_a_message_that_crashed_workers(db, provider, state, status):
    message = enqueue(kind="verification")
    crashes = sweeping.MAX_CRASHES if provider else sweeping.MAX_CRASHES_UNSENT
    change(message, crashes=crashes - 1, content={"text": "a link"})
    if provider:
        intend_one(message, provider)
    else:
        claim_one(message)
    lapse(message)

    assert sweeping.sweep() == {state: 1}

    row = read(message)
    assert (row.state, row.crashes) == (state, 3 if provider else 10)
    assert delivery_of(message).status == status
    assert (row.finished_at is not None) == (row.content is None) == (state == "dead")


def test_sweep_expires_what_waits_past_its_deadline(db):
    message = enqueue(kind="verification", expires_at=timezone.now() - HOUR)

    assert sweeping.sweep() == {"expired": 1}

    row = read(message)
    assert (row.state, row.error_class) == ("expired", "expired")
    assert row.finished_at is not None
    assert delivery_of(message).status == "expired"


def test_sweep_does_not_call_expired_what_may_have_been_accepted(db):
    message = enqueue(kind="verification", expires_at=timezone.now() + HOUR)
    outbox.settle([outcome(intend_one(message), "retry", "retried", verdict=Verdict.AMBIGUOUS)])
    change(message, expires_at=Now() - HOUR)

    assert sweeping.sweep() == {"unknown": 1}

    row = read(message)
    assert (row.state, row.content, row.finished_at) == ("unknown", None, None)
    assert delivery_of(message).status == "unknown"


def test_sweep_matches_parked_events(db):
    message = enqueue()
    ledger.record([fact("delivered", provider="postmark", esp_message_id="pm-1")])
    delivery = delivery_of(message)
    ledger.record([fact("sent", delivery_id=delivery.pk, provider="postmark", esp_message_id="pm-1")])

    assert sweeping.sweep() == {"matched": 1}

    assert delivery_of(message).status == "delivered"


def test_sweep_moves_more_than_one_round_holds(db, monkeypatch):
    monkeypatch.setattr(sweeping, "LIMIT", 2)
    for _ in range(5):
        enqueue(expires_at=timezone.now() - HOUR)

    assert sweeping.sweep() == {"expired": 5}


@pytest.mark.django_db(transaction=True)
def test_sweep_by_many_at_once_moves_each_message_once():
    for _ in range(30):
        enqueue()
    outbox.claim("crashed", 30)
    Message.objects.update(lease_until=Now() - HOUR)

    moved = in_threads(5, lambda _: sweeping.sweep().get("retry", 0))

    assert sum(moved) == 30
    assert set(Message.objects.values_list("crashes", flat=True)) == {1}
    assert DeliveryEvent.objects.filter(event_type="retried").count() == 30


@pytest.mark.django_db(transaction=True)
def test_sweep_passes_over_what_is_being_settled():
    message = enqueue()
    claim = intend_one(message)
    lapse(message)

    with transaction.atomic():
        outbox.settle([outcome(claim, "sent", "sent")])
        (moved,) = in_threads(1, lambda _: sweeping.sweep())

    assert moved == {}
    assert read(message).state == "sent"


@pytest.mark.django_db(transaction=True)
def test_settle_and_sweep_and_confirm_at_once_do_not_deadlock():
    messages = [enqueue() for _ in range(40)]
    claims = outbox.intend([with_provider(claim) for claim in outbox.claim("worker", 40)])
    Message.objects.update(lease_until=Now() - HOUR)

    def work(number: int) -> object:
        if number % 3 == 0:
            return outbox.settle([outcome(claim, "sent", "sent") for claim in claims[number::2] + claims[:number]])
        if number % 3 == 1:
            return sweeping.sweep()
        with transaction.atomic():
            doubts.confirm("resend", [message.pk for message in messages[::-1]])
            return ledger.record(
                [fact("delivered", message_id=message.pk, provider="resend") for message in messages[::-1]]
            )

    in_threads(6, work)

    assert set(Message.objects.values_list("state", flat=True)) == {"sent"}
    assert set(DeliveryStatus.objects.values_list("status", flat=True)) == {"delivered"}


def with_provider(claim: Claimed) -> Claimed:
    claim.message.provider, claim.message.content = "resend", {}
    return claim
