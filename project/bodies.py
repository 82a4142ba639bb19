"""Bodies, read whole before anything else is done about a request: a slow one holds no thread.

The web server waits for a body as long as it takes (granian's issue 728 says that there will be no limit), so that
whoever sends headers and no more could hold all threads of a process. Here such a request holds a connection, and that
for a time that is bounded.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
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

    async def read(self, headers: Iterable[tuple[bytes, bytes]], receive: Receive) -> bytes:
        """Return the whole body of an ASGI request.

        Raises `Gone`, and `Refused`: 413 for more bytes than a body may have, before any is read where the headers say
        so; 408 for one that takes too long; 503 while others fill the room.
        """
        if _stated(headers) > self.most:
            raise Refused(413)
        parts: list[bytes] = []
        size = taken = 0
        try:
            async with asyncio.timeout(self.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    if part := message.get("body"):
                        parts.append(part)
                        size += len(part)
                        taken += self._take(len(part), size)
                    if not message.get("more_body"):
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError:
            raise Refused(408) from None
        finally:
            self.room += taken

    def _take(self, more: int, size: int) -> int:
        if size > self.most:
            raise Refused(413)
        if size <= SMALL:
            return 0
        if more > self.room:
            raise Refused(503)
        self.room -= more
        return more


def _stated(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Return how many bytes the headers announce; 0 for chunks, whose number nobody knows yet."""
    for name, value in headers:
        if name == b"content-length":
            return int(value)  # the server has refused what is no number
    return 0
