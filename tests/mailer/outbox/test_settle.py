"""Outcomes: what a worker found out, in time or late."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from mailer import ledger, outbox, sweeping
from mailer.ledger import own_fact
from mailer.models import Attempt, DeliveryEvent
from mailer.verdicts import Verdict
from tests.mailer.conftest import change, claim_one, delivery_of, enqueue, fact, intend_one, lapse, outcome, read

HOUR = timedelta(hours=1)


def test_settle_an_acceptance(db):
    message = enqueue()
    claim = intend_one(message)

    outbox.settle([outcome(claim, "sent", "sent", verdict=Verdict.ACCEPTED, http_status=200)])

    row, attempt = read(message), Attempt.objects.get()
    assert (row.state, row.attempts, row.lease_owner, row.lease_until) == ("sent", 0, "", None)
    assert row.finished_at is not None
    assert (attempt.outcome, attempt.http_status) == ("accepted", 200)
    assert attempt.finished_at >= attempt.started_at
    assert delivery_of(message).status == "sent"


def test_settle_a_retry(db):
    message = enqueue()
    claim = intend_one(message)

    outbox.settle([outcome(claim, "retry", "retried", verdict=Verdict.NOT_SENT, charged=True, delay=100.0)])

    row = read(message)
    assert (row.state, row.attempts, row.finished_at, row.first_ambiguous_at) == ("retry", 1, None, None)
    assert timedelta(seconds=95) < row.run_at - timezone.now() < timedelta(seconds=105)
    assert delivery_of(message).status == "queued"
    assert outbox.claim("worker", 10) == []


def test_settle_without_charge_counts_no_attempt(db):
    message = enqueue()

    outbox.settle([outcome(intend_one(message), "retry", "retried", verdict=Verdict.THROTTLED)])

    assert read(message).attempts == 0


def test_settle_a_doubt_remembers_when_the_attempt_began(db):
    message = enqueue()
    claim = intend_one(message)
    began = Attempt.objects.get().started_at

    outbox.settle([outcome(claim, "retry", "retried", verdict=Verdict.AMBIGUOUS, charged=True)])

    assert read(message).first_ambiguous_at == began


def test_settle_a_second_doubt_keeps_the_first(db):
    message = enqueue()
    outbox.settle([outcome(intend_one(message), "retry", "retried", verdict=Verdict.AMBIGUOUS)])
    change(message, first_ambiguous_at=Now() - HOUR)
    first = read(message).first_ambiguous_at

    outbox.settle([outcome(intend_one(message), "retry", "retried", verdict=Verdict.AMBIGUOUS)])

    assert read(message).first_ambiguous_at == first


def test_settle_what_stays_unknown(db):
    message = enqueue()

    outbox.settle([outcome(intend_one(message), "unknown", "ambiguous", verdict=Verdict.AMBIGUOUS, charged=True)])

    row = read(message)
    assert (row.state, row.finished_at) == ("unknown", None)
    assert delivery_of(message).status == "unknown"


def test_settle_a_refusal(db):
    message = enqueue()
    claim = intend_one(message)

    outbox.settle(
        [outcome(claim, "dead", "failed", verdict=Verdict.PERMANENT, http_status=422, error_class="http_422")]
    )

    row = read(message)
    assert (row.state, row.error_class) == ("dead", "http_422")
    assert row.finished_at is not None
    assert delivery_of(message).status == "failed"


def test_settle_before_any_request_needs_no_attempt(db):
    message = enqueue()

    outbox.settle([outcome(claim_one(message), "dead", "failed", error_class="does_not_render")])

    assert read(message).state == "dead"
    assert not Attempt.objects.exists()


@pytest.mark.parametrize(
    ("state", "event_type"),
    [("retry", "retried"), ("dead", "failed"), ("unknown", "ambiguous")],
)
def test_settle_a_late_workers_decision_does_not_count(db, state, event_type):
    message = enqueue()
    late = intend_one(message)
    lapse(message)
    sweeping.sweep()
    intend_one(message, owner="quick")
    events = DeliveryEvent.objects.count()

    outbox.settle([outcome(late, state, event_type, verdict=Verdict.NOT_SENT, charged=True)])

    row = read(message)
    assert (row.state, row.token, row.lease_owner, row.attempts) == ("sending", 2, "quick", 0)
    assert DeliveryEvent.objects.count() == events


def test_settle_a_late_workers_acceptance_counts(db):
    message = enqueue()
    late = intend_one(message)
    lapse(message)
    sweeping.sweep()
    quick = claim_one(message, "quick")

    outbox.settle([outcome(late, "sent", "sent", verdict=Verdict.ACCEPTED)])

    assert read(message).state == "sent"
    assert delivery_of(message).status == "sent"
    assert outbox.intend([quick]) == []


def test_settle_an_acceptance_is_not_undone_by_the_holder(db):
    message = enqueue()
    late = intend_one(message)
    lapse(message)
    sweeping.sweep()
    holder = intend_one(message)
    outbox.settle([outcome(late, "sent", "sent", verdict=Verdict.ACCEPTED)])

    outbox.settle([outcome(holder, "retry", "retried", verdict=Verdict.NOT_SENT)])

    assert read(message).state == "sent"


@pytest.mark.parametrize("ended", ["dead", "unknown", "expired", "cancelled"])
def test_settle_a_late_acceptance_corrects_what_was_given_up(db, ended):
    message = enqueue()
    claim = intend_one(message)
    change(message, state=ended)

    outbox.settle([outcome(claim, "sent", "sent", verdict=Verdict.ACCEPTED)])

    assert read(message).state == "sent"


def test_settle_twice_changes_nothing_more(db):
    message = enqueue()
    settled = [outcome(intend_one(message), "retry", "retried", verdict=Verdict.NOT_SENT, charged=True)]
    outbox.settle(settled)
    events = DeliveryEvent.objects.count()

    outbox.settle(settled)

    assert read(message).attempts == 1
    assert DeliveryEvent.objects.count() == events


@pytest.mark.parametrize(("state", "event_type"), [("sent", "sent"), ("dead", "failed")])
def test_settle_erases_a_secret_at_the_end(db, state, event_type):
    message = enqueue(kind="verification")

    outbox.settle([outcome(intend_one(message), state, event_type)])

    assert read(message).content is None


def test_settle_keeps_a_secret_that_is_still_needed(db):
    message = enqueue(kind="verification")

    outbox.settle([outcome(intend_one(message), "retry", "retried")])

    assert read(message).content is not None


def test_settle_keeps_what_is_no_secret(db):
    message = enqueue(kind="welcome")

    outbox.settle([outcome(intend_one(message), "sent", "sent")])

    assert read(message).content is not None


def test_settle_matches_events_that_came_before_the_id(db):
    message = enqueue()
    claim = intend_one(message)
    ledger.record([fact("delivered", provider="resend", esp_message_id="re-1")])
    accepted = own_fact("sent", claim.recipients[0].delivery_id, 1, provider="resend", esp_message_id="re-1")

    outbox.settle([outcome(claim, "sent", "sent", facts=(accepted,))])

    assert delivery_of(message).status == "delivered"
    assert not DeliveryEvent.objects.filter(delivery=None).exists()
