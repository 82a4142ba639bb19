"""The routes: two send APIs, what a test asks, and the inbox pages.

For tests: ``GET /log.json``, ``/inbox.json``, ``/webhooks.json`` and ``/healthz``, ``GET`` and
``PUT /faults``, ``POST /reset``.
"""

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from simulator import pages, postmark, resend, sockets
from simulator.faults import Dice, Faults, FaultsError
from simulator.log import Claim, Log
from simulator.mail import Mail, Refusal, RefusedError, rfc3339
from simulator.settings import Settings
from simulator.webhooks import Poster

UNREADABLE = b"<html><body>502 Bad Gateway"
RETRY_AFTER = {"Retry-After": "1"}


@dataclass
class Simulator:
    """What the routes share. ``poster`` needs a running loop, so it comes with the lifespan."""

    settings: Settings
    log: Log
    dice: Dice
    in_flight: set[tuple[str, str]] = field(default_factory=set)
    poster: Poster = field(init=False)

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.poster = Poster(self.log, self.settings.endpoints, self.settings.time_scale, self.dice)
        running = asyncio.create_task(self.poster.run())
        yield
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await self.poster.close()

    # Accepting

    async def accept(self, mails: list[Mail], claim: Claim | None = None) -> None:
        """Return once the mails are on disk and their webhooks queued, or posted already by that fault."""
        hooks = [hook for mail in mails for hook in self.poster.plan(mail)]
        await self.log.accept(mails, hooks, claim)
        if self.dice.faults.webhook_early:
            await self.poster.post_early(hooks)
        else:
            self.poster.add(hooks)

    async def take(self, request: Request, api: "Api", accept: Callable[[], Awaitable[Response]]) -> Response:
        """Answer a send request, with what goes wrong before it is accepted and after it was."""
        await asyncio.sleep(self.dice.faults.latency_ms / 1000)
        response = self.fail_before(request, api)
        if response:
            return response
        response = await accept()
        return self.fail_after(request, api, response) if response.status_code == HTTPStatus.OK else response

    def fail_before(self, request: Request, api: "Api") -> Response | None:
        if self.dice.hit("rate_429"):
            return refuse(api.rate_limited)
        if self.dice.hit("rate_reset_before"):
            return hang_up(request)
        return refuse(api.unavailable) if self.dice.hit("rate_5xx_before") else None

    def fail_after(self, request: Request, api: "Api", response: Response) -> Response:
        if self.dice.hit("rate_reset_after"):
            return hang_up(request)
        if self.dice.hit("rate_5xx_after"):
            return refuse(api.unavailable)
        return Response(UNREADABLE, media_type="text/html") if self.dice.hit("rate_unreadable") else response

    # Postmark

    async def postmark_send(self, request: Request) -> Response:
        self.authorize_postmark(request)
        payload = await read_json(request, postmark.BAD_JSON)
        return await self.take(request, POSTMARK, lambda: self.accept_postmark(payload))

    def authorize_postmark(self, request: Request) -> None:
        postmark.authorize(request.headers.get("x-postmark-server-token"), self.settings.postmark_token)

    async def accept_postmark(self, payload: Any) -> Response:
        """Take one message, or a batch of which each message has its own outcome."""
        if isinstance(payload, list) and len(payload) > postmark.BATCH_LIMIT:
            raise RefusedError(postmark.TOO_MANY)
        batch = payload if isinstance(payload, list) else [payload]
        outcomes = [read_or_refuse(message) for message in batch]
        await self.accept([outcome for outcome in outcomes if isinstance(outcome, Mail)])
        answers = [postmark.accepted(each) if isinstance(each, Mail) else each.body for each in outcomes]
        if isinstance(payload, list):
            return JSONResponse(answers)
        return JSONResponse(answers[0], outcomes[0].status if isinstance(outcomes[0], Refusal) else 200)

    async def postmark_details(self, request: Request) -> Response:
        self.authorize_postmark(request)
        return JSONResponse(postmark.details(*await self.story(request, POSTMARK)))

    # Resend

    async def resend_send(self, request: Request) -> Response:
        self.authorize_resend(request)
        key = request.headers.get("idempotency-key")
        resend.check_idempotency_key(key)
        payload = await read_json(request, resend.BAD_JSON)
        place = (request.url.path, key or "")
        if place in self.in_flight:
            raise RefusedError(resend.CONCURRENT)
        if key:
            self.in_flight.add(place)
        try:
            return await self.take(request, RESEND, lambda: self.accept_resend(place, payload))
        finally:
            self.in_flight.discard(place)

    def authorize_resend(self, request: Request) -> None:
        resend.authorize(request.headers.get("authorization"), self.settings.resend_key)

    async def accept_resend(self, place: tuple[str, str], payload: Any) -> Response:
        """Take one mail or a whole batch, once for each idempotency key."""
        digest = hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()
        endpoint, key = place
        now = time.time()
        earlier = self.log.claim(endpoint, key, now - resend.KEY_LIFE) if key else None
        if earlier:
            if earlier.digest != digest:
                raise RefusedError(resend.OTHER_BODY)
            return JSONResponse(json.loads(earlier.answer))
        mails = read_resend(endpoint, payload, key)
        ids = [{"id": mail.id} for mail in mails]
        answer: Any = {"data": ids} if endpoint.endswith("/batch") else ids[0]
        await self.accept(mails, Claim(endpoint, key, digest, json.dumps(answer), now) if key else None)
        return JSONResponse(answer)

    async def resend_details(self, request: Request) -> Response:
        self.authorize_resend(request)
        return JSONResponse(resend.details(*await self.story(request, RESEND)))

    async def story(self, request: Request, api: "Api") -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Find a mail of this provider and what has happened to it, oldest first. Raises RefusedError."""
        found = await self.log.mails(mail_id=request.path_params["id"])
        if not found or found[0]["provider"] != api.name:
            raise RefusedError(api.not_found)
        hooks = await self.log.webhooks([found[0]["id"]])
        past = [{**hook, "body": json.loads(hook["body"])} for hook in hooks if hook["happened_at"] <= time.time()]
        return found[0], sorted(past, key=lambda hook: hook["happened_at"])

    # For tests

    async def log_json(self, request: Request) -> Response:
        """List mails, oldest first; ``message_id``, ``to`` and ``since`` (RFC 3339, exclusive) narrow it."""
        query = request.query_params
        try:
            since = rfc3339(datetime.fromisoformat(query["since"])) if "since" in query else ""
        except ValueError:
            return JSONResponse({"error": "since must be an RFC 3339 time"}, 400)
        rows = await self.log.mails(message_id=query.get("message_id", ""), to=query.get("to", ""), since=since)
        names = ("id", "provider", "subject", "metadata", "idempotency_key", "accepted_at")
        accepted = [{**{name: row[name] for name in names}, "to": row["recipients"]} for row in reversed(rows)]
        return JSONResponse({"accepted": accepted, "count": len(accepted)})

    async def inbox_json(self, request: Request) -> Response:
        """List mails with their parts and links, newest first; ``to`` and ``limit`` narrow it."""
        rows = await self.log.mails(to=request.query_params.get("to", ""), limit=limit_of(request))
        mails = [{**row, "from": row["sender"], "to": row["recipients"]} for row in rows]
        for mail in mails:
            for name in ("seq", "sender", "recipients", "payload"):
                del mail[name]
        return JSONResponse({"mails": mails, "count": len(mails)})

    async def webhooks_json(self, request: Request) -> Response:
        """List webhooks as planned, with attempts and the last answer; ``to`` and ``mail`` narrow it."""
        query = request.query_params
        rows = [
            {**row, "body": json.loads(row["body"])}
            for row in await self.log.webhooks([query["mail"]] if "mail" in query else None)
            if row["recipient"].lower() == query.get("to", row["recipient"]).lower()
        ]
        return JSONResponse({"webhooks": rows, "count": len(rows)})

    async def faults(self, request: Request) -> Response:
        if request.method == "PUT":
            try:
                self.set_faults(Faults.read(await request.json()))
            except (json.JSONDecodeError, FaultsError) as error:
                return JSONResponse({"error": str(error)}, 400)
        return JSONResponse(asdict(self.dice.faults))

    def set_faults(self, faults: Faults) -> None:
        self.dice = self.poster.dice = Dice(faults)

    async def reset(self, _: Request) -> Response:
        """Forget every mail, webhook and idempotency key. Faults stay: ``PUT /faults {}`` clears those."""
        self.poster.forget()
        await self.log.empty()
        return Response(status_code=204)

    async def healthz(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    # Pages

    async def inbox_page(self, request: Request) -> Response:
        to = request.query_params.get("to", "")
        mails = await self.log.mails(to=to, limit=pages.PAGE)
        hooks = await self.log.webhooks([mail["id"] for mail in mails])
        refresh = request.query_params.get("refresh") != "off"
        return HTMLResponse(pages.inbox(mails, hooks, to, refresh=refresh), headers=pages.HEADERS)

    async def mail_page(self, request: Request) -> Response:
        found = await self.log.mails(mail_id=request.path_params["id"])
        if not found:
            return HTMLResponse(pages.missing(), 404, headers=pages.HEADERS)
        return HTMLResponse(pages.mail(found[0], await self.log.webhooks([found[0]["id"]])), headers=pages.HEADERS)


@dataclass(frozen=True)
class Api:
    name: str
    rate_limited: Refusal
    unavailable: Refusal
    not_found: Refusal


POSTMARK = Api(postmark.NAME, postmark.RATE_LIMITED, postmark.UNAVAILABLE, postmark.NOT_FOUND)
RESEND = Api(resend.NAME, resend.RATE_LIMITED, resend.UNAVAILABLE, resend.NOT_FOUND)


def read_resend(endpoint: str, payload: Any, key: str) -> list[Mail]:
    """Read a request's mails. Raises RefusedError for the whole request when one of them is wrong."""
    if not endpoint.endswith("/batch"):
        return [resend.read(payload, key)]
    if not isinstance(payload, list) or not payload:
        raise RefusedError(resend.WRONG_JSON)
    if len(payload) > resend.BATCH_LIMIT:
        raise RefusedError(resend.TOO_MANY)
    return [resend.read(each, key) for each in payload]


async def read_json(request: Request, refusal: Refusal) -> Any:
    try:
        return await request.json()
    except ValueError as error:
        raise RefusedError(refusal) from error


def read_or_refuse(message: Any) -> Mail | Refusal:
    try:
        return postmark.read(message)
    except RefusedError as error:
        return error.refusal


def limit_of(request: Request) -> int:
    limit = request.query_params.get("limit", "")
    return int(limit) if limit.isdecimal() else -1


def refuse(refusal: Refusal) -> Response:
    wait = RETRY_AFTER if refusal.status == HTTPStatus.TOO_MANY_REQUESTS else {}
    return JSONResponse(refusal.body, refusal.status, {**refusal.headers, **wait})


async def answer_refused(_: Request, error: Exception) -> Response:
    if not isinstance(error, RefusedError):
        raise error
    return refuse(error.refusal)


def hang_up(request: Request) -> Response:
    """Cut the connection; the response returned goes nowhere."""
    if not request.client:
        raise LookupError("the server does not say who the client is")
    with contextlib.suppress(LookupError):  # the client was quicker
        sockets.abort((request.client.host, int(request.client.port)))
    return Response(status_code=HTTPStatus.INTERNAL_SERVER_ERROR)


def build(settings: Settings, log: Log) -> Starlette:
    """Put the program together: an ASGI application."""
    simulator = Simulator(settings, log, Dice(settings.faults))
    routes = [
        Route("/postmark/email", simulator.postmark_send, methods=["POST"]),
        Route("/postmark/email/batch", simulator.postmark_send, methods=["POST"]),
        Route("/postmark/messages/outbound/{id}/details", simulator.postmark_details),
        Route("/resend/emails", simulator.resend_send, methods=["POST"]),
        Route("/resend/emails/batch", simulator.resend_send, methods=["POST"]),
        Route("/resend/emails/{id}", simulator.resend_details),
        Route("/log.json", simulator.log_json),
        Route("/inbox.json", simulator.inbox_json),
        Route("/webhooks.json", simulator.webhooks_json),
        Route("/faults", simulator.faults, methods=["GET", "PUT"]),
        Route("/reset", simulator.reset, methods=["POST"]),
        Route("/healthz", simulator.healthz),
        Route("/", simulator.inbox_page),
        Route("/inbox/{id}", simulator.mail_page),
    ]
    return Starlette(routes=routes, lifespan=simulator.lifespan, exception_handlers={RefusedError: answer_refused})
