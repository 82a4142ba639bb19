"""Who claims what, and who may go on."""

from datetime import timedelta
from uuid import UUID

import pytest
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from mailer import outbox, sweeping
from mailer.models import Attempt, Message
from tests.conftest import in_threads
from tests.mailer.conftest import change, claim_one, delivery_of, enqueue, lapse, open_delivery, read

HOUR = timedelta(hours=1)


def test_claim_leases_a_due_message(db):
    message = enqueue()

    (claim,) = outbox.claim("worker-1", 10)

    row = read(message)
    assert (row.state, row.token, row.lease_owner) == ("leased", 1, "worker-1")
    assert row.lease_until is not None
    assert (claim.message.pk, claim.message.token, claim.doubted_for) == (message.pk, 1, None)
    assert [recipient.address for recipient in claim.recipients] == ["ada@example.com"]
    assert claim.age == pytest.approx(0, abs=60)


def test_claim_takes_the_most_urgent_first_then_the_one_that_waits_longest(db):
    now = timezone.now()
    late = enqueue(kind="welcome", run_at=now - HOUR)
    early = enqueue(kind="welcome", run_at=now - 2 * HOUR)
    urgent = enqueue(kind="verification", run_at=now)

    claimed = [claim.message.pk for claim in outbox.claim("worker", 10)]

    assert claimed == [urgent.pk, early.pk, late.pk]


def test_claim_takes_no_more_than_it_may(db):
    for _ in range(5):
        enqueue()

    assert [len(outbox.claim("worker", 2)) for _ in range(4)] == [2, 2, 1, 0]


def test_claim_leaves_what_is_not_due(db):
    enqueue(run_at=timezone.now() + HOUR)

    assert outbox.claim("worker", 10) == []


def test_claim_leaves_what_is_past_its_deadline(db):
    enqueue(expires_at=timezone.now() - HOUR)

    assert outbox.claim("worker", 10) == []


@pytest.mark.parametrize("state", sorted(set(Message.State) - {"pending", "retry"}))
def test_claim_leaves_a_message_in_another_state(db, state):
    change(enqueue(), state=state)

    assert outbox.claim("worker", 10) == []


def test_claim_knows_how_long_a_message_has_been_tried_and_in_doubt(db):
    message = enqueue()
    change(message, state="retry", first_ambiguous_at=Now() - HOUR, created_at=Now() - 9 * HOUR, token=1)
    Attempt.objects.create(message=message, token=1, provider="resend", started_at=Now() - 2 * HOUR)

    claim = claim_one(message)

    assert claim.doubted_for == pytest.approx(3600, abs=60)
    assert claim.age == pytest.approx(7200, abs=60)


def test_claim_of_a_message_that_waited_long_is_its_first_attempt(db):
    message = enqueue()
    change(message, created_at=Now() - 48 * HOUR)

    assert claim_one(message).age == 0


def test_lifetime_counts_from_when_a_message_is_due(db):
    later = timezone.now() + timedelta(days=9)

    message = outbox.enqueue("welcome", "ada@example.com", dedupe_key="later", run_at=later)

    assert read(message).expires_at == later + timedelta(days=3)


def test_claim_knows_all_recipients(db):
    message = enqueue("ada@example.com")
    open_delivery(message, "bob@example.com")

    assert [recipient.address for recipient in claim_one(message).recipients] == ["ada@example.com", "bob@example.com"]


@pytest.mark.django_db(transaction=True)
def test_claim_by_many_threads_gives_each_message_to_one():
    messages = {enqueue().pk for _ in range(60)}

    def work(number: int) -> list[UUID]:
        claimed = []
        while claims := outbox.claim(f"worker-{number}", 4):
            claimed += [claim.message.pk for claim in claims]
        return claimed

    claimed = [pk for each in in_threads(6, work) for pk in each]

    assert len(claimed) == 60
    assert set(claimed) == messages


@pytest.mark.django_db(transaction=True)
def test_claim_passes_over_what_another_transaction_holds():
    held, free = enqueue(), enqueue()

    with transaction.atomic():
        Message.objects.select_for_update().get(pk=held.pk)
        ((claimed,),) = in_threads(1, lambda _: outbox.claim("worker", 10))

    assert claimed.message.pk == free.pk


def test_intend_pins_the_provider_and_freezes_the_content(db):
    message = enqueue()
    claim = claim_one(message)
    claim.message.provider, claim.message.content = "resend", {"subject": "Hello"}

    assert outbox.intend([claim]) == [claim]

    row, attempt = read(message), Attempt.objects.get()
    assert (row.state, row.provider, row.content) == ("sending", "resend", {"subject": "Hello"})
    assert (attempt.message_id, attempt.token, attempt.provider, attempt.outcome) == (message.pk, 1, "resend", "")
    assert delivery_of(message).status == "queued"


def test_intend_after_another_took_over_is_refused(db):
    message = enqueue()
    slow = claim_one(message)
    lapse(message)
    sweeping.sweep()
    quick = claim_one(message)

    assert outbox.intend([slow]) == []

    assert not Attempt.objects.exists()
    assert outbox.intend([quick]) == [quick]


def test_intend_after_the_lease_was_given_back_is_refused(db):
    message = enqueue()
    slow = claim_one(message)
    lapse(message)
    sweeping.sweep()

    assert outbox.intend([slow]) == []

    assert read(message).state == "retry"


def test_intend_twice_goes_once(db):
    claim = claim_one(enqueue())

    assert outbox.intend([claim]) == [claim]
    assert outbox.intend([claim]) == []

    assert Attempt.objects.count() == 1


def test_intend_lets_the_rest_go(db):
    mine, lost = enqueue(), enqueue()
    claims = outbox.claim("worker", 10)
    change(lost, token=9)

    assert [claim.message.pk for claim in outbox.intend(claims)] == [mine.pk]
