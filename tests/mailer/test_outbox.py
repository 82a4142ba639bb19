"""Every way a message moves: enqueue, claim, intend, settle."""

from datetime import timedelta
from uuid import UUID

import pytest
import structlog
from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils import timezone

from mailer import ledger, outbox, sweeping
from mailer.ledger import own_fact
from mailer.models import Attempt, DeliveryEvent, DeliveryStatus, Message
from mailer.verdicts import Verdict
from tests.conftest import in_threads
from tests.mailer.conftest import change, claim_one, delivery_of, enqueue, fact, intend_one, lapse, outcome, read

HOUR = timedelta(hours=1)


# --- Enqueue --------------------------------------------------------------------------------------------


def test_enqueue_writes_a_pending_message(db):
    message = read(enqueue("ada@example.com", kind="verification", context={"challenge_id": "1"}, locale="de"))

    assert (message.state, message.kind, message.priority, message.secret) == ("pending", "verification", 0, True)
    assert (message.context, message.locale, message.token) == ({"challenge_id": "1"}, "de", 0)
    assert message.run_at <= message.created_at
    assert delivery_of(message).status == "queued"


def test_enqueue_gives_a_message_its_kinds_lifetime(db):
    message = read(enqueue(kind="welcome"))

    assert message.expires_at - message.run_at == timedelta(days=3)


def test_enqueue_heeds_a_deadline_of_the_callers(db):
    deadline = timezone.now() + HOUR

    assert read(enqueue(expires_at=deadline)).expires_at == deadline


def test_enqueue_for_later_is_scheduled(db):
    later = timezone.now() + HOUR

    message = read(enqueue(run_at=later))

    assert message.run_at == later
    assert delivery_of(message).status == "scheduled"


def test_enqueue_with_a_taken_key_writes_nothing(db):
    first = enqueue(dedupe_key="taken")

    assert outbox.enqueue("welcome", "eve@example.com", dedupe_key="taken") is None

    assert Message.objects.get() == first
    assert DeliveryStatus.objects.get().recipient == "ada@example.com"


def test_enqueue_an_unknown_kind_raises(db):
    with pytest.raises(KeyError):
        outbox.enqueue("chain_letter", "ada@example.com", dedupe_key="k")


@pytest.mark.django_db(transaction=True)
def test_enqueue_rolled_back_leaves_nothing_and_tells_nobody(monkeypatch, caplog):
    rung = []
    monkeypatch.setattr(outbox, "ring", lambda: rung.append(True))

    with transaction.atomic():
        enqueue()
        transaction.set_rollback(True)

    assert rung == []
    assert "message_enqueued" not in caplog.text
    assert not Message.objects.exists()
    assert not DeliveryStatus.objects.exists()
    assert not DeliveryEvent.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_enqueue_rings_once_it_is_committed(monkeypatch):
    rung = []
    monkeypatch.setattr(outbox, "ring", lambda: rung.append(Message.objects.count()))

    with transaction.atomic():
        enqueue()
        assert rung == []

    assert rung == [1]


@pytest.mark.django_db(transaction=True)
def test_enqueue_survives_a_doorbell_that_fails(monkeypatch, caplog):
    def broken() -> None:
        raise RuntimeError("no bell")

    monkeypatch.setattr(outbox, "ring", broken)

    message = enqueue()

    assert read(message).state == "pending"
    assert "no bell" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_enqueue_of_one_key_by_many_threads_writes_one():
    written = in_threads(8, lambda _: outbox.enqueue("welcome", "ada@example.com", dedupe_key="contested"))

    assert sum(message is not None for message in written) == 1
    assert Message.objects.count() == DeliveryStatus.objects.count() == 1


def test_enqueue_takes_the_requests_id_along(db):
    with structlog.contextvars.bound_contextvars(request_id="request-7"):
        message = enqueue()

    assert read(message).correlation_id == "request-7"


def test_enqueue_prefers_the_correlation_id(db):
    with structlog.contextvars.bound_contextvars(request_id="request-7", correlation_id="story-1"):
        message = enqueue()

    assert read(message).correlation_id == "story-1"


def test_enqueue_outside_of_any_request_makes_an_id(db):
    assert UUID(read(enqueue()).correlation_id)


# --- Claim ----------------------------------------------------------------------------------------------


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
    ledger.open_delivery(message, "bob@example.com", event_type="queued")

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


# --- Intend ---------------------------------------------------------------------------------------------


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


# --- Settle ---------------------------------------------------------------------------------------------


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


# --- What waits -----------------------------------------------------------------------------------------


def test_oldest_due_where_nothing_waits(db):
    enqueue(run_at=timezone.now() + HOUR)
    enqueue(expires_at=timezone.now() - HOUR)
    change(enqueue(), state="sent")

    assert outbox.oldest_due() is None


def test_oldest_due_tells_how_long_the_oldest_has_waited(db):
    enqueue(run_at=timezone.now() - HOUR)
    enqueue(run_at=timezone.now() - 2 * HOUR)

    assert outbox.oldest_due() == pytest.approx(7200, abs=60)


@pytest.mark.django_db(transaction=True)
def test_enqueue_notifies_those_who_listen():
    with connection.cursor() as cursor:
        cursor.execute(f"LISTEN {outbox.CHANNEL}")

    in_threads(1, lambda _: enqueue())

    (heard,) = connection.connection.notifies(timeout=30, stop_after=1)
    assert heard.channel == outbox.CHANNEL
    connection.close()
