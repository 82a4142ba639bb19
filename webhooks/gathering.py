"""Small requests that come at the same time, answered together: one transaction for all that wait.

One event a request is what most providers send. Each in a transaction of its own costs a commit, a dozen statements'
round trips and all that Django does around a view. Here those that come while a transaction runs wait for the next.
"""

import asyncio
from collections import deque
from concurrent.futures import Executor
from functools import partial
from typing import Final, TypeAlias

from django.db import close_old_connections

from webhooks import door
from webhooks.door import Answer, Arrival
from webhooks.providers import WEBHOOKS

# Bytes of a body that is gathered; a larger one holds many events, and would keep the small ones waiting.
SMALL: Final = 64 * 1024
# Requests, and bytes of their bodies, that are recorded together at most: some 1,000 events.
MOST: Final = 100
MOST_BYTES: Final = 256 * 1024

Waiting: TypeAlias = "tuple[str, Arrival, asyncio.Future[Answer]]"


class Gathering:
    """Answers requests, in one thread, as many at once as wait. One object serves a process, in its event loop."""

    def __init__(self, thread: Executor) -> None:
        self._thread = thread
        self._waiting: deque[Waiting] = deque()
        self._busy = False

    @staticmethod
    def takes(esp: str, size: int) -> bool:
        """Tell whether a request with a body of so many bytes may be gathered."""
        return size <= SMALL and door.is_open(esp) and not WEBHOOKS[esp].fetches

    async def answer(self, esp: str, arrival: Arrival) -> Answer:
        """Answer a request, with those that wait by then. Raises what `door.answers` raises."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((esp, arrival, future))
        if not self._busy:
            self._go_on()
        return await future

    def _go_on(self) -> None:
        group = self._take()
        self._busy = bool(group)
        if group:
            arrivals = [arrival for _, arrival, _ in group]
            work = asyncio.get_running_loop().run_in_executor(self._thread, _answers, group[0][0], arrivals)
            work.add_done_callback(partial(self._tell, group))

    def _take(self) -> list[Waiting]:
        """Take from the front what is recorded together: requests of one provider, as they came."""
        group: list[Waiting] = []
        size = 0
        while self._waiting and len(group) < MOST:
            esp, arrival, _ = self._waiting[0]
            size += len(arrival.incoming.body)
            if group and (esp != group[0][0] or size > MOST_BYTES):
                break
            group.append(self._waiting.popleft())
        return group

    def _tell(self, group: list[Waiting], work: "asyncio.Future[list[Answer]]") -> None:
        self._go_on()
        error = work.exception()
        for place, (_, _, future) in enumerate(group):
            if future.done():
                continue  # whoever asked has left
            if error is None:
                future.set_result(work.result()[place])
            else:
                future.set_exception(error)


def _answers(esp: str, arrivals: list[Arrival]) -> list[Answer]:
    close_old_connections()  # as Django does before and after each request
    try:
        return door.answers(esp, arrivals)
    finally:
        close_old_connections()
