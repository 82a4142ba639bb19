"""The routes: the send APIs, what they can be asked, what a test asks, and the inbox pages.

For tests: ``GET /log.json``, ``/counts.json``, ``/requests.json``, ``/inbox.json``, ``/webhooks.json`` and
``/healthz``, ``GET`` and ``PUT /faults``, ``POST /reports``, ``/checks`` and ``/reset``.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, quote

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from simulator import asking, mailjet, pages, postmark, resend, sendgrid
from simulator.api import Api
from simulator.faults import Dice, Faults, FaultsError
from simulator.log import UNLIMITED, Log
from simulator.mail import Mail, Refusal, RefusedError, rfc3339
from simulator.planning import Planner
from simulator.reports import REPORTS
from simulator.sending import Desk, SendApi
from simulator.settings import Settings
from simulator.webhooks import Poster

# Where each send API is, as its provider's own client expects it under the address that it is given.
ROOTS = {"/postmark/": postmark.API, "/resend/": resend.API, "/mailjet/": mailjet.API, "/sendgrid/": sendgrid.API}
APIS = {api.name: api for api in ROOTS.values()}
# Rows in one answer of a list that pages, unless ``limit`` says otherwise.
PAGE = 1000
REFUSED_ROWS = {"error": "since must be an RFC 3339 time, after and limit whole numbers"}


class Simulator:
    """What the routes share."""

    def __init__(self, settings: Settings, log: Log) -> None:
        self.settings, self.log = settings, log
        self.poster = Poster(log, settings.endpoints, settings.time_scale)
        planner = Planner(log.number, settings.endpoints, settings.time_scale, on=settings.webhooks)
        self.desk = Desk(log, planner, self.poster, Dice(settings.faults))

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(self.poster.run())
        running.add_done_callback(report)
        yield
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    # What the providers can be asked

    async def postmark_details(self, request: Request) -> Response:
        self.authorize(request, postmark.API)
        return JSONResponse(
            postmark.details(*await self.story(request.path_params["id"], postmark.NAME, postmark.NOT_FOUND))
        )

    async def postmark_bounces(self, request: Request) -> Response:
        """List the bounces of one message; without ``messageID`` the real API lists all, which nobody here asks for."""
        self.authorize(request, postmark.API)
        query = request.query_params
        if not all(query.get(name, "").isdecimal() for name in ("count", "offset")):
            raise RefusedError(postmark.WRONG_SEARCH)
        _, happened = await self.story(query.get("messageID", ""), postmark.NAME, postmark.NOT_FOUND)
        return JSONResponse(postmark.bounces(happened))

    async def postmark_search(self, request: Request) -> Response:
        self.authorize(request, postmark.API)
        search = postmark.read_search(request.query_params)
        if self.desk.dice.hit("rate_search_5xx"):
            raise RefusedError(postmark.UNAVAILABLE)
        until = time.time() - self.desk.dice.faults.search_lag_ms / 1000
        filters = {**search.filters, "provider": postmark.NAME, "until": until}
        rows = await self.log.mails(**filters, limit=search.count, offset=search.offset)
        found = [postmark.summary(mail_of(row)) for row in rows]
        return JSONResponse({"TotalCount": await self.log.count(**filters), "Messages": found})

    async def resend_details(self, request: Request) -> Response:
        self.authorize(request, resend.API)
        return JSONResponse(resend.details(*await self.story(request.path_params["id"], resend.NAME, resend.NOT_FOUND)))

    async def sendgrid_activity(self, request: Request) -> Response:
        self.authorize(request, sendgrid.API)
        identifier = sendgrid.read_query(request.query_params)
        rows = await self.log.mails(metadata=("anymail_id", identifier), provider=sendgrid.NAME)
        # Where time is scaled to nothing, all has happened.
        scale = self.settings.time_scale or 1e-9
        found = [each for row in rows for each in sendgrid.activity(mail_of(row), (time.time() - row["at"]) / scale)]
        return JSONResponse({"messages": found})

    def authorize(self, request: Request, api: Api) -> None:
        api.authorize(request.headers, self.settings.secrets.get(api.name, ""))

    async def story(self, identifier: str, provider: str, missing: Refusal) -> tuple[Mail, list[dict[str, Any]]]:
        """Find a mail of this provider and what has happened to it, oldest first. Raises RefusedError."""
        rows = await self.log.mails(id=identifier, provider=provider)
        if not rows:
            raise RefusedError(missing)
        hooks = await self.log.webhooks([rows[0]["seq"]])
        past = [{**hook, "body": orjson.loads(hook["body"])} for hook in hooks if hook["happened_at"] <= time.time()]
        return mail_of(rows[0]), sorted(past, key=lambda hook: hook["happened_at"])

    # For tests

    async def log_json(self, request: Request) -> Response:
        """List mails, oldest first, a page at a time.

        ``message_id`` (ours, in the metadata), ``to`` and ``since`` (RFC 3339, exclusive) narrow it; ``next`` is what
        to pass as ``after`` to get the next page, or null.
        """
        query = request.query_params
        try:
            since = datetime.fromisoformat(query["since"]).timestamp() if "since" in query else None
            after, limit = place_of(request)
        except ValueError:
            return JSONResponse(REFUSED_ROWS, HTTPStatus.BAD_REQUEST)
        rows = await self.log.mails(
            message_id=query.get("message_id") or None,
            to=query.get("to") or None,
            since=since,
            after=after,
            oldest_first=True,
            limit=limit,
        )
        accepted = [logged(row) for row in rows]
        return JSONResponse({"accepted": accepted, "count": len(accepted), "next": next_of(rows, limit)})

    async def requests_json(self, request: Request) -> Response:
        """List what was done to each message of each request, oldest first; pages as ``/log.json`` does."""
        try:
            after, limit = place_of(request)
        except ValueError:
            return JSONResponse(REFUSED_ROWS, HTTPStatus.BAD_REQUEST)
        rows = await self.log.requests(after=after, limit=limit)
        return JSONResponse({"requests": rows, "count": len(rows), "next": next_of(rows, limit)})

    async def counts_json(self, _: Request) -> Response:
        """Count mails by provider, webhooks by state, and acceptances of each message that was not accepted once."""
        counts: dict[str, dict[str, int]] = await self.log.counts()
        mails = sum(counts["by_provider"].values())
        return JSONResponse({"mails": mails, **counts, "webhooks": dict(+self.poster.states)})

    async def inbox_json(self, request: Request) -> Response:
        """List mails with their parts and links, newest first; ``to`` and ``limit`` narrow it."""
        query = request.query_params
        limit = int(query["limit"]) if query.get("limit", "").isdecimal() else UNLIMITED
        mails = [inbox_entry(mail_of(row)) for row in await self.log.mails(to=query.get("to") or None, limit=limit)]
        return JSONResponse({"mails": mails, "count": len(mails)})

    async def webhooks_json(self, request: Request) -> Response:
        """List webhooks as planned, with attempts and the last answer; ``to`` and ``mail`` (its id) narrow it.

        All of them unless ``limit`` is given; then pages as ``/log.json`` does.
        """
        query = request.query_params
        try:
            after, limit = place_of(request, UNLIMITED)
        except ValueError:
            return JSONResponse(REFUSED_ROWS, HTTPStatus.BAD_REQUEST)
        mails = [row["seq"] for row in await self.log.mails(id=query["mail"])] if "mail" in query else None
        found = await self.log.webhooks(mails, after=after, limit=limit)
        rows = [
            {**row, "body": orjson.loads(row["body"])}
            for row in found
            if row["recipient"].lower() == query.get("to", row["recipient"]).lower()
        ]
        return JSONResponse({"webhooks": rows, "count": len(rows), "next": next_of(found, limit)})

    async def faults(self, request: Request) -> Response:
        if request.method == "PUT":
            try:
                self.desk.dice = Dice(Faults.read(orjson.loads(await request.body())))
            except (orjson.JSONDecodeError, FaultsError) as error:
                return JSONResponse({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        return JSONResponse(asdict(self.desk.dice.faults))

    async def reports(self, request: Request) -> Response:
        """Post webhooks about any mail, as ``asking.read`` has them asked for; list them as planned.

        By ``webhook_early`` among the faults they are listed with their first answers.
        """
        try:
            return await self.report(orjson.loads(await request.body()))
        except orjson.JSONDecodeError as error:
            return JSONResponse({"error": str(error)}, HTTPStatus.BAD_REQUEST)

    async def report(self, payload: Any) -> Response:
        try:
            asked = await asking.read(payload, self.settings.endpoints, self.find)
        except asking.AskedError as error:
            return JSONResponse({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        dice = Dice(asked.faults) if asked.faults else self.desk.dice
        hooks = self.desk.planner.report(asked.happened, asked.batch, dice)
        await self.log.plan(hooks)
        await self.poster.take(hooks, now=dice.faults.webhook_early)
        rows = [{**asdict(hook), "body": orjson.loads(hook.body)} for hook in hooks]
        return JSONResponse({"webhooks": rows, "count": len(rows)}, HTTPStatus.ACCEPTED)

    async def checks(self, request: Request) -> Response:
        """Try the address of a ``provider`` as it does itself when it is told of it; nearly all do nothing."""
        endpoint = self.settings.endpoints.get(request.query_params.get("provider", ""))
        if endpoint is None:
            known = ", ".join(self.settings.endpoints)
            return JSONResponse({"error": f"provider must be one of {known}"}, HTTPStatus.BAD_REQUEST)
        return JSONResponse({"checks": await self.poster.check(endpoint)})

    async def find(self, provider: str, identifier: str) -> Mail | None:
        rows = await self.log.mails(id=identifier, provider=provider)
        return mail_of(rows[0]) if rows else None

    async def reset(self, _: Request) -> Response:
        """Forget every mail, webhook and idempotency key. Faults stay: ``PUT /faults {}`` clears those."""
        self.poster.forget()
        await self.log.empty()
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def healthz(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    # Pages

    async def inbox_page(self, request: Request) -> Response:
        to = request.query_params.get("to", "")
        mails = [mail_of(row) for row in await self.log.mails(to=to or None, limit=pages.PAGE)]
        hooks = await self.log.webhooks([mail.seq for mail in mails])
        refresh = request.query_params.get("refresh") != "off"
        return HTMLResponse(pages.inbox(mails, hooks, to, refresh=refresh), headers=pages.HEADERS)

    async def mail_page(self, request: Request) -> Response:
        rows = await self.log.mails(id=request.path_params["id"])
        if not rows:
            return HTMLResponse(pages.missing(), HTTPStatus.NOT_FOUND, headers=pages.HEADERS)
        hooks = await self.log.webhooks([rows[0]["seq"]])
        mail = mail_of(rows[0])
        words = REPORTS[mail.provider].events if mail.provider in self.settings.endpoints else ()
        return HTMLResponse(pages.mail(mail, hooks, words), headers=pages.HEADERS)

    async def mail_report(self, request: Request) -> Response:
        """Post what the form on a mail's page says, and show the page with the answer."""
        identifier = request.path_params["id"]
        rows = await self.log.mails(id=identifier)
        form = dict(parse_qsl((await request.body()).decode(errors="replace")))
        asked = {
            "provider": rows[0]["provider"] if rows else "",
            "reports": [{**form, "mail": identifier}],
            "faults": {"webhook_early": True},
        }
        answer = await self.report(asked)
        if answer.status_code != HTTPStatus.ACCEPTED:
            return answer
        return RedirectResponse(f"/inbox/{quote(identifier, safe='')}", HTTPStatus.SEE_OTHER)


def mail_of(row: dict[str, Any]) -> Mail:
    """Read a mail anew from the log's row, which holds its part of the request as it came."""
    mail = APIS[row["provider"]].mail(orjson.loads(row["payload"]))
    mail.id, mail.seq, mail.request, mail.idempotency_key = (
        row[name] for name in ("id", "seq", "request", "idempotency_key")
    )
    mail.accepted_at = datetime.fromtimestamp(row["at"], UTC)
    return mail


def logged(row: dict[str, Any]) -> dict[str, Any]:
    names = ("seq", "request", "id", "provider", "message_id", "done", "subject", "idempotency_key")
    return {
        **{name: row[name] for name in names},
        "to": orjson.loads(row["recipients"]),
        "metadata": orjson.loads(row["metadata"]),
        "accepted_at": rfc3339(datetime.fromtimestamp(row["at"], UTC)),
    }


def inbox_entry(mail: Mail) -> dict[str, Any]:
    names = ("id", "provider", "subject", "text", "html", "links", "headers", "metadata", "idempotency_key")
    return {
        **{name: getattr(mail, name) for name in names},
        "from": mail.sender,
        "to": mail.recipients,
        "accepted_at": rfc3339(mail.accepted_at),
    }


def place_of(request: Request, limit: int = PAGE) -> tuple[int, int]:
    """Read where a page starts and how long it is, ``limit`` unless given. Raises ValueError."""
    query = request.query_params
    return int(query.get("after", 0)), int(query.get("limit", limit))


def next_of(rows: list[dict[str, Any]], limit: int) -> int | None:
    return rows[-1]["seq"] if rows and len(rows) == limit else None


def report(running: "asyncio.Task[None]") -> None:
    """Let the loop report what ended the posting: a bug, or a lost log."""
    if not running.cancelled():
        running.result()


async def answer_refused(_: Request, error: Exception) -> Response:
    if not isinstance(error, RefusedError):
        raise error
    return JSONResponse(error.refusal.body, error.refusal.status, error.refusal.headers)


def build(settings: Settings, log: Log) -> ASGIApp:
    """Put the program together: an ASGI application."""
    simulator = Simulator(settings, log)
    routes = [
        Route("/postmark/messages/outbound", simulator.postmark_search),
        Route("/postmark/messages/outbound/{id}/details", simulator.postmark_details),
        Route("/postmark/bounces", simulator.postmark_bounces),
        Route("/resend/emails/{id}", simulator.resend_details),
        Route("/sendgrid/messages", simulator.sendgrid_activity),
        Route("/log.json", simulator.log_json),
        Route("/counts.json", simulator.counts_json),
        Route("/requests.json", simulator.requests_json),
        Route("/inbox.json", simulator.inbox_json),
        Route("/webhooks.json", simulator.webhooks_json),
        Route("/faults", simulator.faults, methods=["GET", "PUT"]),
        Route("/reports", simulator.reports, methods=["POST"]),
        Route("/checks", simulator.checks, methods=["POST"]),
        Route("/reset", simulator.reset, methods=["POST"]),
        Route("/healthz", simulator.healthz),
        Route("/", simulator.inbox_page),
        Route("/inbox/{id}", simulator.mail_page),
        Route("/inbox/{id}/reports", simulator.mail_report, methods=["POST"]),
    ]
    others = Starlette(routes=routes, lifespan=simulator.lifespan, exception_handlers={RefusedError: answer_refused})
    return with_send_apis(simulator, others)


def with_send_apis(simulator: Simulator, others: ASGIApp) -> ASGIApp:
    """Take the send APIs' requests before the framework sees them: they are the ones that come in masses."""
    doors = {
        root + path: (SendApi(api, simulator.settings.secrets.get(api.name, ""), simulator.desk), path)
        for root, api in ROOTS.items()
        for path in api.paths
    }

    async def app(scope: Any, receive: Any, send: Any) -> None:
        door = doors.get(scope.get("path", ""))
        if door and scope.get("method") == "POST":
            await door[0](door[1], scope, receive, send)
        else:
            await others(scope, receive, send)

    return app
