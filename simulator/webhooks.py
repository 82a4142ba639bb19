"""The posting queue: what is planned is posted when due, and retried as its provider retries."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import aiohttp
from yarl import URL

from simulator.log import Hook, Log
from simulator.reports import Reports, Sending
from simulator.reports.base import Posted, dumped

CONCURRENCY = 32
ANSWER_LIMIT = 500


@dataclass(frozen=True)
class Endpoint:
    """Where one provider posts, and the key by which it proves that it is the one."""

    reports: Reports
    url: str
    key: Any

    @classmethod
    def at(cls, reports: Reports, url: str, secret: str = "") -> "Endpoint":
        """Post to ``url``, with the user and the password that stand in it where no ``secret`` is needed.

        Raises ValueError where that is none of its kind.
        """
        parsed = URL(url)
        credentials = f"{parsed.user}:{parsed.password or ''}" if parsed.user else ""
        key = reports.scheme.read(credentials if reports.scheme.in_url else secret)
        return cls(reports, str(parsed.with_user(None)), key)

    @cached_property
    def other_key(self) -> Any:
        """A key that is not the right one; made when it is needed, since some are dear."""
        return self.reports.scheme.other(self.key)


class Poster:
    """Posts what is due. Whatever waits is in the log too, so a restart goes on with it."""

    def __init__(self, log: Log, endpoints: Mapping[str, Endpoint], time_scale: float) -> None:
        self._log, self._endpoints, self._scale = log, endpoints, time_scale
        self.states: Counter[str] = Counter(log.states())
        self._waiting: set[int] = set()
        self._due: asyncio.Queue[Hook] = asyncio.Queue()

    async def run(self) -> None:
        """Post for ever; cancel to stop. What is being posted then is still pending in the log."""
        connector = aiohttp.TCPConnector(limit=CONCURRENCY)
        async with aiohttp.ClientSession(connector=connector) as self._session, asyncio.TaskGroup() as group:
            self._add([hook for hook in self._log.pending() if hook.provider in self._endpoints])
            for _ in range(CONCURRENCY):
                group.create_task(self._post_due())

    async def _post_due(self) -> None:
        while True:
            hook = await self._due.get()
            if hook.seq in self._waiting:
                await self._attempt(hook)

    async def take(self, hooks: list[Hook], *, now: bool = False) -> None:
        """Queue hooks that are in the log; ``now`` makes the first attempt of each at once and in order."""
        self.states.update(hook.state for hook in hooks)
        pending = [hook for hook in hooks if hook.state == "pending"]
        if not now:
            self._add(pending)
            return
        for hook in pending:
            self._waiting.add(hook.seq)
            await self._attempt(hook)

    def _add(self, hooks: Iterable[Hook]) -> None:
        loop, now = asyncio.get_running_loop(), time.time()
        for hook in hooks:
            self._waiting.add(hook.seq)
            loop.call_later(max(hook.due - now, 0), self._due.put_nowait, hook)

    def forget(self) -> None:
        """Drop everything that waits, after the log was emptied."""
        self._waiting.clear()
        self.states.clear()

    async def _attempt(self, hook: Hook) -> None:
        endpoint = self._endpoints[hook.provider]
        reports = endpoint.reports
        for _ in range(hook.times):
            await self._post(endpoint, hook)
        if not reports.is_retried(hook.status) or hook.event in reports.never_again:
            hook.state = "delivered" if hook.status in range(200, 300) else "failed"
        elif hook.attempts > len(reports.retries):
            hook.state = "failed"
        else:
            hook.due = time.time() + reports.retries[hook.attempts - 1] * self._scale
        await self._log.record_attempt(hook)
        if hook.seq not in self._waiting:  # forgotten meanwhile
            return
        if hook.state == "pending":
            self._add([hook])
            return
        self._waiting.discard(hook.seq)
        self.states.subtract(["pending"])
        self.states[hook.state] += 1

    async def _post(self, endpoint: Endpoint, hook: Hook) -> None:
        key = endpoint.other_key if hook.forged else endpoint.key
        posted = endpoint.reports.sign(hook.body, Sending(hook.id, hook.attempts, endpoint.url), key)
        hook.attempts += 1
        hook.status, hook.answer = await self._ask(endpoint, "POST", posted)

    async def check(self, endpoint: Endpoint) -> list[dict[str, Any]]:
        """Try an address as its provider does when it is told of it: the method, the status and the answer of each."""
        reports, done = endpoint.reports, []
        for check in reports.checks:
            key = endpoint.key if check.key is None else reports.scheme.read(check.key)
            sending = Sending(reports.new_id(), 0, endpoint.url)
            posted = reports.sign(dumped(check.body()), sending, key) if check.body else None
            status, answer = await self._ask(endpoint, check.method, posted)
            done.append({"method": check.method, "status": status, "answer": answer})
        return done

    async def _ask(self, endpoint: Endpoint, method: str, posted: Posted | None) -> tuple[int | None, str]:
        """Return the answer's status and its beginning; no status, and why, where there is none."""
        try:
            async with self._session.request(
                method,
                endpoint.url,
                data=posted.body if posted else None,
                headers={"Content-Type": "application/json", **posted.headers} if posted else None,
                allow_redirects=endpoint.reports.follow_redirects,
                timeout=aiohttp.ClientTimeout(total=endpoint.reports.timeout),
            ) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            return None, f"{type(error).__name__}: {error}"[:ANSWER_LIMIT]
        return response.status, answer[:ANSWER_LIMIT].decode(errors="replace")
