"""The crash points of one mode: prepare, kill at each line, let a healthy process finish, check.

Importing this wants Django to be set up.
"""

import gc
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any, Final

from django.core.mail import get_connection
from django.core.management import call_command
from django.db import connection, transaction

from mailer import couriers, kinds, outbox, providers, sender, sweeping
from mailer.kinds import KINDS
from tests.chaos import checks, evidence
from tests.chaos.aftermath import is_at_rest, let_minutes_pass
from tests.chaos.ground import PATIENCE, Provider, connect, until
from tests.chaos.hooks import SIGNED
from tests.chaos.modes import Mode
from tests.chaos.operations import (
    OPERATIONS,
    Left,
    Operation,
    Point,
    cause,
    client,
    post,
    register,
    verify,
)
from tests.chaos.tracing import Ended, ended, forked, spawn

# Messages that are left in the middle of being sent at once; fewer than half of a worker's slots.
HANDFUL: Final = 12
# Milliseconds that the provider takes to answer those, so that there is a middle.
MIDDLE: Final = 400

# Out of the sight of other points: due, leased or to be asked about a day later than in truth.
SET_ASIDE: Final = """
UPDATE mailer_message
SET run_at = run_at + interval '1 day', lease_until = lease_until + interval '1 day',
    inquire_at = inquire_at + interval '1 day'
WHERE finished_at IS NULL AND run_at < now() + interval '12 hours'"""
SET_BATCHES_ASIDE: Final = """
UPDATE mailer_batch SET repeat_at = repeat_at + interval '1 day' WHERE repeat_at < now() + interval '12 hours'"""
FORGIVE: Final = "DELETE FROM mailer_providerstate"
BRING_BACK: Final = """
UPDATE mailer_message m
SET run_at = run_at - interval '1 day', lease_until = lease_until - interval '1 day',
    inquire_at = inquire_at - interval '1 day'
WHERE run_at > now() + interval '12 hours' AND (%(all)s OR id IN (
    SELECT message_id FROM mailer_deliverystatus WHERE recipient_canonical = ANY(%(addresses)s)))"""
BRING_BATCHES_BACK: Final = """
UPDATE mailer_batch SET repeat_at = repeat_at - interval '1 day'
WHERE repeat_at > now() + interval '12 hours' AND (%(all)s OR message_ids && ARRAY(
    SELECT message_id FROM mailer_deliverystatus WHERE recipient_canonical = ANY(%(addresses)s)))"""
IN_STATES: Final = """
SELECT count(*) FROM mailer_message
WHERE state = ANY(%s) AND id IN (SELECT message_id FROM mailer_deliverystatus WHERE recipient_canonical = ANY(%s))"""
LEASED: Final = "SELECT count(*) FROM mailer_message WHERE lease_until > now() + interval '1 day'"

DOUBTED: Final = """
SELECT (SELECT count(*) FROM mailer_message WHERE state = 'unknown' AND inquire_at > now() + interval '1 day')
     + (SELECT count(*) FROM mailer_batch WHERE repeat_at > now() + interval '1 day')"""


class Scene:
    """One mode, its database and its provider."""

    def __init__(self, mode: Mode, database: str, provider: Provider, say: Callable[..., None]) -> None:
        self.mode = mode
        self.provider = provider
        self.say = say
        # Plain SQL from here: a child that is forked must find no session of Django's.
        self.sql = connect(database)
        self.sql.execute(
            "SET synchronous_commit = off"
        )  # of what is moved about here; the service's commits are durable
        self.killed: dict[str, int] = {}
        self.promised: list[str] = []
        self.posted: list[dict[str, Any]] = []

    def play(self, target: int, seed: int, only: str = "") -> dict[str, Any]:
        """Run about `target` points, or each, of one operation or all; return the figures and what was found."""
        warm_up(self.mode.provider)
        chosen = [operation for operation in OPERATIONS if only in {"", operation.name} and self._can(operation)]
        numbers = {operation: range(1, self._lines(operation) + 1, operation.stride) for operation in chosen}
        share = target / sum(map(len, numbers.values())) if target else 1
        numbers = {operation: _spread(points, share, seed) for operation, points in numbers.items()}
        self.say(lines=sum(map(len, numbers.values())))
        for operation, points in numbers.items():
            if points:
                self.killed[operation.name] = self._run(operation, points)
        recovery_s = self.recover()
        return self._result(recovery_s)

    def _can(self, operation: Operation) -> bool:
        """Tell whether the mode has such an operation.

        Not of all are webhooks taken; a key leaves no doubt, but for what went in a batch; and with one of these
        nothing is done but to send it and to find out what became of it.
        """
        if operation.left is Left.DOUBTED:
            return self.mode.together > 1 or providers.get(self.mode.provider).key is None
        if self.mode.together > 1:
            return operation.left in {Left.WAITING, Left.SENDING}
        return operation.left is not Left.SENT or self.mode.provider in SIGNED

    def _lines(self, operation: Operation) -> int:
        """Run an operation unharmed, to count its lines."""
        [addresses] = self._prepare(operation, [0])
        lines = self._at(operation, addresses, 0).lines
        self._end()
        return lines

    def _run(self, operation: Operation, numbers: Sequence[int]) -> int:
        """Run an operation once for each of these lines, to be killed there; return how often it was.

        Not each run has as many lines as the one whose lines were counted, and in a small part of the points all may
        lie behind the end: half as far in, then.
        """
        killed = 0
        for number, addresses in zip(numbers, self._prepare(operation, numbers), strict=True):
            killed += self._at(operation, addresses, number).killed
            self.say(done=1)
        self._end()
        nearer = [] if killed else sorted({number // 2 for number in numbers} - {0, *numbers})
        self.say(lines=len(nearer))
        return killed + (self._run(operation, nearer) if nearer else 0)

    def _end(self) -> None:
        self.set_aside()
        self.provider.faults()

    def _at(self, operation: Operation, addresses: list[str], kill_at: int) -> Ended:
        """Kill an operation at one of its lines, or let it live."""
        if operation.left in {Left.WAITING, Left.SENDING, Left.DOUBTED}:
            self.set_aside()
            self.bring_back(addresses)
        hook = self._hook_of(addresses[0]) if operation.left is Left.SENT else None
        end = forked(
            lambda countdown: operation.act(self.mode, Point(addresses, countdown.counting, hook)), kill_at=kill_at
        )
        if operation.name == "register" and not end.killed:
            self.promised += addresses
        return end

    def _prepare(self, operation: Operation, numbers: Sequence[int]) -> list[list[str]]:
        """Bring the messages of some points to where the operation finds them; return the points' addresses."""
        points = [self._addresses(operation, number) for number in numbers]
        if operation.left is not Left.NONE:
            midway = operation.left in {Left.SENDING, Left.DOUBTED}
            self.provider.faults(latency_ms=MIDDLE if midway else 0)
            size = max(1, HANDFUL // self.mode.together) if midway else len(points)
            for start in range(0, len(points), size):
                self._bring_to(operation.left, [*chain.from_iterable(points[start : start + size])])
            until(self._leases_are_over, PATIENCE, "leases to end")
        if operation.left is Left.DOUBTED:
            self._doubt(points)
        self.provider.faults(**operation.faults)
        return points

    def _addresses(self, operation: Operation, number: int) -> list[str]:
        name = f"{operation.name}-{number}"
        names = [name] if self.mode.together == 1 else [f"{name}-{place}" for place in range(self.mode.together)]
        return [f"delivered+{name}@{self.mode.name}.example.org".replace("_", "-") for name in names]

    def _bring_to(self, left: Left, addresses: Sequence[str]) -> None:
        self.set_aside()  # what earlier points have left would take the places of these
        forked(lambda _: cause(self.mode, addresses))
        if left is Left.SENT:
            forked(lambda _: _drained())
        if left in {Left.SENDING, Left.DOUBTED}:
            worker = spawn(_drained)
            until(lambda: self._count(["sending"], addresses) == len(addresses), PATIENCE, "requests to be under way")
            os.kill(worker, signal.SIGKILL)
            ended(worker)
        self.set_aside()

    def _doubt(self, points: Sequence[list[str]]) -> None:
        """Have it noticed that nobody knows what became of some messages, and wait until that is looked into."""
        self.bring_back([*chain.from_iterable(points)])
        forked(lambda _: _swept())
        self.set_aside()
        until(self._graces_are_over, PATIENCE, "doubts to be due")

    def _leases_are_over(self) -> bool:
        return self.sql.execute(LEASED).fetchone() == (0,)

    def _graces_are_over(self) -> bool:
        return self.sql.execute(DOUBTED).fetchone() == (0,)

    def _count(self, states: Sequence[str], addresses: Sequence[str]) -> int:
        row = self.sql.execute(IN_STATES, [list(states), list(addresses)]).fetchone()
        return int(row[0]) if row else 0

    def set_aside(self) -> None:
        """Put all that is unfinished out of sight, and what is remembered of the provider's failures."""
        self.sql.execute(SET_ASIDE)
        self.sql.execute(SET_BATCHES_ASIDE)
        self.sql.execute(FORGIVE)

    def bring_back(self, addresses: Sequence[str] = ()) -> None:
        """Bring the messages to some addresses back into sight, or all."""
        chosen = {"addresses": list(addresses), "all": not addresses}
        self.sql.execute(BRING_BACK, chosen)
        self.sql.execute(BRING_BATCHES_BACK, chosen)

    def _hook_of(self, address: str) -> dict[str, Any]:
        """Return the first webhook about the mail to an address."""
        found = self.provider.ask("GET", "/webhooks.json", to=address)["webhooks"][0]
        self.posted.append(found)
        return dict(found)

    def recover(self) -> float:
        """Let one healthy process finish what the killed ones have left; return the seconds that it took.

        The provider posts again what was not acknowledged, and, being a provider, the rest as well.
        """
        self.provider.faults()
        self.bring_back()
        begin = time.monotonic()
        forked(lambda _: _post_all(self.posted))
        relay = spawn(lambda: call_command("relay", interval=0.5))
        until(self._has_come_to_rest, 2 * PATIENCE, "all messages to be at rest")
        seconds = time.monotonic() - begin
        os.kill(relay, signal.SIGTERM)
        if code := ended(relay):
            raise RuntimeError(f"the relay ended with {code}")
        return seconds

    def _has_come_to_rest(self) -> bool:
        let_minutes_pass(self.sql)
        return is_at_rest(self.sql)

    def _result(self, recovery_s: float) -> dict[str, Any]:
        evidence.gather(
            self.sql,
            accepted=self.provider.accepted(),
            requested=self.provider.requests(),
            hooks=[{**hook, "state": "delivered"} for hook in self.posted],
            promised=self.promised,
        )
        found = checks.violations(self.sql)
        return {
            **checks.figures(self.sql, found),
            "points": self.killed,
            "recovery_s": round(recovery_s, 1),
            "violations": [
                *map(str, found),
                *(f"never_killed: {name}" for name, killed in self.killed.items() if not killed),
            ],
        }


def _spread(points: Sequence[int], share: float, seed: int) -> list[int]:
    """Choose a share of some points, evenly, beginning elsewhere with each seed."""
    count = min(len(points), round(share * len(points)))
    shift = random.Random(seed).random()
    return [points[int((number + shift) * len(points) / count)] for number in range(count)]


def _drained() -> None:
    sender.drain()


def _swept() -> None:
    sweeping.sweep()


def _post_all(hooks: Sequence[dict[str, Any]]) -> None:
    for hook in [*hooks, *hooks]:
        if (status := post(client(), hook)) != 200:
            raise RuntimeError(f"a webhook was answered with {status}")


# Kinds whose link `cause` makes.
MADE: Final = {"verification"}


def warm_up(provider: str) -> None:
    """Go through the service once, so that a child that is forked from here finds all loaded and compiled.

    All of it is rolled back, so no thread is started that a child would lack; and no session is left to be inherited.
    """
    get_connection(providers.get(provider).backend)
    couriers.trusted()
    with transaction.atomic():
        # Of those that hold a link, the one whose link comes with a new user.
        for kind in (name for name, kind in KINDS.items() if kind.rendered and (name in MADE or not kind.secret)):
            mode = Mode("", "", kind)
            cause(mode, [f"{kind}@example.org"])
        for act in (register, verify):
            act(Mode("", "", ""), Point([f"{act.__name__}@example.org"], nullcontext))
        for claim in outbox.claim("warm-up", 10):
            kinds.render(claim.message)
        if provider in SIGNED:
            post(client(), {"id": "none", "provider": provider, "body": {}})
        transaction.set_rollback(True)
    connection.close()
    gc.collect()
    gc.freeze()  # else each child's first collection would copy all pages
