"""One way through for every send API: authorize, let go wrong what is to go wrong, accept, answer.

ASGI without a framework, since a load test comes through here for each mail.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import orjson

from simulator import sockets
from simulator.api import Answer, Api, Headers
from simulator.faults import Dice
from simulator.log import Claim, Log
from simulator.mail import Mail, Refusal, RefusedError
from simulator.planning import Planner
from simulator.webhooks import Poster

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

ACCEPTED, REPEATED = "accepted", "repeated"
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def to(cls, answer: Answer) -> "Reply":
        return cls(answer.status, b"" if answer.body is None else orjson.dumps(answer.body), answer.headers)

    @classmethod
    def refusing(cls, refusal: Refusal, **headers: str) -> "Reply":
        return cls(refusal.status, orjson.dumps(refusal.body), {**refusal.headers, **headers})


# What is said by cutting the connection, at once or after a long silence.
CUT, HANG = Reply(0, b"CUT"), Reply(0, b"HANG")
# Faults by when they strike, in the order in which their chances are drawn, with what is said instead.
BEFORE: dict[str, Callable[[Api], Reply]] = {
    "rate_429": lambda api: Reply.refusing(api.rate_limited, **{"Retry-After": "1"}),
    "rate_429_bare": lambda api: Reply.refusing(api.rate_limited),
    "rate_reset_before": lambda _: CUT,
    "rate_5xx_before": lambda api: Reply.refusing(api.unavailable),
}
AFTER: dict[str, Callable[[Api], Reply]] = {
    "rate_reset_after": lambda _: CUT,
    "rate_5xx_after": lambda api: Reply.refusing(api.unavailable),
    "rate_unreadable": lambda _: Reply(HTTPStatus.OK, b"<html><body>502 Bad Gateway", {"Content-Type": "text/html"}),
    "rate_hang": lambda _: HANG,
}


@dataclass(slots=True)
class Desk:
    """What the send APIs share: the log, the chance, and who plans and posts the webhooks."""

    log: Log
    planner: Planner
    poster: Poster
    dice: Dice
    under_way: set[str] = field(default_factory=set)


class SendApi:
    """One provider's send API; ``secret`` is what its clients must show, empty refuses everybody."""

    def __init__(self, api: Api, secret: str, desk: Desk) -> None:
        self._api, self._secret, self._desk = api, secret, desk

    async def __call__(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a POST to one of the API's paths."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        body = await _body(receive)
        if body is None:
            return
        reply = await self._take(path, headers, body)
        if reply is HANG:
            await asyncio.sleep(self._desk.dice.faults.hang_ms / 1000)
        if reply is CUT or reply is HANG:
            with contextlib.suppress(LookupError):  # the client was quicker
                sockets.abort((scope["client"][0], int(scope["client"][1])))
            reply = Reply(HTTPStatus.INTERNAL_SERVER_ERROR, b"")  # goes nowhere
        await _answer(send, reply)

    async def _take(self, path: str, headers: Headers, body: bytes) -> Reply:
        payload: Any = None
        try:
            payload = self._decode(body)
            self._api.authorize(headers, self._secret)
            with self._alone(path, headers) as key:
                if latency := self._desk.dice.faults.latency_ms:
                    await asyncio.sleep(latency / 1000)
                return await self._decide(path, headers, payload, key)
        except RefusedError as error:
            await self._note(payload, _refused(error.refusal))
            return Reply.refusing(error.refusal)

    def _decode(self, body: bytes) -> Any:
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise RefusedError(self._api.bad_json) from error

    @contextlib.contextmanager
    def _alone(self, path: str, headers: Headers) -> Iterator[str]:
        """Hold the request's idempotency key, made unique by its path; empty where there is none."""
        keys = self._api.keys
        key = headers.get(keys.header) if keys else None
        if keys is None or key is None:
            yield ""
            return
        if not 1 <= len(key) <= keys.longest:
            raise RefusedError(keys.wrong)
        place = f"{self._api.name}/{path} {key}"
        if place in self._desk.under_way:
            raise RefusedError(keys.under_way)
        self._desk.under_way.add(place)
        try:
            yield place
        finally:
            self._desk.under_way.discard(place)

    async def _decide(self, path: str, headers: Headers, payload: Any, key: str) -> Reply:
        if fault := self._desk.dice.first(BEFORE):
            await self._note(payload, _named(fault))
            return BEFORE[fault](self._api)
        reply = self._earlier(payload, key)
        if reply:
            await self._note(payload, REPEATED)
            fault = self._desk.dice.first(AFTER)
        else:
            answer = self._api.paths[path](payload, headers)
            fault = self._desk.dice.first(AFTER)
            reply = Reply.to(answer)
            claim = Claim(key, _digest(payload), reply.body, time.time()) if key else None
            await self._accept(payload, answer, _named(fault) or ACCEPTED, claim)
        return AFTER[fault](self._api) if fault else reply

    def _earlier(self, payload: Any, key: str) -> Reply | None:
        """Find what the key has answered already. Raises RefusedError where that was to another body."""
        keys = self._api.keys
        claim = self._desk.log.claim(key, time.time() - keys.life) if keys and key else None
        if keys and claim and claim.digest != _digest(payload):
            raise RefusedError(keys.other_body)
        return Reply(HTTPStatus.OK, claim.answer) if claim else None

    async def _accept(self, payload: Any, answer: Answer, done: str, claim: Claim | None) -> None:
        """Return once the mails are on disk and their webhooks queued, or posted already by that fault."""
        numbers = [self._desk.log.number() for _ in answer.outcomes]
        mails: list[Mail] = []
        refused: list[tuple[int, str]] = []
        for number, outcome in zip(numbers, answer.outcomes, strict=True):
            if isinstance(outcome, Refusal):
                refused.append((number, _refused(outcome)))
                continue
            outcome.seq, outcome.request = number, numbers[0]
            outcome.idempotency_key = claim.key.partition(" ")[2] if claim else ""
            mails.append(outcome)
        rows = self._rows(payload, numbers, dict(refused)) if refused else []
        hooks = self._desk.planner.follow(mails, self._desk.dice)
        await self._desk.log.accept(mails, hooks, done=done, refused=rows, claim=claim)
        await self._desk.poster.take(hooks, now=self._desk.dice.faults.webhook_early)

    async def _note(self, payload: Any, done: str) -> None:
        """Log a request of which nothing was accepted."""
        numbers = [self._desk.log.number() for _ in self._api.message_ids(payload) or [""]]
        await self._desk.log.refuse(self._rows(payload, numbers, dict.fromkeys(numbers, done)))

    def _rows(self, payload: Any, numbers: list[int], done: dict[int, str]) -> list[tuple[Any, ...]]:
        """Make the log's rows for those messages of a request to which something was done."""
        ids = self._api.message_ids(payload) or [""]
        return [
            (number, numbers[0], self._api.name, message_id, done[number], time.time())
            for number, message_id in zip(numbers, ids, strict=True)
            if number in done
        ]


def _named(fault: str) -> str:
    return fault.removeprefix("rate_")


def _refused(refusal: Refusal) -> str:
    return f"refused_{refusal.status}"


def _digest(payload: Any) -> str:
    return hashlib.sha256(orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)).hexdigest()


async def _body(receive: Receive) -> bytes | None:
    """Read the whole body; None where the client left before the end of it, and so has asked for nothing."""
    parts: list[bytes] = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


async def _answer(send: Send, reply: Reply) -> None:
    headers = {"Content-Type": JSON, "Content-Length": str(len(reply.body)), **reply.headers}
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": raw})
    await send({"type": "http.response.body", "body": reply.body})
