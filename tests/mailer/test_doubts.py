"""Evidence about what may have been accepted, and what follows from it."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from mailer import doubts
from mailer.ledger import own_fact
from mailer.models import Message
from mailer.outbox import Claimed, Outcome
from tests.mailer.conftest import change, enqueue, intend_one, read

HOUR = timedelta(hours=1)


def outcome(claim: Claimed, state: str, event_type: str, **fields) -> Outcome:
    """Return an outcome of a claim that tells its deliveries one fact."""
    facts = tuple(
        own_fact(event_type, recipient.delivery_id, claim.message.token, provider=claim.message.provider)
        for recipient in claim.recipients
    )
    return Outcome(claim.message.pk, claim.message.token, state, **{"facts": facts, **fields})


def lapse(message: Message, **fields) -> None:
    """Let the lease of a message run out."""
    change(message, lease_until=Now() - timedelta(hours=1), **fields)


@pytest.mark.parametrize("state", ["unknown", "sending", "retry", "dead", "expired", "leased"])
def test_confirm_takes_a_message_in_doubt_for_sent(db, state):
    message = enqueue(kind="verification")
    intend_one(message)
    change(message, state=state)

    assert doubts.confirm([message.pk]) == 1

    row = read(message)
    assert (row.state, row.content, row.lease_until) == ("sent", None, None)
    assert row.finished_at is not None


@pytest.mark.parametrize("state", ["sent", "cancelled"])
def test_confirm_leaves_what_is_settled(db, state):
    message = enqueue()
    intend_one(message)
    change(message, state=state)

    assert doubts.confirm([message.pk]) == 0

    assert read(message).state == state


def test_confirm_does_not_believe_in_what_was_never_tried(db):
    message = enqueue()

    assert doubts.confirm([message.pk]) == 0

    assert read(message).state == "pending"


def test_confirm_nothing(db, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert doubts.confirm([]) == 0
