"""Which provider a message goes through, and how much may go there now.

A provider is left alone while it asks us to wait (429), for a minute where it does not know us (401, 403), and ever
longer while its requests fail: then one probe at a time shows whether it works again. The state, and the tokens
of a rate limit, are rows of `ProviderState`, so that the whole fleet acts as one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from django.conf import settings
from django.db import connection

from mailer import providers
from mailer.exceptions import MailerError
from mailer.models import Message, ProviderState
from mailer.providers import Provider

Reason = ProviderState.Reason

# Failures in a row after which a provider is left alone, for FIRST * 2**n seconds, LONGEST at most.
FAILURES: Final = 10
FIRST: Final = 5.0
LONGEST: Final = 60.0
# Seconds that a provider is left alone that does not know us.
REFUSED: Final = 60.0
# Seconds after which a probe of which nothing was heard is taken for lost.
PROBE: Final = 30.0
# Seconds' worth of tokens that may gather.
BURST: Final = 1.0
# Seconds to wait where only slots are lacking.
BUSY: Final = 0.5


class NoneFree(MailerError):
    """No provider may take the message now; `wait` says for how many seconds."""

    def __init__(self, wait: float) -> None:
        super().__init__("no provider is free")
        self.wait = wait


@dataclass(slots=True)
class Budget:
    """What may go to each provider in one round; `waits` are seconds until one that gets nothing may be tried.

    Of the `grants`, so many may be of the bulk lane as `bulk` says.
    """

    grants: dict[str, int] = field(default_factory=dict)
    waits: dict[str, float] = field(default_factory=dict)
    bulk: dict[str, int] = field(default_factory=dict)
    reserved: dict[str, int] = field(default_factory=dict)
    # Providers about which the fleet remembers something bad.
    troubled: set[str] = field(default_factory=set)
    # Messages that found no place: each waits for those before it, too, where there is a rate.
    turned_away: int = 0

    @property
    def total(self) -> int:
        """How many messages may go in all."""
        return sum(self.grants.values())

    def route(self, message: Message, *, is_bulk: bool = False) -> Provider:
        """Take a place for a message at the first of its providers that has one.

        Raises `NoneFree`, and `UnknownProvider` where this release no longer knows the one it is pinned to.
        """
        names = candidates(message)
        for name in names:
            provider = providers.get(name)
            # One that is no longer preferred still gets what it alone can tell a repeat of.
            if min(self.grants.get(name, 1), self.bulk.get(name, 1) if is_bulk else 1) > 0:
                self.grants[name] = self.grants.get(name, 1) - 1
                self.bulk[name] = self.bulk.get(name, 1) - is_bulk
                return provider
        wait, name = min(((self.waits.get(name, BUSY), name) for name in names), default=(BUSY, ""))
        queue = self.turned_away / settings.MAIL_RATES[name] if name in settings.MAIL_RATES else 0.0
        self.turned_away += 1
        raise NoneFree(wait + queue)

    def refund(self, name: str) -> None:
        """Return the place of a message that does not go after all."""
        if name in self.grants:
            self.grants[name] += 1

    def give_back(self) -> None:
        """Return what was reserved and not used."""
        for name, taken in self.reserved.items():
            if left := min(taken, self.grants.get(name, 0)):
                _run(_RETURN, {"name": name, "count": left, "burst": _burst(name), "unused": left == taken})


def candidates(message: Message) -> list[str]:
    """Return the names of the providers a message may go through, the preferred one first.

    A message stays with the provider that may have accepted it: only that one can tell a repeat from a second mail.
    """
    if message.provider:
        return [message.provider]
    routes: dict[str, list[str]] = settings.MAIL_ROUTES
    preferred: list[str] = settings.MAIL_PROVIDERS
    # Not every provider can take every mail that came through `EMAIL_BACKEND`.
    carriers = message.context.get("providers", preferred)
    return [name for name in routes.get(message.kind, preferred) if name in carriers] or carriers


def reserve(wanted: Mapping[str, int], bulk: Mapping[str, int] = MappingProxyType({})) -> Budget:
    """Reserve up to this many messages at each provider, of them so many of the bulk lane: all, where it is not named.

    Half of the tokens that may gather are never the bulk lane's, so that what is urgent finds some. One read where no
    provider is limited or in trouble. Safe with any number of callers: tokens and the probe are taken under the lock of
    the provider's row.
    """
    budget = Budget()
    with connection.cursor() as cursor:
        cursor.execute(_STATES, {"names": list(wanted)})
        states = {name: (reason, failures) for name, reason, failures in cursor.fetchall()}
    for name, count in wanted.items():
        reason, failures = states.get(name, ("", 0))
        if reason or failures:
            budget.troubled.add(name)
        budget.bulk[name] = bulk.get(name, count)
        if not reason and name not in settings.MAIL_RATES:
            budget.grants[name] = count
            continue
        granted, left, wait = _reserve(name, count)
        budget.grants[name] = granted
        budget.reserved[name] = granted
        if not granted:
            budget.waits[name] = wait
        elif name in settings.MAIL_RATES:
            lacking = max(0, _kept(name) - int(left))
            budget.bulk[name] = min(budget.bulk[name], max(0, granted - lacking))
            if granted <= lacking:
                budget.waits[name] = (1 + _kept(name) - granted - left) / settings.MAIL_RATES[name]
    return budget


def _reserve(name: str, count: int) -> tuple[int, float, float]:
    """Return how many messages may go, how many tokens are left, and the seconds until the next one."""
    parameters: dict[str, Any] = {
        "name": name,
        "count": count,
        "rate": settings.MAIL_RATES.get(name),
        "burst": _burst(name),
        "probe": PROBE,
    }
    with connection.cursor() as cursor:
        cursor.execute(_ROW, parameters)
        cursor.execute(_RESERVE, parameters)
        granted, left, wait = cursor.fetchone()
    return int(granted), float(left), float(wait)


def is_open() -> bool:
    """Tell whether any provider may be sent to now."""
    with connection.cursor() as cursor:
        cursor.execute(_BLOCKED, {"names": settings.MAIL_PROVIDERS})
        (blocked,) = cursor.fetchone()
    return int(blocked) < len(set(settings.MAIL_PROVIDERS))


def is_blocked(name: str) -> bool:
    """Tell whether a provider is left alone."""
    with connection.cursor() as cursor:
        cursor.execute(_BLOCKED, {"names": [name]})
        (blocked,) = cursor.fetchone()
    return bool(blocked)


def succeeded(name: str) -> None:
    """Take note that a provider works: its failures are forgotten."""
    _run(_SUCCEEDED, {"name": name, "throttled": Reason.THROTTLED})


def failed(name: str, count: int) -> None:
    """Take note of failures in a row. What was under way when the provider was left alone counts no more."""
    _run(_ROW, {"name": name})
    _run(
        _FAILED,
        {
            "name": name,
            "count": count,
            "limit": FAILURES,
            "first": FIRST,
            "longest": LONGEST,
            "failing": Reason.FAILING,
        },
    )


def throttled(name: str, seconds: float) -> None:
    """Leave a provider alone for as long as it asks."""
    _run(_ROW, {"name": name})
    _run(_LEFT_ALONE, {"name": name, "seconds": seconds, "reason": Reason.THROTTLED})


def refused(name: str) -> None:
    """Leave a provider alone that does not know us: a setting is wrong, and every message would tell the same."""
    _run(_ROW, {"name": name})
    _run(_LEFT_ALONE, {"name": name, "seconds": REFUSED, "reason": Reason.REFUSED})


def _burst(name: str) -> float:
    return max(1.0, settings.MAIL_RATES.get(name, 0.0) * BURST)


def _kept(name: str) -> int:
    """Return how many tokens are never the bulk lane's."""
    return int(_burst(name) / 2)


def _run(statement: str, parameters: Mapping[str, Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)


_STATE: Final = ProviderState._meta.db_table

_STATES: Final = f"SELECT name, reason, failures FROM {_STATE} WHERE name = ANY(%(names)s)"

_BLOCKED: Final = f"SELECT count(*) FROM {_STATE} WHERE name = ANY(%(names)s) AND blocked_until > now()"

_ROW: Final = f"""
INSERT INTO {_STATE} (name, failures, reason) VALUES (%(name)s, 0, '') ON CONFLICT (name) DO NOTHING"""

# After a block for failures, one probe goes; it holds the others off until it is heard of, or taken for lost. Whoever
# waited for the lock has an older now() than the one before, so time never runs backwards here.
_RESERVE: Final = f"""
WITH was AS MATERIALIZED (
    SELECT name, blocked_until > now() AS blocked, reason IN ('failing', 'refused', 'probing') AS tried,
           greatest(0, extract(epoch FROM blocked_until - now())) AS blocked_for,
           CASE WHEN %(rate)s::float IS NULL THEN NULL ELSE least(%(burst)s::float,
               coalesce(tokens, %(burst)s)
               + %(rate)s::float * greatest(0, extract(epoch FROM now() - refilled_at))) END AS filled
    FROM {_STATE} WHERE name = %(name)s FOR NO KEY UPDATE
),
given AS (
    SELECT was.*, CASE WHEN blocked THEN 0
        ELSE least(%(count)s, floor(filled), CASE WHEN tried THEN 1 END) END::int AS granted
    FROM was
)
UPDATE {_STATE} s
SET tokens = filled - granted, refilled_at = greatest(s.refilled_at, now()),
    reason = CASE WHEN granted > 0 AND tried THEN 'probing' WHEN granted > 0 THEN '' ELSE s.reason END,
    blocked_until = CASE WHEN granted > 0 AND tried THEN now() + make_interval(secs => %(probe)s)
        ELSE s.blocked_until END
FROM given WHERE s.name = given.name
RETURNING granted, coalesce(s.tokens, 0), greatest(blocked_for, coalesce((1 - filled) / %(rate)s::float, 0), 0)"""

# A probe for which there was no message may be another's at once.
_RETURN: Final = f"""
UPDATE {_STATE}
SET tokens = least(%(burst)s, tokens + %(count)s),
    blocked_until = CASE WHEN reason = 'probing' AND %(unused)s THEN now() ELSE blocked_until END
WHERE name = %(name)s"""

_SUCCEEDED: Final = f"""
UPDATE {_STATE}
SET failures = 0, reason = CASE WHEN reason = %(throttled)s THEN reason ELSE '' END,
    blocked_until = CASE WHEN reason = %(throttled)s THEN blocked_until END
WHERE name = %(name)s AND (failures > 0 OR reason NOT IN ('', %(throttled)s))"""

_FAILED: Final = f"""
WITH was AS MATERIALIZED (
    SELECT name,
           CASE WHEN reason = 'probing' THEN failures + 1 ELSE least(failures + %(count)s, %(limit)s) END AS failures
    FROM {_STATE}
    WHERE name = %(name)s AND (reason = 'probing' OR blocked_until IS NULL OR blocked_until <= now())
    FOR NO KEY UPDATE
)
UPDATE {_STATE} s
SET failures = was.failures,
    reason = CASE WHEN was.failures >= %(limit)s THEN %(failing)s ELSE s.reason END,
    blocked_until = CASE WHEN was.failures >= %(limit)s THEN now() + make_interval(
        secs => least(%(longest)s, %(first)s * 2 ^ least(was.failures - %(limit)s, 10))) ELSE s.blocked_until END
FROM was WHERE s.name = was.name"""

_LEFT_ALONE: Final = f"""
UPDATE {_STATE}
SET reason = CASE WHEN blocked_until > now() AND reason IN ('failing', 'refused') THEN reason ELSE %(reason)s END,
    blocked_until = greatest(blocked_until, now() + make_interval(secs => %(seconds)s))
WHERE name = %(name)s"""
