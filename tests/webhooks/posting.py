"""Requests of providers, posted to the application as the web server calls it, struck, posted again, and judged.

Importing this wants Django to be set up.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Final, TypeAlias

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, connections, transaction
from django.db.models.functions import Now
from django.urls import get_resolver

from mailer.models import DeliveryStatus, Message
from project.web import Application
from tests.chaos.ground import ROOT
from tests.chaos.tracing import TRACED
from tests.mailer.conftest import new_delivery
from tests.webhooks.genuine import REQUESTS, Event
from webhooks import later
from webhooks.gathering import SMALL
from webhooks.models import WebhookReceipt

# Whose lines are struck: what the web server calls is ingestion, too.
LINES: Final = (*TRACED, str(ROOT / "project/web.py"), str(ROOT / "project/bodies.py"))
# How many requests come at once, how long the tag of their mails is, and how many events one has, where it may have
# several. Of small ones, the first is recorded by itself and those that come meanwhile together; a large one is not
# gathered; and one of many events is stored, answered, and read by a worker.
SIZES: Final = {"small": (3, 7, 3), "large": (1, SMALL, 3), "many": (1, 7, settings.WEBHOOK_AT_ONCE + 1)}
# Who puts several events into a request.
BATCHES: Final = {"sendgrid"}


@dataclass(frozen=True, slots=True)
class Request:
    """A request about some deliveries, each said to be delivered."""

    deliveries: Sequence[DeliveryStatus]
    body: bytes
    headers: Mapping[str, str]

    def is_kept(self) -> bool | None:
        """Tell whether it is stored, with each event recorded once or all of them to be read; None for a half."""
        state, recorded = self._now()
        if recorded == {("delivered", 1)}:
            return state == "processed" or None
        return {None: False, "waiting": True}.get(state) if recorded == {("queued", 0)} else None

    def is_done(self) -> bool:
        """Tell whether each of its events is recorded once, and nothing is to be read."""
        return self._now() == ("processed", {("delivered", 1)})

    def _now(self) -> tuple[str | None, set[tuple[str, int]]]:
        """Return its state, that of the receipt that has come the furthest, and what is recorded of its deliveries."""
        states = WebhookReceipt.objects.filter(body=self.body).order_by("state").values_list("state", flat=True)
        now = DeliveryStatus.objects.filter(pk__in=[delivery.pk for delivery in self.deliveries])
        recorded = {(delivery.status, delivery.events.filter(source="webhook").count()) for delivery in now}
        return states.first(), recorded


@dataclass(slots=True)
class Requests:
    """Makes requests of one provider, of one size, each about deliveries of its own."""

    provider: str
    size: str
    _made: int = field(default=0, init=False)

    def some(self) -> list[Request]:
        """Make as many as come at once."""
        count, length, events = SIZES[self.size]
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL synchronous_commit = on")  # what is lost later is never this
            return [self._one("w" * length, events) for _ in range(count)]

    def _one(self, tag: str, count: int) -> Request:
        events = [self._event(tag) for _ in range(count if self.provider in BATCHES else 1)]
        mails = [event.message_id for event in events]
        Message.objects.filter(pk__in=mails).update(provider=self.provider)  # as the intent to send does
        return Request(list(DeliveryStatus.objects.filter(message__in=mails)), *REQUESTS[self.provider](events))

    def _event(self, tag: str) -> Event:
        self._made += 1
        name = f"{self.provider}-{self.size}-{self._made}"
        address = f"{name}@example.com"
        delivery = DeliveryStatus.objects.get(pk=new_delivery(recipient=address))
        return Event("delivered", address, name, int(time.time()) - 60, delivery.message_id, tag)


# Posts a group, and returns what each is answered: None for an answer that nobody got.
Post: TypeAlias = Callable[[Sequence[Request]], Sequence[int | None]]


@dataclass(slots=True)
class Found:
    """What came of one case. `halves` and `lost` have to stay empty: half a request stored, and a 200 without its row.

    `steps` are the lines or questions of one group, `unsaid` requests that were stored, and whose sender was not told.
    """

    case: str
    steps: int = 0
    struck: int = 0
    refused: int = 0
    unsaid: int = 0
    halves: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return bool(self.struck) and not self.halves and not self.lost


class Ingestion:
    """One case: requests of one provider and size, each group struck in its way, posted again, and judged."""

    def __init__(self, case: str, provider: str, size: str) -> None:
        self.provider = provider
        self.found = Found(f"{case} {provider} {size}")
        self._requests = Requests(provider, size)
        self.known = self._requests.some()

    @classmethod
    def all(cls, case: str, only: Sequence[str]) -> "Iterator[Ingestion]":
        """Give one for each provider and size, where its name has one of these texts."""
        for provider, size in product(REQUESTS, SIZES):
            wanted = any(text in f"{case} {provider} {size}" for text in only)
            if wanted and (size != "many" or provider in BATCHES):
                yield cls(case, provider, size)

    def play(self, step: object, post: Post, repeat: Post) -> None:
        """Post a new group in a way that may be struck at this step, then again; note what was lost."""
        group = self._requests.some()
        connection.close()  # a child that is forked must find no session, and one that is struck is of no use
        answers = post(group)
        stored = [request.is_kept() for request in group]
        WebhookReceipt.objects.filter(state="waiting").update(run_at=Now())  # as if it were some minutes later
        connection.close()
        second = repeat(group)
        for request, answer, before, again in zip(group, answers, stored, second, strict=True):
            self.found.refused += answer not in {200, None}
            self.found.unsaid += answer != 200 and bool(before)
            if before is None:
                self.found.halves.append(str(step))
            if answer not in {200, 503, None} or (answer == 200 and not before):
                self.found.lost.append(str(step))
            if again != 200 or not request.is_done():
                self.found.lost.append(f"{step}, posted again")


def spread(steps: int, points: int) -> range:
    """Return steps to strike, evenly spread and the last among them; each where no number of points is given."""
    return range(steps, 0, -max(1, steps // points) if points else -1)


class Door:
    """The application of a web process, with threads and connections of its own."""

    def __init__(self) -> None:
        self._application = Application()
        self._application.load_middleware()
        _ = get_resolver().url_patterns  # loads the views

    def post(self, provider: str, requests: Sequence[Request]) -> list[int]:
        """Post requests at once, and read what is to be read later; return what each is answered."""
        answers = self._post(provider, requests)
        with suppress(DatabaseError, InterfaceError):  # as a worker does that loses its database: it comes again
            later.read_due()
        connection.close()  # which may be lost
        return answers

    def _post(self, provider: str, requests: Sequence[Request]) -> list[int]:

        async def post() -> list[int]:
            return await asyncio.gather(*(self._ask(f"/webhooks/{provider}/", request) for request in requests))

        return asyncio.run(post())

    async def _ask(self, path: str, request: Request) -> int:
        answer: list[Mapping[str, Any]] = []
        headers = {"Host": "127.0.0.1", "Content-Length": str(len(request.body)), **request.headers}
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }

        async def receive() -> Mapping[str, Any]:
            return {"type": "http.request", "body": request.body}

        async def send(message: Mapping[str, Any]) -> None:
            answer.append(message)

        await self._application(scope, receive, send)
        return int(answer[0]["status"])

    def close(self) -> None:
        """End its threads; they close their connections."""
        for pool in (self._application._threads, self._application._gathering._thread):
            pool.submit(connections.close_all).result()
            pool.shutdown()
