"""What people decide about messages: cancel, and send again."""

from datetime import timedelta

import pytest
from django.db import transaction
from django.db.models.functions import Now

from mailer import ledger, operators, outbox, sender
from mailer.ledger import own_fact
from mailer.models import DeliveryEvent, DeliveryStatus, Message
from mailer.status import Mark, Status, fold
from tests.conftest import in_threads
from tests.mailer.conftest import (
    change,
    claim_one,
    delivery_of,
    enqueue,
    fact,
    intend_one,
    open_delivery,
    outcome,
    read,
)

State = Message.State
HOUR = timedelta(hours=1)


def stand(message: Message, state: str, **fields) -> Message:
    """Put a message into a state, and tell its deliveries what the sender would."""
    ended = {} if state == "unknown" else {"finished_at": Now()}
    change(message, state=state, **{**ended, **fields})
    word = {"dead": "failed", "unknown": "ambiguous"}.get(state, state)
    ledger.record([own_fact(word, delivery.pk, "then") for delivery in message.deliveries.all()])
    return read(message)


def folded(delivery: DeliveryStatus) -> Status:
    marks = [
        Mark(Status(event.status) if event.status else None, event.occurred_at, event.dedupe_key)
        for event in delivery.events.all()
    ]
    winner = fold(marks)
    assert winner
    return winner.status


# --- Cancel -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["pending", "retry"])
def test_cancel_what_waits(db, state):
    message = enqueue(content={"subject": "s"})
    change(message, state=state)

    assert operators.cancel(message.pk)

    row = read(message)
    assert (row.state, row.error_class, row.content) == ("cancelled", "cancelled", {"subject": "s"})
    assert row.finished_at is not None
    assert delivery_of(message).status == "cancelled"
    assert sender.drain() == 0


def test_cancel_what_is_scheduled(db):
    message = enqueue(run_at=None, expires_at=None)
    change(message, run_at=Now() + HOUR)

    assert operators.cancel(message.pk)

    assert read(message).state == "cancelled"


@pytest.mark.parametrize("state", sorted({*State} - {State.PENDING, State.RETRY}))
def test_cancel_leaves_alone_what_does_not_wait(db, state):
    message = enqueue()
    change(message, state=state)

    assert not operators.cancel(message.pk)

    assert read(message).state == state
    assert delivery_of(message).status == "queued"


def test_cancel_tells_every_recipient(db):
    message = enqueue("ada@example.com")
    other = open_delivery(message, "bob@example.com")

    assert operators.cancel(message.pk)

    assert {delivery.status for delivery in message.deliveries.all()} == {"cancelled"}
    assert DeliveryStatus.objects.get(pk=other).status == "cancelled"


def test_cancel_what_may_have_been_accepted_leaves_it_in_doubt(db):
    message = enqueue()
    change(message, state="retry", first_ambiguous_at=Now())

    assert operators.cancel(message.pk)

    assert read(message).state == "cancelled"
    assert delivery_of(message).status == "unknown"


def test_cancel_erases_a_secret(db):
    message = enqueue(kind="verification", context={"challenge_id": "1"}, content={"text": "a link"})

    operators.cancel(message.pk)

    assert read(message).content is None


def test_cancel_what_nobody_knows(db):
    message = enqueue()
    Message.objects.filter(pk=message.pk).delete()

    assert not operators.cancel(message.pk)


@pytest.mark.django_db(transaction=True)
def test_cancel_by_many_at_once_happens_once():
    message = enqueue()

    assert sorted(in_threads(4, lambda _: operators.cancel(message.pk))) == [False, False, False, True]

    assert delivery_of(message).events.filter(event_type="cancelled").count() == 1


@pytest.mark.django_db(transaction=True)
def test_cancel_and_claim_at_once_agree_on_who_was_first():
    messages = [enqueue() for _ in range(20)]

    def work(number: int) -> set:
        if number:
            return {message.pk for message in messages if operators.cancel(message.pk)}
        return {claim.message.pk for claim in outbox.claim("worker", 20)}

    claimed, cancelled = in_threads(2, work)

    assert not claimed & cancelled
    assert {message.pk for message in messages if read(message).state == "cancelled"} == cancelled
    assert {message.pk for message in messages if read(message).state == "leased"} == claimed


# --- Retry --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", sorted(operators.STOPPED))
def test_retry_what_has_stopped_sends_it_and_the_status_says_so(db, simulator, state):
    message = stand(enqueue(), state, attempts=12, crashes=3, error_class="http_422")
    assert delivery_of(message).status == {"dead": "failed"}.get(state, state)

    assert operators.retry([message.pk]) == [message.pk]

    row = read(message)
    assert (row.state, row.attempts, row.crashes, row.error_class, row.finished_at) == ("retry", 0, 0, "", None)
    assert sender.drain() == 1
    assert read(message).state == "sent"
    assert delivery_of(message).status == "sent"
    assert folded(delivery_of(message)) == "sent"
    assert len(simulator.accepted(message.pk)) == 1


@pytest.mark.parametrize("state", sorted({*State} - {*operators.STOPPED}))
def test_retry_leaves_alone_what_has_not_stopped(db, state):
    message = enqueue()
    change(message, state=state)

    assert operators.retry([message.pk]) == []
    assert operators.retry([message.pk], [*State]) == []

    assert read(message).state == state


def test_retry_of_some_states_only(db):
    dead, unknown = stand(enqueue(), "dead"), stand(enqueue(), "unknown")

    assert operators.retry([dead.pk, unknown.pk], ["dead"]) == [dead.pk]

    assert read(unknown).state == "unknown"


def test_retry_withdraws_the_senders_word_and_keeps_the_providers(db):
    message = stand(enqueue(), "dead")
    delivery = delivery_of(message)
    ledger.record([fact("bounced", "b", delivery_id=delivery.pk)])

    operators.retry([message.pk])

    assert delivery_of(message).status == "bounced"
    assert delivery.events.get(event_type="failed").rank == -1
    assert delivery.events.get(event_type="bounced").rank == 50


def test_retry_keeps_every_event(db):
    message = stand(enqueue(), "dead")

    operators.retry([message.pk])

    events = delivery_of(message).events.order_by("pk")
    assert [event.event_type for event in events] == ["queued", "failed", "retried"]
    assert delivery_of(message).status == folded(delivery_of(message)) == "queued"


def test_what_was_withdrawn_cannot_come_again(db):
    message = stand(enqueue(), "dead")
    operators.retry([message.pk])

    ledger.record([own_fact("failed", delivery_of(message).pk, "then")])

    assert delivery_of(message).status == "queued"


def test_retry_cancel_and_retry_again_are_facts_of_their_own(db):
    message = enqueue()

    for _ in range(2):
        assert operators.cancel(message.pk)
        assert delivery_of(message).status == "cancelled"
        assert operators.retry([message.pk])
        assert delivery_of(message).status == "queued"

    assert delivery_of(message).events.filter(event_type="cancelled").count() == 2


def test_retry_fences_a_worker_that_wakes_up_late(db):
    message = enqueue()
    claim = intend_one(message)
    stand(message, "unknown", lease_until=None)
    operators.retry([message.pk])

    outbox.settle([outbox.Outcome(claim.message.pk, claim.message.token, "dead")])

    assert read(message).state == "retry"


def test_retry_forgets_the_pin_only_where_nothing_was_accepted(db):
    dead = stand(enqueue(), "dead", provider="resend")
    unknown = stand(enqueue(), "unknown", provider="resend", first_ambiguous_at=Now() - 48 * HOUR)

    operators.retry([dead.pk, unknown.pk])

    assert (read(dead).provider, read(unknown).provider) == ("", "resend")
    assert read(dead).first_ambiguous_at is None
    assert read(unknown).first_ambiguous_at == read(unknown).retried_at


def test_retry_in_doubt_after_the_keys_life_is_sent(db, simulator):
    message = stand(enqueue(), "unknown", provider="resend", first_ambiguous_at=Now() - 48 * HOUR)

    operators.retry([message.pk])
    sender.drain()

    assert read(message).state == "sent"


def test_retry_gives_a_kind_with_a_lifetime_a_new_one(db):
    message = stand(enqueue(kind="welcome"), "expired", expires_at=Now() - HOUR)

    assert operators.retry([message.pk])

    assert Message.objects.filter(pk=message.pk, expires_at__gt=Now() + 71 * HOUR).exists()


def test_retry_leaves_alone_what_holds_a_dead_link(db):
    message = enqueue(kind="verification", context={"challenge_id": "1"})
    stand(message, "expired", expires_at=Now() - HOUR)

    assert operators.retry([message.pk]) == []

    assert read(message).state == "expired"


def test_retry_keeps_a_deadline_that_is_to_come(db):
    message = enqueue(kind="verification", context={"challenge_id": "1"})
    change(message, expires_at=Now() + HOUR)
    before = stand(message, "dead").expires_at

    assert operators.retry([message.pk])

    assert read(message).expires_at == before


def test_retry_leaves_alone_what_has_no_recipient_left(db):
    message = stand(enqueue(), "cancelled")
    message.deliveries.update(recipient="", recipient_canonical="")

    assert operators.retry([message.pk]) == []


def test_retry_nothing(db):
    assert operators.retry([]) == []


@pytest.mark.django_db(transaction=True)
def test_retry_rings_once_it_is_committed(monkeypatch):
    rung = []
    monkeypatch.setattr(operators, "ring", lambda: rung.append(True))
    message = stand(enqueue(), "dead")

    with transaction.atomic():
        operators.retry([message.pk])
        assert rung == []

    assert rung == [True]
    operators.retry([message.pk])
    assert rung == [True]


@pytest.mark.django_db(transaction=True)
def test_retry_by_many_at_once_happens_once():
    messages = [stand(enqueue(), "dead") for _ in range(10)]

    def work(number: int) -> list:
        return operators.retry([message.pk for message in (messages if number % 2 else reversed(messages))])

    again = [pk for moved in in_threads(4, work) for pk in moved]

    assert sorted(again) == sorted(message.pk for message in messages)
    assert DeliveryEvent.objects.filter(event_type="retried").count() == 10


@pytest.mark.django_db(transaction=True)
def test_retry_beside_providers_reports_folds_both():
    messages = [stand(enqueue(), "dead") for _ in range(20)]
    deliveries = [delivery_of(message) for message in messages]

    def work(number: int) -> None:
        if number:
            for delivery in reversed(deliveries):
                ledger.record([fact("delivered", f"d {delivery.pk}", delivery_id=delivery.pk)])
        else:
            operators.retry([message.pk for message in messages])

    in_threads(2, work)

    assert {delivery_of(message).status for message in messages} == {"delivered"}
    assert {folded(delivery_of(message)) for message in messages} == {"delivered"}


# --- Due, pin -----------------------------------------------------------------------------------------


def test_due_counts_what_a_worker_would_claim(db):
    due, leased, later, late, sent = [enqueue() for _ in range(5)]
    claim_one(due)
    Message.objects.update(state="pending")
    change(leased, state="leased")
    change(later, run_at=Now() + HOUR)
    change(late, expires_at=Now() - HOUR)
    change(sent, state="sent")

    assert list(operators.due()) == [due]


def test_pin_sends_through_one_provider(db, simulator):
    message = enqueue()
    operators.pin(message.pk, "postmark")

    sender.drain()

    assert read(message).provider == "postmark"
    assert simulator.accepted(message.pk)[0]["provider"] == "postmark"


def test_retry_leaves_what_no_recipient_waits_for(db):
    message = enqueue()
    claim = intend_one(message)
    outbox.settle([outcome(claim, "sent", "sent")])
    change(message, state="dead")

    assert operators.retry([message.pk]) == []

    assert read(message).state == "dead"
