"""Evidence about what may have been accepted, and what follows from it."""

from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db.models.functions import Now
from structlog.testing import capture_logs

from mailer import doubts, ledger, operators, outbox, sender
from mailer.models import DeliveryEvent, Message, RepeatCount
from mailer.suppressions import suppress
from mailer.verdicts import Verdict
from tests.conftest import in_threads
from tests.mailer.conftest import change, delivery_of, enqueue, fact, intend_one, outcome, read

HOUR = timedelta(hours=1)


@pytest.mark.parametrize("state", ["unknown", "sending", "retry", "dead", "expired", "leased", "cancelled"])
def test_confirm_takes_a_message_in_doubt_for_sent(db, state):
    message = enqueue(kind="verification")
    intend_one(message)
    change(message, state=state)

    assert doubts.confirm("resend", [message.pk]) == 1

    row = read(message)
    assert (row.state, row.content, row.lease_until) == ("sent", None, None)
    assert row.finished_at is not None


def test_confirm_leaves_what_is_sent(db):
    message = enqueue()
    intend_one(message)
    change(message, state="sent")

    assert doubts.confirm("resend", [message.pk]) == 0

    assert read(message).finished_at is None


@pytest.mark.parametrize("prove", ["an answer", "a webhook"])
def test_what_was_accepted_is_sent_though_it_was_cancelled(db, prove):
    message = enqueue(kind="verification")
    claim = intend_one(message)
    change(message, state="retry")
    assert operators.cancel(message.pk)

    if prove == "an answer":
        outbox.settle([outcome(claim, "sent", "sent", verdict=Verdict.ACCEPTED)])
    else:
        doubts.confirm("resend", [message.pk])

    assert read(message).state == "sent"


def test_confirm_does_not_believe_in_what_was_cancelled_and_never_tried(db):
    message = enqueue()
    assert operators.cancel(message.pk)

    assert doubts.confirm("resend", [message.pk]) == 0

    assert read(message).state == "cancelled"


def test_confirm_does_not_believe_in_what_was_never_tried(db):
    message = enqueue()

    assert doubts.confirm("resend", [message.pk]) == 0

    assert read(message).state == "pending"


def test_confirm_nothing(db, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert doubts.confirm("resend", []) == 0


@pytest.fixture
def doubted(db, simulator, settings, fresh_courier):
    """Leave a message in doubt at a provider that can be searched, its grace over, as a fault of the provider does."""
    settings.MAIL_PROVIDERS = ["postmark"]

    def doubted(**faults: float) -> Message:
        message = enqueue(kind="account_exists")
        simulator.faults(**faults)
        sender.drain()
        simulator.faults()
        assert read(message).state == "unknown"
        change(message, inquire_at=Now() - timedelta(seconds=1))
        return message

    return doubted


def test_resolve_takes_what_the_provider_has_for_sent(doubted, simulator):
    message = doubted(rate_reset_after=1)

    assert doubts.resolve() == 1

    (mail,) = simulator.accepted(message.pk)
    row, delivery = read(message), delivery_of(message)
    assert (row.state, row.inquire_at) == ("sent", None)
    assert (delivery.status, delivery.esp_message_id) == ("sent", mail["id"])
    assert DeliveryEvent.objects.get(delivery=delivery, status="sent").source == "poll"


@pytest.mark.parametrize("secret", [True, False])
def test_resolve_erases_a_secret_at_the_end(doubted, secret):
    message = doubted(rate_reset_after=1)
    change(message, secret=secret)
    assert read(message).content

    doubts.resolve()

    assert (read(message).content is None) == secret


@pytest.mark.parametrize("command", [["send_queued_mail"], ["relay", "--once"]], ids=" ".join)
def test_who_sends_without_a_broker_looks_into_doubts_as_well(doubted, command):
    message = doubted(rate_reset_after=1)

    call_command(*command)

    assert read(message).state == "sent"


def test_resolve_asks_again_while_the_provider_may_not_know_yet(doubted):
    message = doubted(rate_5xx_before=1)

    assert doubts.resolve() == 1

    row = read(message)
    assert row.state == "unknown"
    assert row.inquire_at is not None


def test_resolve_tries_again_what_the_provider_never_had(doubted, simulator):
    message = doubted(rate_5xx_before=1)
    message.tries.update(started_at=Now() - HOUR)

    assert doubts.resolve() == 1
    assert (read(message).state, read(message).repeats) == ("retry", 0)
    sender.drain()

    assert read(message).state == "sent"
    assert len(simulator.accepted(message.pk)) == 1


def test_resolve_has_a_suppression_respected_by_what_the_provider_never_had(doubted, simulator):
    message = doubted(rate_5xx_before=1)
    message.tries.update(started_at=Now() - HOUR)
    suppress("ada@example.com", "hard_bounce", source="postmark")

    doubts.resolve()
    sender.drain()

    assert (read(message).state, delivery_of(message).status) == ("suppressed", "cancelled")
    assert simulator.accepted(message.pk) == []
    # When a search is complete is a guess: a report that it has arrived counts for more.
    ledger.record(
        [fact("delivered", provider="postmark", message_id=message.pk, recipient_canonical="ada@example.com")]
    )
    assert delivery_of(message).status == "delivered"


def test_resolve_repeats_what_may_have_been_accepted_whoever_is_suppressed(doubted, settings, simulator):
    settings.MAIL_PROVIDERS = ["mailjet"]
    message = doubted(rate_5xx_before=1)
    suppress("ada@example.com", "hard_bounce", source="mailjet")

    doubts.resolve()
    sender.drain()

    assert (read(message).state, read(message).repeats) == ("sent", 1)


def test_resolve_disproves_only_what_was_tried_before_the_search(doubted, simulator):
    message = doubted(rate_5xx_before=1)
    message.tries.update(started_at=Now() - HOUR)
    doubts.resolve()
    simulator.faults(rate_reset_after=1)
    sender.drain()
    simulator.faults()
    change(message, state="retry", run_at=Now() - HOUR)

    (claim,) = outbox.claim("worker", 1)

    assert (claim.doubted_for is not None, claim.is_disproved) == (True, False)
    assert message.tries.filter(disproved_at=None).count() == 1


def test_resolve_leaves_what_it_no_longer_knows_to_an_operator(doubted, settings):
    settings.MAIL_PROVIDERS = ["mailjet"]
    gone, known = doubted(rate_5xx_before=1), doubted(rate_5xx_before=1)
    change(gone, kind="gone")

    assert doubts.resolve() == 2

    assert (read(gone).state, read(gone).inquire_at) == ("unknown", None)
    assert read(known).state == "retry"


def test_resolve_asks_again_where_the_provider_does_not_tell(doubted, simulator):
    message = doubted(rate_5xx_before=1)
    message.tries.update(started_at=Now() - HOUR)
    simulator.faults(rate_search_5xx=1)

    assert doubts.resolve() == 1
    assert (read(message).state, read(message).inquire_at is None) == ("unknown", False)

    message.tries.update(started_at=Now() - 2 * HOUR)
    change(message, inquire_at=Now() - timedelta(seconds=1))
    assert doubts.resolve() == 1
    assert (read(message).state, read(message).repeats) == ("retry", 1)


@pytest.mark.parametrize(("kind", "state", "repeats"), [("account_exists", "retry", 1), ("welcome", "unknown", 0)])
def test_resolve_decides_by_its_kind_what_nobody_can_tell(doubted, settings, kind, state, repeats):
    settings.MAIL_PROVIDERS = ["mailjet"]
    message = doubted(rate_5xx_before=1)
    change(message, kind=kind)

    assert doubts.resolve() == 1

    row = read(message)
    assert (row.state, row.repeats, row.inquire_at) == (state, repeats, None)
    counted = [(kind, "mailjet", 1)] if repeats else []
    assert [*RepeatCount.objects.values_list("kind", "provider", "count")] == counted


@pytest.mark.django_db(transaction=True)
def test_repeats_are_all_counted_that_are_decided_at_once(doubted, settings):
    settings.MAIL_PROVIDERS = ["mailjet"]
    for _ in range(8):
        doubted(rate_5xx_before=1)

    in_threads(4, lambda _: [doubts.resolve(limit=1) for _ in range(2)])

    assert Message.objects.filter(state="retry", repeats=1).count() == 8
    assert RepeatCount.objects.get().count == 8


def test_repeats_that_harm_nobody_are_not_counted(doubted):
    message = doubted(rate_5xx_before=1)
    message.tries.update(started_at=Now() - HOUR)

    doubts.resolve()

    assert read(message).state == "retry"
    assert not RepeatCount.objects.exists()


def test_resolve_leaves_a_doubt_its_grace(doubted):
    message = doubted(rate_5xx_before=1)
    change(message, inquire_at=Now() + HOUR)

    assert doubts.resolve() == 0


def test_resolve_settles_the_others_where_nobody_foresaw_one(doubted, settings, monkeypatch):
    settings.MAIL_PROVIDERS = ["mailjet"]
    first, second = doubted(rate_5xx_before=1), doubted(rate_5xx_before=1)
    change(first, inquire_at=Now() - HOUR)
    resolve = doubts._resolve

    def stumble(doubt, silent):
        if doubt.message_id == first.pk:
            raise ZeroDivisionError
        resolve(doubt, silent)

    monkeypatch.setattr(doubts, "_resolve", stumble)

    with capture_logs() as logs:
        assert doubts.resolve() == 2

    assert [entry["message_id"] for entry in logs if entry["event"] == "doubt_failed"] == [str(first.pk)]
    assert (read(first).state, read(second).state) == ("unknown", "retry")
