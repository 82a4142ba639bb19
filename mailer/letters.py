"""Anymail's part: what a request for a message looks like, and what the answer to it says."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urljoin

import requests
from anymail.exceptions import AnymailError
from anymail.message import AnymailMessage, AnymailRecipientStatus, AnymailStatus
from anymail.signals import post_send
from django.core.mail import get_connection
from requests.structures import CaseInsensitiveDict

from mailer import content
from mailer.couriers import Request, Response
from mailer.exceptions import MailerError
from mailer.outbox import Claimed
from mailer.providers import Provider
from mailer.providers.base import Key
from mailer.verdicts import Answer, Verdict, of_status

# What Anymail's parsers raise for an answer: of another shape than they expect, they do not look out for all.
UNREADABLE: Final = (AnymailError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

# Seconds that we wait at most where a provider asks us to.
LONGEST: Final = 15 * 60.0


class Unsendable(MailerError):
    """A message that this provider can never be given, or that a receiver of Anymail's `pre_send` held back."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A claimed message as its provider gets it: Anymail's mail, its payload, and the request that carries it alone.

    Without a payload the provider is not reached over HTTP. A letter with a mark carries its idempotency key.
    """

    claim: Claimed
    email: AnymailMessage
    payload: Any = None
    parameters: dict[str, Any] = field(default_factory=dict)
    is_marked: bool = False


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
    if not provider.over_http:
        return Letter(claim, email)
    backend = backend_at(provider.backend)
    try:
        if not backend.run_pre_send(email):
            raise Unsendable("cancelled_by_receiver")
        payload = backend.build_message_payload(email, backend.send_defaults)
        if provider.key:
            _mark(payload, provider.key, str(claim.message.pk))
        parameters = payload.get_request_params(backend.api_url)
    except AnymailError as error:
        raise Unsendable(type(error).__name__) from error
    return Letter(claim, email, payload, parameters, is_marked=provider.key is not None)


def _mark(payload: Any, key: Key, value: str) -> None:
    """Put the idempotency key where the provider looks for it."""
    if key.header:
        payload.headers = {**(payload.headers or {}), key.header: value}
        return
    *path, last = key.field
    place = payload.data
    for name in path:
        place = place.setdefault(name, {})
    place[last] = value


def request_for(provider: Provider, letters: Sequence[Letter]) -> Request:
    """Return the request that carries these letters: one alone, or a batch."""
    parameters = dict(letters[0].parameters)
    if provider.batch and len(letters) > 1:
        bodies = [json.loads(letter.parameters["data"]) for letter in letters]
        parameters["url"] = urljoin(backend_at(provider.backend).api_url, provider.batch.path)
        parameters["data"] = json.dumps(provider.batch.join(bodies))
    return _prepared(provider, parameters)


def inquiry_for(provider: Provider, message_id: str) -> Request:
    """Return the request that asks a provider whether it has accepted a message, as whom it would be sent."""
    backend = backend_at(provider.backend)
    email = AnymailMessage(body="-", from_email="inquiry@example.com", to=["inquiry@example.com"])
    payload = backend.build_message_payload(email, {})
    headers = {name: value for name, value in (payload.headers or {}).items() if name.lower() != "content-type"}
    search = {"method": "GET", "params": None, "data": None, "headers": headers, "auth": payload.auth}
    parameters = provider.search.parameters(backend.api_url, message_id) if provider.search else {}
    return _prepared(provider, {**search, **parameters})


def _prepared(provider: Provider, parameters: dict[str, Any]) -> Request:
    headers = {"User-Agent": _user_agent(provider.backend), **(parameters.pop("headers", None) or {})}
    if any(parameters.get(name) for name in ("params", "files", "auth")) or not isinstance(parameters["data"], str):
        prepared = requests.Request(headers=headers, **parameters).prepare()
        return Request(str(prepared.method), str(prepared.url), dict(prepared.headers), prepared.body)
    return Request(parameters["method"], parameters["url"], headers, parameters["data"].encode())


def answers_in(provider: Provider, letters: Sequence[Letter], response: Response) -> list[Answer]:
    """Return what the answer to a request says about each of its letters, and tell Anymail's `post_send`."""
    if len(letters) == 1:
        return [_answer(provider, letters[0], response)]
    verdict = _verdict(provider, response)
    if verdict is Verdict.PERMANENT:
        # One of them may be at fault for all: each is tried alone.
        return [Answer(Verdict.NOT_SENT, response.status, "batch_refused")] * len(letters)
    items = _items(provider, response) if verdict is Verdict.ACCEPTED else []
    if len(items) != len(letters):
        error_class = "unreadable_answer" if verdict is Verdict.ACCEPTED else f"http_{response.status}"
        return [Answer(verdict, response.status, error_class, _retry_after(response))] * len(letters)
    return [
        _answer(provider, letter, Response(status, response.headers, json.dumps(body).encode()))
        for letter, (status, body) in zip(letters, items, strict=True)
    ]


def _items(provider: Provider, response: Response) -> list[tuple[int, Any]]:
    try:
        return provider.batch.split(json.loads(response.body or b"")) if provider.batch else []
    except UNREADABLE:
        return []


def _answer(provider: Provider, letter: Letter, response: Response) -> Answer:
    verdict = _verdict(provider, response)
    error_class = "" if verdict is Verdict.ACCEPTED else f"http_{response.status}"
    backend, status = backend_at(provider.backend), AnymailStatus()
    if response.body is None:
        error_class = error_class or "unreadable_answer"
    elif verdict in {Verdict.ACCEPTED, Verdict.PERMANENT}:
        try:
            said: Mapping[str, AnymailRecipientStatus] = backend.parse_recipient_status(
                _as_requests(response), letter.payload, letter.email
            )
            status.set_recipient_status(said)
        except UNREADABLE:
            # Accepted is accepted, readable or not; a refusal that names no recipient refuses all of them.
            error_class, status = error_class or "unreadable_answer", AnymailStatus()
    if verdict is Verdict.ACCEPTED:
        letter.email.anymail_status = status
        post_send.send_robust(type(backend), message=letter.email, status=status, esp_name=backend.esp_name)
    return Answer(verdict, response.status, error_class, _retry_after(response), status.recipients)


def _verdict(provider: Provider, response: Response) -> Verdict:
    """Return what the error code in the body means, or else the status."""
    if provider.error_code and provider.errors and response.body:
        code = _dig(response.body, provider.error_code)
        if found := provider.errors.get(str(code)):
            return found
    return of_status(response.status, provider.refusals)


def _dig(body: bytes, path: Sequence[str | int]) -> Any:
    try:
        place = json.loads(body)
        for step in path:
            place = place[step]
    except UNREADABLE:
        return None
    return place


def _as_requests(response: Response) -> requests.Response:
    """Return the answer as the object that Anymail's parsers read."""
    known = requests.Response()
    known.status_code = response.status
    known.headers = CaseInsensitiveDict(response.headers)
    known.encoding = "utf-8"
    known._content = response.body or b""  # noqa: SLF001  # where requests keeps what it has read itself
    return known


def _retry_after(response: Response) -> float | None:
    """Return the seconds a provider asks us to wait; providers send a number, never a date (RFC 9110 10.2.3)."""
    value = response.headers.get("retry-after", "")
    return min(float(value), LONGEST) if value.isdecimal() else None
