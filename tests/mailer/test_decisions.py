"""What follows from what became of a claim: how long a key makes a repeat harmless, what ends a message for good.

In a test's transaction the database's clock stands still: time passes by SQL.
"""

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from mailer import decisions, doubts, operators, outbox, sender, sweeping
from mailer.models import Attempt, DeliveryEvent, Message
from mailer.outbox import Claimed
from mailer.providers import PROVIDERS
from mailer.verdicts import Answer, Verdict
from tests.mailer.conftest import change, claim_one, delivery_of, enqueue, intend_one, make_due, read, run

KEYED = [provider for provider in PROVIDERS.values() if provider.key]
UNKEYED = [provider for provider in PROVIDERS.values() if not provider.key]


def of_name(provider) -> str:
    return provider.name


def pass_time(seconds: float) -> None:
    """Let this time have passed since all that was tried."""
    run("UPDATE mailer_attempt SET started_at = started_at - make_interval(secs => %s)", seconds)
    run(
        "UPDATE mailer_message SET first_ambiguous_at = first_ambiguous_at - make_interval(secs => %s),"
        " inquire_at = inquire_at - make_interval(secs => %s), lease_until = lease_until - make_interval(secs => %s)",
        *(seconds, seconds, seconds),
    )
    make_due()


# --- The life of a key ----------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", KEYED, ids=of_name)
def test_a_repeat_is_harmless_as_long_as_the_key_lives(provider):
    life = provider.key.lifetime.total_seconds()

    assert decisions.is_repeatable(Claimed(Message(), 0, None), provider)
    assert decisions.is_repeatable(Claimed(Message(), 0, life - 1), provider)
    assert not decisions.is_repeatable(Claimed(Message(), 0, life), provider)


@pytest.mark.parametrize("provider", UNKEYED, ids=of_name)
def test_without_a_key_no_repeat_is_harmless(provider):
    assert not decisions.is_repeatable(Claimed(Message(), 0, None), provider)


@pytest.mark.parametrize("provider", KEYED, ids=of_name)
@pytest.mark.parametrize(("of_life", "state"), [(-1, "retry"), (0, "unknown")])
def test_conclude_repeats_a_doubt_no_longer_than_the_key_lives(provider, of_life, state):
    claim = Claimed(Message(token=2), 0, provider.key.lifetime.total_seconds() + of_life)

    outcome = decisions.conclude(claim, provider, Answer(Verdict.AMBIGUOUS))

    assert (outcome.state, outcome.inquire_in is not None) == (state, state == "unknown")


@pytest.fixture
def doubted(db, simulator, settings):
    """Leave a message of a kind in doubt at Resend, which did accept it."""
    settings.MAIL_PROVIDERS = ["resend"]

    def doubted(kind: str) -> Message:
        simulator.faults(rate_5xx_after=1)
        message = enqueue(kind=kind)
        sender.drain()
        simulator.faults()
        assert read(message).state == "retry"
        return message

    return doubted


LIFE = PROVIDERS["resend"].key.lifetime.total_seconds()


@pytest.mark.parametrize("kind", ["welcome", "account_exists"])
def test_a_repeat_within_the_keys_life_is_no_second_mail(doubted, simulator, kind):
    message = doubted(kind)
    run("UPDATE mailer_message SET expires_at = NULL")
    pass_time(LIFE - 60)

    sender.drain()

    assert (read(message).state, read(message).repeats) == ("sent", 0)
    assert [row["done"] for row in simulator.requests()] == ["5xx_after", "repeated"]


@pytest.mark.parametrize(("kind", "state", "repeats"), [("welcome", "unknown", 0), ("account_exists", "retry", 1)])
def test_after_the_keys_life_the_kind_decides(doubted, simulator, kind, state, repeats):
    message = doubted(kind)
    pass_time(LIFE + 60)

    sender.drain()
    assert (read(message).state, read(message).error_class) == ("unknown", "key_expired")
    assert len(simulator.requests()) == 1
    pass_time(60)
    assert doubts.resolve() == 1

    assert (read(message).state, read(message).repeats) == (state, repeats)
    sender.drain()
    assert len(simulator.requests()) == 1 + repeats
    assert delivery_of(message).status == ("sent" if repeats else "unknown")


def test_a_repeat_at_a_risk_begins_a_life_of_its_own(doubted, simulator):
    message = doubted("account_exists")
    pass_time(LIFE + 60)
    sender.drain()
    pass_time(60)
    doubts.resolve()
    simulator.faults(rate_5xx_before=1)
    sender.drain()
    assert (read(message).state, read(message).attempts) == ("retry", 2)

    simulator.faults()
    pass_time(60)
    sender.drain()

    assert (read(message).state, read(message).repeats) == ("sent", 1)


def test_what_nobody_can_tell_is_asked_about_once(doubted):
    message = doubted("welcome")
    pass_time(LIFE + 60)
    sender.drain()
    pass_time(60)
    doubts.resolve()

    assert doubts.resolve() == 0

    assert read(message).inquire_at is None
    assert operators.retry([message.pk]) == [message.pk]


def test_a_keyed_lapse_is_repeated_within_the_keys_life_only(db):
    fresh, old = enqueue(), enqueue()
    claims = outbox.claim("worker", 2)
    for claim in claims:
        claim.message.provider, claim.message.content = "resend", {}
    assert len(outbox.intend(claims)) == 2
    Attempt.objects.filter(message=old).update(started_at=Now() - timedelta(seconds=LIFE + 60))
    Message.objects.update(lease_until=Now() - timedelta(seconds=1))

    assert sweeping.sweep() == {"retry": 1, "unknown": 1}

    assert (read(fresh).state, read(old).state) == ("retry", "unknown")


# --- Cancelled, worn out, expired -----------------------------------------------------------------------


def test_what_was_cancelled_while_it_waited_is_not_sent(db, simulator):
    waits, scheduled = enqueue(), enqueue()
    run("UPDATE mailer_message SET run_at = now() + interval '1 hour' WHERE id = %s", scheduled.pk)

    assert operators.cancel(waits.pk)
    assert operators.cancel(scheduled.pk)
    run("UPDATE mailer_message SET run_at = now()")

    assert sender.drain() == 0
    assert {read(each).state for each in (waits, scheduled)} == {"cancelled"}
    assert {delivery_of(each).status for each in (waits, scheduled)} == {"cancelled"}
    assert simulator.requests() == []


def test_what_waits_for_a_retry_can_be_cancelled_and_stays_in_doubt(doubted, simulator):
    message = doubted("welcome")

    assert operators.cancel(message.pk)
    make_due()

    assert sender.drain() == 0
    assert (read(message).state, delivery_of(message).status) == ("cancelled", "unknown")
    assert len(simulator.requests()) == 1


def test_what_is_on_its_way_cannot_be_cancelled_and_arrives(db, simulator):
    message = enqueue()
    claim = intend_one(message)

    assert not operators.cancel(message.pk)
    outbox.settle([decisions.conclude(claim, PROVIDERS["resend"], Answer(Verdict.ACCEPTED))])

    assert (read(message).state, delivery_of(message).status) == ("sent", "sent")


@pytest.mark.parametrize("provider", ["", "resend", "postmark"])
def test_what_kills_workers_is_sent_no_more(db, simulator, provider):
    message = enqueue(kind="account_exists")

    times = sweeping.MAX_CRASHES if provider else sweeping.MAX_CRASHES_UNSENT
    for _ in range(times):
        make_due()
        run("UPDATE mailer_message SET state = 'retry', inquire_at = NULL WHERE state = 'unknown'")
        if provider:
            intend_one(message, provider)
        else:
            claim_one(message)
        pass_time(3600)
        sweeping.sweep()
    pass_time(3600)
    while doubts.resolve():
        pass_time(3600)

    row = read(message)
    assert (row.crashes, sender.drain()) == (times, 0)
    assert simulator.requests() == []
    # What may have been accepted is called failed only where a search has told that it was not.
    assert (row.state, delivery_of(message).status) == {
        "": ("dead", "failed"),
        "resend": ("unknown", "unknown"),
        "postmark": ("dead", "failed"),
    }[provider]


def test_a_late_acceptance_of_what_was_quarantined_counts(db):
    message = enqueue()
    change(message, crashes=2)
    claim = intend_one(message)
    pass_time(3600)
    assert sweeping.sweep() == {"unknown": 1}

    outbox.settle([decisions.conclude(claim, PROVIDERS["resend"], Answer(Verdict.ACCEPTED))])

    assert (read(message).state, delivery_of(message).status) == ("sent", "sent")
    assert DeliveryEvent.objects.filter(event_type="ambiguous").count() == 1
