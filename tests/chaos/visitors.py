"""People who register, at a steady pace, and know which of them were answered."""

import asyncio
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import aiohttp

PASSWORD: Final = "a-violet-Zeppelin-over-Lisbon"
# What becomes of a mail, by the local part of its address, and how often.
FATES: Final = {"delivered": 80, "bounce": 4, "soft": 4, "defer": 4, "complain": 2, "open": 3, "click": 3}
# Seconds that somebody waits for an answer, and for the next try of the web server where it cannot be reached.
TIMEOUT: Final = 20.0
# Registrations under way at once.
CROWD: Final = 64


@dataclass
class Visitors:
    """Registers new addresses at `url`, `rate` a second, until `wanted` were answered with 202.

    Each address is tried once: somebody without an answer does not know whether they are registered, and may be.
    """

    url: str
    wanted: int
    rate: float
    seed: int
    answered: list[str] = field(default_factory=list)
    unanswered: int = 0
    on_answer: Callable[[], None] = lambda: None
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._come()), name="visitors", daemon=True)
        self._thread.start()

    @property
    def are_done(self) -> bool:
        return self._thread is not None and not self._thread.is_alive()

    def stop(self) -> None:
        """Let nobody else come, and wait for those who are under way."""
        self._stop.set()
        if self._thread:
            self._thread.join()

    async def _come(self) -> None:
        chance = random.Random(self.seed)
        names, weights = list(FATES), list(FATES.values())
        number, due = 0, time.monotonic()
        under_way: set[asyncio.Task[None]] = set()
        connector = aiohttp.TCPConnector(limit=CROWD)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(TIMEOUT), connector=connector) as session:
            while not self._stop.is_set() and len(self.answered) < self.wanted:
                # As many as are still wanted may be under way, and no more than the crowd.
                if len(under_way) < min(CROWD, self.wanted - len(self.answered)):
                    [fate] = chance.choices(names, weights)
                    number += 1
                    task = asyncio.create_task(self._register(session, f"{fate}+{number}@{self.seed}.example.org"))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                    due = max(due + 1 / self.rate, time.monotonic() - 1)
                await asyncio.sleep(max(0.001, due - time.monotonic()))
            await asyncio.gather(*under_way)

    async def _register(self, session: aiohttp.ClientSession, address: str) -> None:
        try:
            async with session.post(self.url, json={"email": address, "password": PASSWORD}) as answer:
                await answer.read()
                was_answered = answer.status == 202
        except (aiohttp.ClientError, TimeoutError):
            was_answered = False
        if was_answered:
            self.answered.append(address)
            self.on_answer()
        else:
            self.unanswered += 1
