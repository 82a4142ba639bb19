"""Anymail's part: what a request for a message looks like, and what the answer to it says."""

import functools
import json
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urljoin

import anymail.utils
import requests
from anymail.backends.base import AnymailBaseBackend
from anymail.exceptions import AnymailError
from anymail.message import AnymailMessage, AnymailRecipientStatus, AnymailStatus
from anymail.signals import post_send
from anymail.utils import UNSET
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import get_connection
from requests.structures import CaseInsensitiveDict

from mailer import content
from mailer.couriers import Request, Response
from mailer.exceptions import MailerError
from mailer.outbox import Claimed
from mailer.providers import Provider
from mailer.providers.base import Batch, Search
from mailer.verdicts import Answer, Verdict

# What Anymail's parsers raise for an answer: of another shape than they expect, they do not look out for all.
UNREADABLE: Final = (AnymailError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

# Seconds that we wait at most where a provider asks us to.
LONGEST: Final = 15 * 60.0


# What is said of each letter of a batch that was refused as a whole.
BATCH_REFUSED: Final = "batch_refused"
# And of what was taken by an answer that does not say more.
UNREADABLE_ANSWER: Final = "unreadable_answer"


# Addresses that are kept parsed. Anymail parses the sender's with each mail and the recipient's again in the answer,
# which is a seventh of what a mail costs; nobody changes a parsed one.
ADDRESSES: Final = 4096
anymail.utils.EmailAddress = functools.lru_cache(ADDRESSES)(anymail.utils.EmailAddress)


class Unsendable(MailerError):
    """A message that this provider can never be given, or that a receiver of Anymail's `pre_send` held back."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A claimed message as its provider gets it: Anymail's mail, its payload, and the request that carries it alone.

    Without a payload the provider is not reached over HTTP.
    """

    claim: Claimed
    email: AnymailMessage
    payload: Any = None
    parameters: dict[str, Any] = field(default_factory=dict)


@functools.cache
def backend_at(path: str) -> Any:
    """Return one of Anymail's backends. It is made once: it holds settings only."""
    return get_connection(path)


@functools.cache
def _user_agent(path: str) -> str:
    with backend_at(path).create_session() as session:
        return str(session.headers["User-Agent"])


def write(provider: Provider, claim: Claimed) -> Letter:
    """Have Anymail make the request for a message, with its idempotency key in it. Raises `Unsendable`."""
    email = content.thaw(claim.message, [recipient.address for recipient in claim.recipients])
    if "to" in provider.requires or (provider.over_http and not email.cc):
        email = addressed(email)
    for attribute in provider.lacks:
        setattr(email, attribute, UNSET)
    backend = backend_at(provider.backend)
    try:
        # Receivers of Anymail's signals may use the database, so they are called here, not in a courier's thread.
        if isinstance(backend, AnymailBaseBackend) and not backend.run_pre_send(email):
            raise Unsendable("cancelled_by_receiver")
        if not provider.over_http:
            return Letter(claim, email)
        payload = backend.build_message_payload(email, backend.send_defaults)
        for place in (provider.key, provider.search):
            if place:
                place.mark(payload, str(claim.message.pk))
        parameters = payload.get_request_params(backend.api_url)
    except AnymailError as error:
        raise Unsendable(type(error).__name__) from error
    return Letter(claim, email, payload, parameters)


def addressed(email: AnymailMessage) -> AnymailMessage:
    """Return a mail with somebody in `to`, where that shows nobody to anyone who would not have known of them.

    Who gets a copy is known to all; who gets a blind one may know of themself.
    """
    if email.to or not (email.cc or len(email.bcc) == 1):
        return email
    moved = copy(email)
    if email.cc:
        moved.to, moved.cc = email.cc, []
    else:
        moved.to, moved.bcc = email.bcc, []
    return moved


def request_for(provider: Provider, letters: Sequence[Letter]) -> Request:
    """Return the request that carries these letters: one alone, or a batch."""
    parameters = dict(letters[0].parameters)
    if provider.batch and len(letters) > 1:
        parameters["url"] = _place_of_batches(provider, provider.batch)
        parameters["data"] = joined(provider.batch, letters)
    return prepared(provider, parameters)


def request_under(key: str, provider: Provider, body: str) -> Request:
    """Return the request for a batch for which one key holds: the same each time for the same key and body.

    Raises `ImproperlyConfigured` where the provider has no such batches.
    """
    if provider.batch is None or provider.batch.keyed is None:
        raise ImproperlyConfigured(f"{provider.name} has no batches under one key")
    headers = provider.batch.keyed(backend_at(provider.backend), key)
    url = _place_of_batches(provider, provider.batch)
    return prepared(provider, {"method": "POST", "url": url, "data": body, "headers": headers})


def joined(batch: Batch, letters: Sequence[Letter]) -> str:
    """Return the body that carries these letters together."""
    return batch.join([letter.parameters["data"] for letter in letters])


def _place_of_batches(provider: Provider, batch: Batch) -> str:
    return urljoin(str(backend_at(provider.backend).api_url), batch.path)


def inquiry_for(search: Search, provider: Provider, message_id: str) -> Request:
    """Return the request that asks a provider whether it has accepted a message."""
    return prepared(provider, search.request(backend_at(provider.backend), message_id))


def prepared(provider: Provider, parameters: Mapping[str, Any]) -> Request:
    """Return the request that `requests` would make of these parameters, as Anymail would."""
    parameters = {"data": None, **parameters}
    headers = {"User-Agent": _user_agent(provider.backend), **(parameters.pop("headers", None) or {})}
    if any(parameters.get(name) for name in ("params", "files", "auth")) or not isinstance(parameters["data"], str):
        prepared = requests.Request(headers=headers, **parameters).prepare()
        return Request(str(prepared.method), str(prepared.url), dict(prepared.headers), prepared.body)
    return Request(parameters["method"], parameters["url"], headers, parameters["data"].encode())


def answer_in(provider: Provider, letter: Letter, response: Response) -> Answer:
    """Return what the answer to a request says about the letter that went alone, and tell Anymail's `post_send`."""
    return _answer(provider, letter, _Read(response, decoded(response)))


def answers_in(provider: Provider, letters: Sequence[Letter], response: Response) -> list[Answer]:
    """Return what the answer to a batch says about each of its letters, and tell Anymail's `post_send`."""
    body = decoded(response)
    if parts := parts_of(provider, body, len(letters)):
        whole = _Read(response, body)
        return [
            _answer(provider, letter, whole.part(status, said))
            for letter, (status, said) in zip(letters, parts, strict=True)
        ]
    return [_of_whole(provider, response, body)] * len(letters)


def parts_of(provider: Provider, body: Any, count: int) -> list[tuple[int, Any]] | None:
    """Return what the answer to a batch of so many says of each; None where it does not."""
    parts = provider.batch.split(body) if provider.batch else None
    return parts if parts and len(parts) == count else None


def told(provider: Provider, letter: Letter, answer: Answer) -> Answer:
    """Return what a thread brought back about a letter, and tell Anymail's `post_send`."""
    backend = backend_at(provider.backend)
    if answer.verdict is Verdict.ACCEPTED and isinstance(backend, AnymailBaseBackend):
        status = AnymailStatus()
        status.set_recipient_status(answer.recipients)
        _tell(backend, letter, status)
    return answer


def _tell(backend: AnymailBaseBackend, letter: Letter, status: AnymailStatus) -> None:
    letter.email.anymail_status = status
    post_send.send_robust(type(backend), message=letter.email, status=status, esp_name=backend.esp_name)


def decoded(response: Response) -> Any:
    """Return the body of an answer: what its JSON says, or else its text."""
    try:
        return json.loads(response.body or b"")
    except UNREADABLE:
        return (response.body or b"").decode(errors="replace")


def _of_whole(provider: Provider, response: Response, body: Any) -> Answer:
    """Return what is known of all letters of a batch whose answer says nothing of each."""
    verdict, error_class = provider.verdict(response.status, body), f"http_{response.status}"
    if verdict is Verdict.PERMANENT or (
        verdict is Verdict.CONFIGURATION and response.status != HTTPStatus.UNAUTHORIZED
    ):
        # One of them may be at fault for all, by its sender perhaps: each is tried alone.
        verdict, error_class = Verdict.NOT_SENT, BATCH_REFUSED
    elif verdict is Verdict.ACCEPTED:
        error_class = UNREADABLE_ANSWER
        if provider.batch and provider.batch.keyed:
            verdict = Verdict.AMBIGUOUS  # to ask again what became of each does no harm
    return Answer(verdict, response.status, error_class, retry_after(response))


class _Read(requests.Response):
    """An answer as Anymail's parsers get it, decoded once for all the letters it is about."""

    def __init__(self, response: Response, said: Any) -> None:
        super().__init__()
        self.status_code = response.status
        self.headers = CaseInsensitiveDict(response.headers)
        self.encoding = "utf-8"
        self.is_cut_off = response.body is None
        self.retry_after = retry_after(response)
        self.said = said
        self._content = response.body or b""  # where requests keeps what it has read itself

    def part(self, status: int, said: Any) -> "_Read":
        """Return what this answer says of one letter of a batch, as if that had been sent alone."""
        one = object.__new__(_Read)
        one.__dict__.update(self.__dict__, status_code=status, said=said)
        return one

    def json(self, **_: Any) -> Any:
        """Return what was decoded. Raises `ValueError` where the body is not JSON, as requests does."""
        if isinstance(self.said, str):
            raise requests.JSONDecodeError("no JSON", "", 0)
        return self.said


def _answer(provider: Provider, letter: Letter, response: _Read) -> Answer:
    verdict = provider.verdict(response.status_code, response.said)
    error_class = "" if verdict is Verdict.ACCEPTED else f"http_{response.status_code}"
    backend, status = backend_at(provider.backend), AnymailStatus()
    if response.is_cut_off:
        error_class = error_class or UNREADABLE_ANSWER
    elif verdict in {Verdict.ACCEPTED, Verdict.PERMANENT}:
        try:
            said: Mapping[str, AnymailRecipientStatus] = backend.parse_recipient_status(
                response, letter.payload, letter.email
            )
            status.set_recipient_status(said)
        except UNREADABLE:
            # Accepted is accepted, readable or not; a refusal that names no recipient refuses all of them.
            error_class, status = error_class or UNREADABLE_ANSWER, AnymailStatus()
    if verdict is Verdict.ACCEPTED:
        _tell(backend, letter, status)
    return Answer(verdict, response.status_code, error_class, response.retry_after, status.recipients)


def retry_after(response: Response) -> float | None:
    """Return the seconds a provider asks us to wait; providers send a number, never a date (RFC 9110 10.2.3)."""
    value = response.headers.get("retry-after", "")
    return min(float(value), LONGEST) if value.isdecimal() else None
