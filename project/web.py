"""How a web process answers: bodies are read in its event loop, then Django works in one of a few threads."""

import asyncio
import io
import re
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from uuid import uuid4

import structlog
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.core.signals import request_started
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix

from api.problems import CONTENT_TYPE, RETRY_AFTER, problem
from project.bodies import Bodies, Gone, Receive, Refused
from project.clients import client_of
from webhooks import door
from webhooks.door import Arrival
from webhooks.gathering import Gathering
from webhooks.providers import WEBHOOKS, Incoming

Send = Callable[[Mapping[str, Any]], Awaitable[None]]

log = structlog.get_logger(__name__)

# Where a provider's webhooks come in.
WEBHOOK: Final = re.compile(r"/webhooks/([a-z_]+)/")
# Refusals of what is to come again, by the status that its provider sends it again for.
AGAIN: Final = {408, 503}
# What is said of a body that is not taken, by status.
REFUSALS: Final = {
    408: ("too_slow", "The body came too slowly."),
    413: ("too_large", "The body is too large."),
    503: ("unavailable", "Too many large bodies are coming in. Try again soon."),
}


class Application(ASGIHandler):
    """Django under ASGI, each request in one of a few lasting threads, as under WSGI.

    Django's own handler makes a thread, and a database connection in it, for each request, for as many at once as
    come; it takes twice the CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self._threads = ThreadPoolExecutor(settings.WEB_THREADS, thread_name_prefix="web")
        self._bodies = Bodies(settings.WEBHOOK_MAX_BYTES, settings.WEB_BODY_SECONDS, room=settings.WEB_BODIES_BYTES)
        self._gathering = Gathering(ThreadPoolExecutor(1, thread_name_prefix="door"))

    def load_middleware(self, is_async: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002  # Django's signature
        """Load it for views that run in a thread, as all of ours do."""
        super().load_middleware(is_async=False)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, also where its client has left once the body was here: it may have changed something."""
        if scope["type"] != "http":
            raise ValueError(f"Only HTTP is spoken here, not {scope['type']}")
        try:
            async with self._bodies.read(scope["headers"], receive) as body:
                response = await self._answer(scope, body)
        except Gone:
            return
        except Refused as refused:
            response = await self._in_thread(_leaving_no_connection, _refusal, scope["path"], refused.status)
        if response.streaming:
            await self._send_parts(send, response)
        else:
            await _send_whole(send, response)

    async def _answer(self, scope: Mapping[str, Any], body: bytes) -> Any:
        esp = _provider(scope["path"])
        if esp and scope["method"] == "POST" and self._gathering.takes(esp, len(body)):
            arrival = _arrival(scope, body)
            if not _is_redirected(scope, arrival.incoming.headers):
                answer = await self._gathering.answer(esp, arrival)
                return HttpResponse(status=answer.status, headers=dict(answer.headers))
        return await self._in_thread(self._respond, scope, body)

    def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _respond(self, scope: dict[str, Any], body: bytes) -> Any:
        set_script_prefix(get_script_prefix(scope))
        request_started.send(sender=type(self), scope=scope)
        request, unreadable = self.create_request(scope, io.BytesIO(body))
        response: Any = unreadable if request is None else self.get_response(request)
        response._handler_class = type(self)  # noqa: SLF001  # whom `request_finished` names
        if not response.streaming:
            response.close()
        return response

    async def _send_parts(self, send: Send, response: Any) -> None:
        """Send what is streamed; a thread is taken for each part, and none while the client takes its time."""
        try:
            await send(_start(response))
            parts = iter(response)
            while (part := await self._in_thread(_leaving_no_connection, next, parts, None)) is not None:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await self._in_thread(response.close)


def _leaving_no_connection(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do a part of a request's work; its thread keeps no connection to the database, as after a whole request."""
    try:
        return work(*arguments)
    finally:
        close_old_connections()


def _provider(path: str) -> str:
    """Return the provider whose webhooks are taken at a path; empty where none are."""
    found = WEBHOOK.fullmatch(path)
    return found[1] if found and door.is_open(found[1]) else ""


def _arrival(scope: Mapping[str, Any], body: bytes) -> Arrival:
    headers: dict[str, str] = {}
    for name, value in ((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]):
        headers[name] = f"{headers[name]},{value}" if name in headers else value  # as Django joins them
    peer = scope.get("client") or ("",)
    return Arrival(
        Incoming(headers, body, f"{settings.PUBLIC_URL}{scope['path']}"),
        client_of(peer[0], headers.get("x-forwarded-for", "")),
        str(uuid4()),  # as Django's way has it: one from outside could be anything
    )


def _is_redirected(scope: Mapping[str, Any], headers: Mapping[str, str]) -> bool:
    """Tell whether Django's SecurityMiddleware would send a request to HTTPS."""
    if not settings.SECURE_SSL_REDIRECT or scope["scheme"] == "https":
        return False
    name, secure = settings.SECURE_PROXY_SSL_HEADER or ("", "")
    value = headers.get(name.removeprefix("HTTP_").replace("_", "-").lower(), "")
    return not name or value.split(",")[0].strip() != secure


def _refusal(path: str, status: int) -> HttpResponse:
    request = HttpRequest()
    request.path = path
    name, detail = REFUSALS[status]
    if esp := _provider(path):
        door.refused(esp, status, name)
        status = WEBHOOKS[esp].again if status in AGAIN else status
    else:
        log.warning("request_refused", code=status, path=path)
    response = JsonResponse(problem(request, status, name, detail), status=status, content_type=CONTENT_TYPE)
    response["Connection"] = "close"  # the rest of the body is not read, so no request can follow it
    if status == 503:  # noqa: PLR2004  # RFC 9110 15.6.4
        response["Retry-After"] = RETRY_AFTER
    return response


async def _send_whole(send: Send, response: Any) -> None:
    await send(_start(response))
    await send({"type": "http.response.body", "body": response.content})


def _start(response: HttpResponseBase) -> Mapping[str, Any]:
    cookies = [("Set-Cookie", cookie.output(header="").strip()) for cookie in response.cookies.values()]
    headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in [*response.items(), *cookies]]
    return {"type": "http.response.start", "status": response.status_code, "headers": headers}
