"""What came back: written, logged, and told to the fleet."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

import structlog
from django.conf import settings
from django.db import DataError, connection

from mailer import outbox, routing
from mailer.exceptions import DATABASE_LOST
from mailer.letters import BATCH_REFUSED, UNREADABLE_ANSWER
from mailer.models import Message
from mailer.outbox import Claimed, Outcome
from mailer.sweeping import LOG_EVENT
from mailer.verdicts import Answer, Verdict

log = structlog.get_logger(__name__)
State = Message.State

Concluded = tuple[Claimed, Outcome]

# Seconds before a lost database is tried again.
DATABASE_DOWN: Final = 0.5
# Seconds that a provider is left alone which does not say for how long it wants to be.
THROTTLED: Final = 1.0


def settle(outcomes: Sequence[Concluded]) -> None:
    """Write outcomes, and log each with the id that runs through the whole story.

    An answer is a fact that nobody else knows, so a lost database is tried again until the leases are over.
    """
    end = time.monotonic() + settings.MAIL_LEASE_SECONDS
    while True:
        try:
            outbox.settle([outcome for _, outcome in outcomes])
            break
        except DataError:
            # One of them holds what the database does not take: the others shall not share its fate.
            if len(outcomes) == 1:
                raise
            _settle_each(outcomes)
            return
        except DATABASE_LOST as error:
            if connection.in_atomic_block or time.monotonic() > end:
                raise
            log.warning("database_lost", error_class=type(error).__name__)
            connection.close()
            time.sleep(DATABASE_DOWN)
    for claim, outcome in outcomes:
        log.log(
            _level(outcome),
            LOG_EVENT[outcome.state],
            message_id=str(outcome.message_id),
            kind=claim.message.kind,
            correlation_id=claim.message.correlation_id,
            provider=claim.message.provider,
            esp_message_ids=[fact.esp_message_id for fact in outcome.facts if fact.esp_message_id],
            attempt=outcome.token,
            http_status=outcome.http_status,
            error_class=outcome.error_class,
        )


def _settle_each(outcomes: Sequence[Concluded]) -> None:
    errors: list[DataError] = []
    for each in outcomes:
        try:
            settle([each])
        except DataError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _level(outcome: Outcome) -> int:
    if outcome.verdict is None and outcome.state == State.RETRY:
        return logging.DEBUG  # put back: it waits for its provider
    return logging.INFO if outcome.state == State.SENT else logging.WARNING


def report(name: str, requests: Sequence[Sequence[Answer]], *, is_troubled: bool) -> None:
    """Have the fleet know how a provider does, by the answers that each request had, one a message.

    `is_troubled` says that something bad is remembered of it. A request that failed is one failure, however many
    messages it carried.
    """
    said = [Counter(map(_verdict, answers)) for answers in requests]
    verdicts = sum(said, Counter[Verdict]())
    if verdicts[Verdict.THROTTLED]:
        routing.throttled(name, max(answer.retry_after or THROTTLED for answers in requests for answer in answers))
    if verdicts[Verdict.CONFIGURATION]:
        routing.refused(name)
    elif verdicts[Verdict.ACCEPTED] or verdicts[Verdict.PERMANENT]:
        if is_troubled:
            routing.succeeded(name)
    elif failures := sum(bool(each[Verdict.NOT_SENT] or each[Verdict.AMBIGUOUS]) for each in said):
        routing.failed(name, failures)


def _verdict(answer: Answer) -> Verdict:
    """Return what an answer says of its provider."""
    # What refuses a batch works: one of its letters may be at fault. So does what takes it and cannot be understood.
    return Verdict.PERMANENT if answer.error_class in {BATCH_REFUSED, UNREADABLE_ANSWER} else answer.verdict
