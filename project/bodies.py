"""Bodies, read whole before anything else is done about a request: a slow one holds no thread.

The web server waits for a body as long as it takes (granian's issue 728 says that there will be no limit), so that
whoever sends headers and no more could hold all threads of a process. Here such a request holds a connection, and that
for a time that is bounded.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

Receive = Callable[[], Awaitable[Mapping[str, Any]]]

# Bytes of a body that count for nothing in what a process has room for: nearly all bodies are smaller.
SMALL: Final = 64 * 1024


class Refused(Exception):
    """A body is not taken: `status` says why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Gone(Exception):
    """The client left before its body was here."""


@dataclass(slots=True)
class Bodies:
    """What bodies may take: bytes each, seconds each once its headers are here, and bytes of all large ones at once.

    One object serves a process, in its event loop. What is small is always taken, so that large bodies take the room
    of large ones alone.
    """

    most: int
    seconds: float
    room: int

    @asynccontextmanager
    async def read(self, headers: Iterable[tuple[bytes, bytes]], receive: Receive) -> AsyncIterator[bytes]:
        """Give the whole body of an ASGI request; it takes its room until the context is left.

        Raises `Gone`, and `Refused`: 413 for more bytes than a body may have, before any is read where the headers say
        so; 408 for one that takes too long; 503 while others fill the room.
        """
        if _stated(headers) > self.most:
            raise Refused(413)
        share = Share(self)
        try:
            try:
                async with asyncio.timeout(self.seconds):
                    body = await _whole(receive, share)
            except TimeoutError:
                raise Refused(408) from None
            yield body
        finally:
            self.room += share.taken


@dataclass(slots=True)
class Share:
    """What one body takes of the room."""

    bodies: Bodies
    size: int = 0
    taken: int = 0

    def grow(self, more: int) -> None:
        """Take what so many bytes more need. Raises `Refused`."""
        self.size += more
        if self.size > self.bodies.most:
            raise Refused(413)
        if self.size <= SMALL:
            return
        if more > self.bodies.room:
            raise Refused(503)
        self.bodies.room -= more
        self.taken += more


async def _whole(receive: Receive, share: Share) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        if part := message.get("body"):
            parts.append(part)
            share.grow(len(part))
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _stated(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Return how many bytes the headers announce; 0 for chunks, whose number nobody knows yet."""
    for name, value in headers:
        if name == b"content-length":
            return int(value)  # the server has refused what is no number
    return 0
