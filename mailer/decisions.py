"""What follows from what became of a claim: pure Python, no database and no network."""

import random
from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Final

from anymail.message import AnymailRecipientStatus
from django.conf import settings

from mailer.ledger import MAX_IDENTIFIER, Fact, own_fact, text_of
from mailer.models import Message
from mailer.outbox import EVENT_OF_STATE, Claimed, Outcome, Recipient
from mailer.providers import Provider
from mailer.verdicts import Answer, Verdict

State = Message.State

# Retry with full jitter: uniform(0, min(LONGEST, FIRST * 2**n)) seconds, until one of the limits.
FIRST: Final = 2.0
LONGEST: Final = 15 * 60.0
MAX_ATTEMPTS: Final = 12
MAX_AGE: Final = 24 * 3600.0
# Seconds among which those spread that wait for their provider: `routing` keeps them off it meanwhile.
SPREAD: Final = 1.0

# Verdicts that count against the limit of attempts.
CHARGED: Final = frozenset({Verdict.NOT_SENT, Verdict.AMBIGUOUS, Verdict.SENDER})

# Anymail's word for what the provider says of a recipient at once -> the event.
EVENT_OF_ANSWER: Final = {"rejected": "rejected", "invalid": "rejected", "failed": "failed"}


def conclude(claim: Claimed, provider: Provider, answer: Answer, *, is_kept: bool = False) -> Outcome:
    """Decide what follows from an answer. A request that `is_kept` goes again as it was: see `mailer.batches`."""
    message = claim.message
    doubted = claim.doubted_for is not None or answer.verdict is Verdict.AMBIGUOUS
    deferred = _deferred(claim, answer)
    charged = bool(deferred) or answer.verdict in CHARGED or (doubted and answer.verdict is Verdict.PERMANENT)
    match answer.verdict:
        case Verdict.ACCEPTED if deferred and not is_exhausted(message.attempts + charged, claim.age):
            state = State.RETRY
        case Verdict.ACCEPTED:
            state = State.SENT
        case Verdict.PERMANENT:
            # What refuses a repeat says nothing of the attempt before it.
            state = State.UNKNOWN if doubted else State.DEAD
        case Verdict.AMBIGUOUS if is_kept or not is_repeatable(claim, provider):
            state = State.UNKNOWN
        case _ if is_exhausted(message.attempts + charged, claim.age):
            state = State.UNKNOWN if doubted else State.DEAD
        case _:
            state = State.RETRY
    return Outcome(
        message_id=message.pk,
        token=message.token,
        state=state,
        verdict=answer.verdict,
        charged=charged,
        delay=_delay(answer, message.attempts),
        inquire_in=settings.MAIL_GRACE_SECONDS if state == State.UNKNOWN and not is_kept else None,
        http_status=answer.http_status,
        error_class=answer.error_class,
        facts=_facts(claim, provider, answer, state),
    )


def judged(claim: Claimed, answer: Answer) -> Answer:
    """Return an answer, as one about the sender alone where that is another than ours.

    Of DEFAULT_FROM_EMAIL a refusal shows that a setting is wrong, for all mail; a mail that came through
    `EMAIL_BACKEND` may be from anybody, and must not keep the others waiting. A bad token (401) is our own fault.
    """
    sender = (claim.message.content or {}).get("from_email")
    if (
        answer.verdict is not Verdict.CONFIGURATION
        or answer.http_status in {None, HTTPStatus.UNAUTHORIZED}
        or sender == settings.DEFAULT_FROM_EMAIL
    ):
        return answer
    return replace(answer, verdict=Verdict.SENDER)


def is_repeatable(claim: Claimed, provider: Provider) -> bool:
    """Tell whether the provider's idempotency key still makes a repeat harmless."""
    return provider.key is not None and (claim.doubted_for or 0.0) < provider.key.lifetime.total_seconds()


def is_exhausted(attempts: int, age: float) -> bool:
    """Tell whether a message has been tried often, or long, enough."""
    return attempts >= MAX_ATTEMPTS or age >= MAX_AGE


def ended(claim: Claimed, state: str, error_class: str, reason: str = "") -> Outcome:
    """Return the outcome of a claim for which no request is made."""
    return Outcome(
        message_id=claim.message.pk,
        token=claim.message.token,
        state=state,
        inquire_in=settings.MAIL_GRACE_SECONDS if state == State.UNKNOWN else None,
        error_class=error_class,
        facts=told(claim, EVENT_OF_STATE[state], reason or error_class),
    )


def put_back(claim: Claimed, wait: float) -> Outcome:
    """Return the outcome of a claim that no provider may take for `wait` seconds: nobody need be told."""
    return Outcome(
        message_id=claim.message.pk,
        token=claim.message.token,
        state=State.RETRY,
        delay=wait + _spread(),
        error_class=claim.message.error_class,
    )


def told(claim: Claimed, event_type: str, detail: str) -> tuple[Fact, ...]:
    """Return the same fact about each of a claim's recipients."""
    return tuple(told_of(recipient, claim, event_type, detail) for recipient in claim.recipients)


def told_of(recipient: Recipient, claim: Claimed, event_type: str, detail: str) -> Fact:
    """Return a fact of ours about one recipient of a claim."""
    return own_fact(event_type, recipient.delivery_id, claim.message.token, detail=detail)


def _delay(answer: Answer, attempts: int) -> float:
    if answer.verdict in {Verdict.THROTTLED, Verdict.CONFIGURATION}:
        return _spread()
    return random.uniform(0, min(LONGEST, FIRST * 2**attempts))  # noqa: S311  # jitter, no secret


def _spread() -> float:
    return random.uniform(0, SPREAD)  # noqa: S311  # jitter, no secret


def _deferred(claim: Claimed, answer: Answer) -> tuple[Recipient, ...]:
    """Return the recipients that were refused for now, of a mail that was accepted for others."""
    refused = {address.casefold() for address in answer.deferred}
    return tuple(recipient for recipient in claim.recipients if recipient.address.casefold() in refused)


def _facts(claim: Claimed, provider: Provider, answer: Answer, state: str) -> tuple[Fact, ...]:
    if answer.verdict is Verdict.ACCEPTED and state == State.RETRY:
        deferred = _deferred(claim, answer)
        rest = replace(claim, recipients=tuple(each for each in claim.recipients if each not in deferred))
        again = told(replace(claim, recipients=deferred), EVENT_OF_STATE[state], answer.error_class)
        return _facts(rest, provider, replace(answer, error_class=""), State.SENT) + again
    if state not in {State.SENT, State.DEAD}:
        return told(claim, EVENT_OF_STATE[state], answer.error_class)
    otherwise = "sent" if state == State.SENT else "failed"
    return tuple(
        own_fact(
            EVENT_OF_ANSWER.get(said.status, otherwise) if said else otherwise,
            recipient.delivery_id,
            claim.message.token,
            provider=provider.name,
            esp_message_id=text_of(said.message_id or "", MAX_IDENTIFIER) if said else "",
            detail=answer.error_class,
        )
        for recipient in claim.recipients
        for said in [_said_of(recipient, answer, claim.recipients)]
    )


def _said_of(recipient: Recipient, answer: Answer, among: Sequence[Recipient]) -> AnymailRecipientStatus | None:
    said = {address.casefold(): status for address, status in answer.recipients.items()}
    found = said.get(recipient.address.casefold())
    # Anymail names a lone recipient as it encoded it for the wire, which may differ from what was asked for.
    return found or (next(iter(said.values())) if len(among) == len(said) == 1 else None)
