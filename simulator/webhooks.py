"""The posting queue: what is planned for a mail, posted when due, retried as its provider retries."""

import asyncio
import base64
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp
import orjson
from yarl import URL

from simulator import postmark, postmark_webhooks, resend
from simulator.behaviour import BEHAVIOURS, UNTOLD, behaviour_of
from simulator.faults import Dice, Faults
from simulator.log import Hook, Log, State
from simulator.mail import Mail

# Those whose webhooks are known here.
PROVIDERS = {postmark.NAME: postmark_webhooks, resend.NAME: resend}
CONCURRENCY = 32
ANSWER_LIMIT = 500


@dataclass(frozen=True)
class Endpoint:
    """Where and how one provider posts. ``retries`` are seconds."""

    url: URL
    retries: tuple[float, ...]
    timeout: aiohttp.ClientTimeout
    is_retried: Callable[[int | None], bool]
    headers: Callable[[Hook], dict[str, str]]
    follow_redirects: bool


def postmark_endpoint(url: str) -> Endpoint:
    """Post to ``url`` with the basic auth that stands in it."""
    parsed = URL(url)
    pair = f"{parsed.user or ''}:{parsed.password or ''}".encode()
    basic = {"Authorization": f"Basic {base64.b64encode(pair).decode()}"} if parsed.user else {}

    def headers(hook: Hook) -> dict[str, str]:
        return {**postmark_webhooks.webhook_headers(hook.id, hook.attempts), **basic}

    bare = parsed.with_user(None)
    timeout = aiohttp.ClientTimeout(total=postmark_webhooks.TIMEOUT)
    return Endpoint(
        bare, postmark_webhooks.RETRIES, timeout, postmark_webhooks.is_retried, headers, follow_redirects=True
    )


def resend_endpoint(url: str, secret: str) -> Endpoint:
    """Post to ``url``, signed. Raises ValueError when the secret is not whsec_<base64>."""
    key = resend.secret_bytes(secret)

    def headers(hook: Hook) -> dict[str, str]:
        return resend.webhook_headers(hook.id, hook.body, key)

    timeout = aiohttp.ClientTimeout(total=resend.TIMEOUT)
    return Endpoint(URL(url), resend.RETRIES, timeout, resend.is_retried, headers, follow_redirects=False)


class Poster:
    """Posts what is due. Whatever waits is in the log too, so a restart goes on with it."""

    def __init__(self, log: Log, endpoints: Mapping[str, Endpoint], time_scale: float, *, on: bool = True) -> None:
        self._log, self._endpoints, self._scale, self._on = log, endpoints, time_scale, on
        self.dice = Dice(Faults())
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

    def plan(self, mails: Iterable[Mail]) -> list[Hook]:
        """List every webhook that will follow from mails, each due when it happens or as faults shift it."""
        if not self._on:
            return []
        return [hook for mail in mails if mail.provider in PROVIDERS for hook in self._plan(mail)]

    def _plan(self, mail: Mail) -> list[Hook]:
        accepted_at, scale = mail.accepted_at.timestamp(), 0 if self.dice.faults.webhook_early else self._scale
        hooks: list[Hook] = []
        for recipient in mail.recipients:
            behaviour = behaviour_of(recipient)
            state: State = "pending" if behaviour != UNTOLD and mail.provider in self._endpoints else "withheld"
            for step in BEHAVIOURS[behaviour]:
                hooks += self._hooks(mail, recipient, step.word, accepted_at + step.after * scale, state)
        if self.dice.faults.webhook_shuffle:
            self._shuffle(hooks)
        return hooks

    def _hooks(self, mail: Mail, recipient: str, word: str, happened_at: float, state: State) -> list[Hook]:
        provider = PROVIDERS[mail.provider]
        return [
            Hook(
                seq=self._log.number(),
                id=provider.new_webhook_id(),
                mail=mail.seq,
                provider=mail.provider,
                event=event,
                recipient=recipient,
                happened_at=happened_at,
                due=happened_at + self._lateness(),
                body=orjson.dumps(body).decode(),
                state=state,
            )
            for event, body in provider.events(mail, recipient, word, datetime.fromtimestamp(happened_at, UTC))
        ]

    def _lateness(self) -> float:
        faults = self.dice.faults
        if faults.webhook_early:
            return 0
        jitter = self.dice.random.uniform(0, faults.webhook_late_ms) if faults.webhook_late_ms else 0
        return (faults.webhook_delay_ms + jitter) / 1000

    def _shuffle(self, hooks: list[Hook]) -> None:
        """Deal the due times out anew, so that later news may come first; what happened when stays true."""
        dues = [hook.due for hook in hooks]
        while len(set(dues)) > 1 and dues == [hook.due for hook in hooks]:
            self.dice.random.shuffle(dues)
        for hook, due in zip(hooks, dues, strict=True):
            hook.due = due

    async def take(self, hooks: list[Hook]) -> None:
        """Queue hooks that are in the log; by that fault, make the first attempt of each now and in order."""
        self.states.update(hook.state for hook in hooks)
        pending = [hook for hook in hooks if hook.state == "pending"]
        if not self.dice.faults.webhook_early:
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
        if hook.seq not in self._waiting:  # forgotten meanwhile
            return
        if hook.state == "pending":
            self._add([hook])
            return
        self._waiting.discard(hook.seq)
        self.states.subtract(["pending"])
        self.states[hook.state] += 1

    async def _post(self, endpoint: Endpoint, hook: Hook) -> None:
        headers = {"Content-Type": "application/json", **endpoint.headers(hook)}
        hook.attempts += 1
        try:
            async with self._session.post(
                endpoint.url,
                data=hook.body.encode(),
                headers=headers,
                allow_redirects=endpoint.follow_redirects,
                timeout=endpoint.timeout,
            ) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            hook.status, hook.answer = None, f"{type(error).__name__}: {error}"[:ANSWER_LIMIT]
        else:
            hook.status, hook.answer = response.status, answer[:ANSWER_LIMIT].decode(errors="replace")
