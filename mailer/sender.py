"""Claim, send over kept-alive connections, record outcomes as they come.

Only the caller's thread speaks to the database. The pool's threads speak to providers: Anymail builds each payload and
reads each answer, over a session that a thread keeps open for as long as the process lives.
"""

import functools
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import requests
import structlog
from anymail.backends.base_requests import AnymailRequestsBackend
from anymail.exceptions import AnymailError
from anymail.message import AnymailMessage, AnymailRecipientStatus, AnymailStatus
from anymail.signals import post_send
from django.conf import settings
from django.core.mail import get_connection
from django.db import InterfaceError, OperationalError, connection
from urllib3.exceptions import HTTPError

from mailer import content, kinds, outbox, routing
from mailer.exceptions import FileUnavailable, MailerError, RenderError
from mailer.ledger import Fact, own_fact
from mailer.models import Message
from mailer.outbox import EVENT_OF_STATE, Claimed, Outcome, Recipient
from mailer.providers import Provider
from mailer.verdicts import Verdict, of_error, of_status

log = structlog.get_logger(__name__)
State = Message.State

# Seconds: to connect, and to wait for each part of the answer.
TIMEOUT: Final = (3.0, 10.0)
# Seconds and bytes that an answer's body may take: providers send some hundred bytes.
BODY_TIME: Final = 10.0
LARGEST: Final = 1024 * 1024

# Seconds after which a drain looks for new messages, and for requests to give up, though none has ended.
LOOK_AROUND: Final = 1.0

DATABASE_LOST: Final = (OperationalError, InterfaceError)
# Seconds before a lost database is tried again.
DATABASE_DOWN: Final = 0.5

# Retry with full jitter: uniform(0, min(LONGEST, FIRST * 2**n)) seconds, until one of the limits.
FIRST: Final = 2.0
LONGEST: Final = 15 * 60.0
MAX_ATTEMPTS: Final = 12
MAX_AGE: Final = 24 * 3600.0

# Seconds before the next try where the provider told us to wait, or where it would not know us.
THROTTLED: Final = 1.0
MISCONFIGURED: Final = 60.0

# Anymail's word for what the provider says of a recipient at once -> the event.
EVENT_OF_ANSWER: Final = {"rejected": "rejected", "invalid": "rejected", "failed": "failed"}

# What Anymail's parsers raise for an answer: of another shape than they expect, they do not look out for all.
UNREADABLE: Final = (AnymailError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider said to one request, or that it said nothing.

    `recipients` holds Anymail's reading for each address; it is empty where there was none to read. `retry_after`
    is in seconds.
    """

    verdict: Verdict
    http_status: int | None = None
    error_class: str = ""
    retry_after: float | None = None
    recipients: dict[str, AnymailRecipientStatus] | None = None


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A request that was handed to a thread, and when, by this process's steady clock."""

    claim: Claimed
    provider: Provider
    since: float = field(default_factory=time.monotonic)

    def age(self) -> float:
        """Return the seconds since."""
        return time.monotonic() - self.since


def _always() -> bool:
    return True


def drain(keep_on: Callable[[], bool] = _always) -> int:
    """Send all that is due, and return how many messages that was. Claims no more once `keep_on()` is false.

    Safe to run in any number of processes. When it is killed, at most what was in flight is in doubt. A database that
    is lost, or an error that nobody foresaw, such as one of a receiver of Anymail's signals, is raised once the other
    requests are settled.
    """
    concurrency: int = settings.MAIL_CONCURRENCY
    pool = _pool(os.getpid(), concurrency)
    under_way: dict[Future[Answer], UnderWay] = {}
    errors: list[BaseException] = []
    taken = 0
    while True:
        claims: list[Claimed] = []
        if not errors and keep_on() and len(under_way) < concurrency:
            try:
                claims = outbox.claim(_owner(), concurrency - len(under_way))
                for claim, provider in _intend(claims):
                    under_way[pool.submit(post, provider, claim)] = UnderWay(claim, provider)
            except DATABASE_LOST as error:
                errors.append(error)
        taken += len(claims)
        if not under_way:
            if claims and not errors:
                continue  # all of them ended before any request: there may be more
            if errors:
                raise errors[0]
            return taken
        done, _ = wait(under_way, timeout=LOOK_AROUND, return_when=FIRST_COMPLETED)
        ended = {future: under_way.pop(future) for future in done}
        errors += [failure for future in done if (failure := future.exception())]
        _settle([_conclude(sent, future.result()) for future, sent in ended.items() if not future.exception()])
        _abandon(under_way)


def _abandon(under_way: dict[Future[Answer], UnderWay]) -> None:
    """Wait no longer for requests that have outlived their lease: the sweep sees to their messages.

    One that never got a thread was not made.
    """
    late = [future for future, sent in under_way.items() if sent.age() > settings.MAIL_LEASE_SECONDS]
    for future in late:
        sent = under_way.pop(future)
        if future.cancel():
            _settle([_conclude(sent, Answer(Verdict.NOT_SENT, error_class="no_free_thread"))])
        else:
            log.error("request_abandoned", message_id=str(sent.claim.message.pk), provider=sent.provider.name)


@functools.cache
def _pool(_pid: int, size: int) -> ThreadPoolExecutor:
    """Return this process's threads; they, and their connections, live on between drains."""
    return ThreadPoolExecutor(size, thread_name_prefix="sender")


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"[:100]


def _intend(claims: Sequence[Claimed]) -> Iterable[tuple[Claimed, Provider]]:
    """Render and route what was claimed, settle what cannot go, and commit the intent for the rest."""
    ready: dict[UUID, tuple[Claimed, Provider]] = {}
    refused: list[tuple[Claimed, Outcome]] = []
    for claim in claims:
        try:
            provider = routing.choose(claim.message)
            lifetime = provider.key.lifetime.total_seconds() if provider.key else 0
            if claim.doubted_for is not None and claim.doubted_for >= lifetime:
                refused.append(_ended(claim, State.UNKNOWN, "key_expired"))
                continue
            claim.message.provider = provider.name
            claim.message.content = claim.message.content or kinds.render(claim.message)
            ready[claim.message.pk] = (claim, provider)
        except RenderError as error:
            refused.append(_ended(claim, State.DEAD, "does_not_render", reason=str(error)))
        except MailerError as error:
            refused.append(_ended(claim, State.DEAD, "not_routable", reason=str(error)))
    if refused:
        _settle(refused)
    return [ready[going.message.pk] for going in outbox.intend([claim for claim, _ in ready.values()])] if ready else []


def post(provider: Provider, claim: Claimed) -> Answer:
    """Make one request, and say what the answer means. Touches no database; raises nothing a provider can cause."""
    backend = _backend(provider.name, provider.backend)
    try:
        email = content.thaw(claim.message, [recipient.address for recipient in claim.recipients])
        if not backend.run_pre_send(email):
            return Answer(Verdict.PERMANENT, error_class="cancelled_by_receiver")
        payload = backend.build_message_payload(email, backend.send_defaults)
        if provider.key:
            payload.headers[provider.key.header] = str(claim.message.pk)
        parameters = payload.get_request_params(backend.api_url)
    except FileUnavailable as error:
        return Answer(Verdict.NOT_SENT, error_class=type(error).__name__)
    except AnymailError as error:
        return Answer(Verdict.PERMANENT, error_class=type(error).__name__)
    try:
        # Streamed, so that the status counts also where the body is cut off. A redirect is never followed: it would
        # be a GET, which sends nothing, and takes the token of the header to another host.
        how = {"timeout": TIMEOUT, "stream": True, "allow_redirects": False}
        response = backend.session.request(**{**parameters, **how})
    except requests.RequestException as error:
        return Answer(of_error(error), error_class=type(error).__name__)
    return _read(provider, backend, payload, email, response)


def _read(
    provider: Provider,
    backend: AnymailRequestsBackend,
    payload: Any,
    email: AnymailMessage,
    response: requests.Response,
) -> Answer:
    verdict = of_status(response.status_code, provider.refusals)
    error_class = "" if verdict is Verdict.ACCEPTED else f"http_{response.status_code}"
    status = AnymailStatus()
    if not _is_whole(response):
        error_class = error_class or "unreadable_answer"
    elif verdict in {Verdict.ACCEPTED, Verdict.PERMANENT}:
        try:
            status = _status_of(backend.parse_recipient_status(response, payload, email))
        except UNREADABLE:
            # Accepted is accepted, readable or not; a refusal that names no recipient refuses all of them.
            error_class = error_class or "unreadable_answer"
    if verdict is Verdict.ACCEPTED:
        email.anymail_status = status
        post_send.send_robust(type(backend), message=email, status=status, esp_name=backend.esp_name)
    return Answer(verdict, response.status_code, error_class, _retry_after(response), status.recipients)


def _is_whole(response: requests.Response) -> bool:
    """Read the body, which frees the connection for the next request; tell whether all of it came, and in time."""
    end, body = time.monotonic() + BODY_TIME, bytearray()
    try:
        # As it comes, since a read of all of it would wait for ever for a body that drips.
        while part := response.raw.read1(LARGEST, decode_content=True):
            body += part
            if len(body) > LARGEST or time.monotonic() > end:
                response.close()
                return False
    except (HTTPError, OSError):
        response.close()
        return False
    response._content = bytes(body)  # noqa: SLF001  # where requests keeps what it has read itself
    return True


def _status_of(recipients: dict[str, AnymailRecipientStatus]) -> AnymailStatus:
    status = AnymailStatus()
    status.set_recipient_status(recipients)
    return status


def _retry_after(response: requests.Response) -> float | None:
    """Return the seconds a provider asks us to wait; providers send a number, never a date (RFC 9110 10.2.3)."""
    value = response.headers.get("Retry-After", "")
    return min(float(value), LONGEST) if value.isdecimal() else None


_thread = threading.local()


def _backend(name: str, path: str) -> AnymailRequestsBackend:
    """Return this thread's backend for a provider, its session open: a new one costs a TLS handshake."""
    backends: dict[str, AnymailRequestsBackend] = _thread.__dict__.setdefault("backends", {})
    if name not in backends:
        backends[name] = get_connection(path)
        backends[name].open()
    return backends[name]


def _conclude(sent: UnderWay, answer: Answer) -> tuple[Claimed, Outcome]:
    """Decide what follows from an answer."""
    claim, provider, message = sent.claim, sent.provider, sent.claim.message
    repeatable = provider.key is not None
    doubted = claim.doubted_for is not None or (answer.verdict is Verdict.AMBIGUOUS)
    charged = answer.verdict in {Verdict.NOT_SENT, Verdict.AMBIGUOUS}
    match answer.verdict:
        case Verdict.ACCEPTED:
            state = State.SENT
        case Verdict.PERMANENT:
            state = State.DEAD
        case Verdict.AMBIGUOUS if not repeatable:
            state = State.UNKNOWN
        case _ if message.attempts + charged >= MAX_ATTEMPTS or claim.age >= MAX_AGE:
            state = State.UNKNOWN if doubted else State.DEAD
        case _:
            state = State.RETRY
    return claim, Outcome(
        message_id=message.pk,
        token=message.token,
        state=state,
        verdict=answer.verdict,
        charged=charged,
        delay=_delay(answer, message.attempts),
        http_status=answer.http_status,
        error_class=answer.error_class,
        facts=_facts(claim, provider, answer, state),
    )


def _delay(answer: Answer, attempts: int) -> float:
    match answer.verdict:
        case Verdict.THROTTLED:
            return answer.retry_after or THROTTLED
        case Verdict.CONFIGURATION:
            return MISCONFIGURED
        case _:
            return random.uniform(0, min(LONGEST, FIRST * 2**attempts))  # noqa: S311  # jitter, no secret


def _facts(claim: Claimed, provider: Provider, answer: Answer, state: str) -> tuple[Fact, ...]:
    if state not in {State.SENT, State.DEAD}:
        return _told(claim, EVENT_OF_STATE[state], answer.error_class)
    otherwise = "sent" if state == State.SENT else "failed"
    return tuple(
        own_fact(
            EVENT_OF_ANSWER.get(said.status, otherwise) if said else otherwise,
            recipient.delivery_id,
            claim.message.token,
            provider=provider.name,
            esp_message_id=str(said.message_id or "") if said else "",
            detail=answer.error_class,
        )
        for recipient in claim.recipients
        for said in [_said_of(recipient, answer, alone=len(claim.recipients) == 1)]
    )


def _said_of(recipient: Recipient, answer: Answer, *, alone: bool) -> AnymailRecipientStatus | None:
    said = {address.casefold(): status for address, status in (answer.recipients or {}).items()}
    found = said.get(recipient.address.casefold())
    # Anymail names a lone recipient as it encoded it for the wire, which may differ from what was asked for.
    return found or (next(iter(said.values())) if alone and len(said) == 1 else None)


def _told(claim: Claimed, event_type: str, detail: str) -> tuple[Fact, ...]:
    return tuple(
        own_fact(event_type, recipient.delivery_id, claim.message.token, detail=detail)
        for recipient in claim.recipients
    )


def _ended(claim: Claimed, state: str, error_class: str, reason: str = "") -> tuple[Claimed, Outcome]:
    """Return the outcome of a claim for which no request is made."""
    return claim, Outcome(
        message_id=claim.message.pk,
        token=claim.message.token,
        state=state,
        error_class=error_class,
        facts=_told(claim, EVENT_OF_STATE[state], reason or error_class),
    )


def _settle(outcomes: Sequence[tuple[Claimed, Outcome]]) -> None:
    """Write outcomes, and log each with the id that runs through the whole story.

    An answer is a fact that nobody else knows, so a lost database is tried again until the leases are over.
    """
    end = time.monotonic() + settings.MAIL_LEASE_SECONDS
    while True:
        try:
            outbox.settle([outcome for _, outcome in outcomes])
            break
        except DATABASE_LOST as error:
            if connection.in_atomic_block or time.monotonic() > end:
                raise
            log.warning("database_lost", error_class=type(error).__name__)
            connection.close()
            time.sleep(DATABASE_DOWN)
    for claim, outcome in outcomes:
        log.log(
            logging.INFO if outcome.state == State.SENT else logging.WARNING,
            outbox.LOG_EVENT[outcome.state],
            message_id=str(outcome.message_id),
            kind=claim.message.kind,
            correlation_id=claim.message.correlation_id,
            provider=claim.message.provider,
            esp_message_ids=[fact.esp_message_id for fact in outcome.facts if fact.esp_message_id],
            attempt=outcome.token,
            http_status=outcome.http_status,
            error_class=outcome.error_class,
        )
