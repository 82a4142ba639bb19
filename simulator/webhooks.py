"""The posting queue: what is planned for a mail, posted when due, retried as its provider retries."""

import asyncio
import base64
import heapq
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp
from yarl import URL

from simulator import postmark, resend
from simulator.behaviour import BEHAVIOURS, UNTOLD, behaviour_of
from simulator.faults import Dice
from simulator.log import Hook, Log
from simulator.mail import Mail

PROVIDERS = {postmark.NAME: postmark, resend.NAME: resend}
CONCURRENCY = 32
ANSWER_LIMIT = 500


@dataclass(frozen=True)
class Endpoint:
    """Where and how one provider posts. ``retries`` and ``timeout`` are seconds."""

    url: URL
    retries: tuple[float, ...]
    timeout: float
    is_retried: Callable[[int | None], bool]
    headers: Callable[[Hook], dict[str, str]]
    follow_redirects: bool


def postmark_endpoint(url: str) -> Endpoint:
    """Post to ``url`` with the basic auth that stands in it."""
    parsed = URL(url)
    pair = f"{parsed.user or ''}:{parsed.password or ''}".encode()
    basic = {"Authorization": f"Basic {base64.b64encode(pair).decode()}"} if parsed.user else {}

    def headers(hook: Hook) -> dict[str, str]:
        return {**postmark.webhook_headers(hook.id, hook.attempts), **basic}

    bare = parsed.with_user(None)
    return Endpoint(bare, postmark.RETRIES, postmark.TIMEOUT, postmark.is_retried, headers, follow_redirects=True)


def resend_endpoint(url: str, secret: str) -> Endpoint:
    """Post to ``url``, signed. Raises ValueError when the secret is not whsec_<base64>."""
    key = resend.secret_bytes(secret)

    def headers(hook: Hook) -> dict[str, str]:
        return resend.webhook_headers(hook.id, hook.body, key)

    return Endpoint(URL(url), resend.RETRIES, resend.TIMEOUT, resend.is_retried, headers, follow_redirects=False)


class Poster:
    """Posts what is due. Whatever waits is in the log too, so a restart goes on with it."""

    def __init__(self, log: Log, endpoints: dict[str, Endpoint], time_scale: float, dice: Dice) -> None:
        self.dice = dice
        self._log, self._endpoints, self._scale = log, endpoints, time_scale
        self._waiting: dict[str, Hook] = {}
        self._heap: list[tuple[float, str]] = []
        self._more = asyncio.Event()
        self._places = asyncio.Semaphore(CONCURRENCY)
        self._posting: set[asyncio.Task[None]] = set()
        self._session = aiohttp.ClientSession()
        self.add([hook for hook in log.pending() if hook.provider in endpoints])

    def plan(self, mail: Mail) -> list[Hook]:
        """List every webhook that will follow from a mail, each due when it happens or as faults shift it."""
        faults = self.dice.faults
        accepted_at = mail.accepted_at.timestamp()
        hooks: list[Hook] = []
        for recipient in mail.recipients:
            behaviour = behaviour_of(recipient)
            told = behaviour != UNTOLD and mail.provider in self._endpoints
            for step in BEHAVIOURS[behaviour]:
                happened_at = accepted_at + (0 if faults.webhook_early else step.after * self._scale)
                hooks += [
                    Hook(
                        id=PROVIDERS[mail.provider].new_webhook_id(),
                        mail_id=mail.id,
                        provider=mail.provider,
                        event=event,
                        recipient=recipient,
                        happened_at=happened_at,
                        due=happened_at + (0 if faults.webhook_early else faults.webhook_delay_ms / 1000),
                        body=json.dumps(body, separators=(",", ":")),
                        state="pending" if told else "withheld",
                    )
                    for event, body in PROVIDERS[mail.provider].events(
                        mail, recipient, step.word, datetime.fromtimestamp(happened_at, UTC)
                    )
                ]
        if faults.webhook_shuffle:
            self._shuffle(hooks)
        return hooks

    def _shuffle(self, hooks: list[Hook]) -> None:
        """Deal the due times out anew, so that later news may come first; what happened when stays true."""
        dues = [hook.due for hook in hooks]
        while len(set(dues)) > 1 and dues == [hook.due for hook in hooks]:
            self.dice.random.shuffle(dues)
        for hook, due in zip(hooks, dues, strict=True):
            hook.due = due

    def add(self, hooks: list[Hook]) -> None:
        """Queue hooks that are in the log."""
        for hook in hooks:
            if hook.state == "pending":
                self._waiting[hook.id] = hook
                heapq.heappush(self._heap, (hook.due, hook.id))
        self._more.set()

    async def post_early(self, hooks: list[Hook]) -> None:
        """Make the first attempt of each now, in order; what fails is queued for its retry."""
        for hook in hooks:
            if hook.state == "pending":
                self._waiting[hook.id] = hook
                await self._attempt(hook)

    def forget(self) -> None:
        """Drop everything that waits, after the log was emptied."""
        self._waiting.clear()
        self._heap.clear()

    async def run(self) -> None:
        """Post for ever; cancel to stop."""
        while True:
            self._more.clear()
            delay = self._heap[0][0] - time.time() if self._heap else None
            if delay is not None and delay <= 0:
                hook = self._waiting.get(heapq.heappop(self._heap)[1])
                if hook:
                    await self._places.acquire()
                    self._start(hook)
                continue
            try:
                await asyncio.wait_for(self._more.wait(), delay)
            except TimeoutError:
                continue

    def _start(self, hook: Hook) -> None:
        task = asyncio.create_task(self._attempt(hook))
        self._posting.add(task)
        task.add_done_callback(self._finish)

    def _finish(self, task: "asyncio.Task[None]") -> None:
        self._posting.discard(task)
        self._places.release()
        if not task.cancelled():
            task.result()  # a failure here is a bug or a lost log: let the loop report it

    async def _attempt(self, hook: Hook) -> None:
        endpoint = self._endpoints[hook.provider]
        times = 2 if self.dice.hit("webhook_duplicate") else 1
        for _ in range(times):
            await self._post(endpoint, hook)
        if not endpoint.is_retried(hook.status):
            hook.state = "delivered" if hook.status in range(200, 300) else "failed"
        elif hook.attempts > len(endpoint.retries):
            hook.state = "failed"
        else:
            hook.due = time.time() + endpoint.retries[hook.attempts - 1] * self._scale
        await self._log.record_attempt(hook)
        if self._waiting.pop(hook.id, None):
            self.add([hook])

    async def _post(self, endpoint: Endpoint, hook: Hook) -> None:
        headers = {"Content-Type": "application/json", **endpoint.headers(hook)}
        hook.attempts += 1
        try:
            async with self._session.post(
                endpoint.url,
                data=hook.body.encode(),
                headers=headers,
                allow_redirects=endpoint.follow_redirects,
                timeout=aiohttp.ClientTimeout(total=endpoint.timeout),
            ) as response:
                hook.status, hook.answer = (
                    response.status,
                    (await response.text(errors="replace"))[:ANSWER_LIMIT],
                )
        except (aiohttp.ClientError, TimeoutError) as error:
            hook.status, hook.answer = None, f"{type(error).__name__}: {error}"[:ANSWER_LIMIT]

    async def close(self) -> None:
        """Abandon what is being posted; it is still pending in the log."""
        for task in self._posting:
            task.cancel()
        await asyncio.gather(*self._posting, return_exceptions=True)
        await self._session.close()
