"""The door: which requests are a provider's, and what each is answered.

200 only once a request is stored, also where it cannot be read or is about a message we do not know; 401 for a bad
signature, a network that is not the provider's (403 would make Postmark stop for good), or a name that came with
another body before (406 would make Mailgun stop); 413 and 415 for what is never read; 503, or what else has the
provider send it again, where the fault is ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
from django.conf import settings
from django.db import Error as DatabaseError

from users import networks
from webhooks import inbox, refusals
from webhooks.exceptions import Rejected, TooManyEvents, Unavailable, WebhookError
from webhooks.inbox import Genuine
from webhooks.providers import WEBHOOKS, Incoming

log = structlog.get_logger(__name__)

# Seconds after which a provider may try again what could not be stored.
RETRY_AFTER: Final = "30"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request at the door: what came, from which address (empty where nobody knows), and what logs call it."""

    incoming: Incoming
    address: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered; there is never a body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)


TAKEN: Final = Answer(200)


def is_open(esp: str) -> bool:
    """Tell whether a provider's webhooks are taken: it is one that is known, and has a secret."""
    return esp in WEBHOOKS and bool(settings.WEBHOOK_SECRETS.get(esp))


def answers(esp: str, arrivals: Sequence[Arrival]) -> list[Answer]:
    """Verify requests of one provider, store and record those that are genuine; return the answer to each."""
    given: dict[int, Answer] = {}
    genuine: dict[int, Genuine] = {}
    for place, arrival in enumerate(arrivals):
        try:
            genuine[place] = _verified(esp, arrival)
        except WebhookError as error:
            given[place] = _because(esp, error)
    try:
        outcomes = inbox.process_all(esp, list(genuine.values()))
    except DatabaseError as error:
        # The text of a database error may quote what was written.
        log.error("receipt_not_stored", provider=esp, error_class=type(error).__name__)  # noqa: TRY400
        given |= dict.fromkeys(genuine, later(esp))
    else:
        for place, outcome in zip(genuine, outcomes, strict=True):
            given[place] = _because(esp, outcome) if isinstance(outcome, WebhookError) else TAKEN
    return [given[place] for place in range(len(arrivals))]


def refused(esp: str, status: int, reason: str) -> Answer:
    """Count a refusal, and return its answer."""
    log.warning("receipt_rejected", provider=esp, code=status, reason=reason)
    refusals.count(esp, status, reason)
    return Answer(status, {"WWW-Authenticate": 'Basic realm="webhooks"'} if status == 401 else {})  # noqa: PLR2004  # RFC 9110 11.6.1


def later(esp: str) -> Answer:
    """Return the answer that has a provider send a request again."""
    return Answer(WEBHOOKS[esp].again, {"Retry-After": RETRY_AFTER})


class Barred(WebhookError):
    """A request is refused before it is looked at closely, with a status and for a reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, reason


def _verified(esp: str, arrival: Arrival) -> Genuine:
    """Return a request with the proof that it is the provider's. Raises `WebhookError`."""
    incoming = arrival.incoming
    webhook = WEBHOOKS[esp]
    if not networks.holds(settings.WEBHOOK_NETWORKS.get(esp), arrival.address):
        raise Barred(401, "from_elsewhere")
    if incoming.headers.get("content-encoding", "identity").casefold() != "identity":
        raise Barred(415, "encoded_body")
    if webhook.largest is not None and len(incoming.body) > webhook.largest:
        raise Barred(413, "too_large")
    proof = webhook.verify(incoming, settings.WEBHOOK_SECRETS[esp])
    return Genuine(incoming, proof, arrival.request_id)


def _because(esp: str, error: WebhookError) -> Answer:
    match error:
        case Barred():
            return refused(esp, error.status, error.reason)
        case Rejected():
            return refused(esp, 401, str(error))
        case TooManyEvents():
            return refused(esp, 413, "too_many_events")
        case Unavailable():
            log.error("receipt_not_verified", provider=esp, reason=str(error))
            return later(esp)
        case _:
            raise error
