"""How the webhooks of each provider are doing.

Nothing here reads more rows of a provider than a fixed number, however many there are, and every one by an index: it
may be asked at every scrape.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.db import connection
from django.utils import timezone

from mailer.models import DeliveryEvent, DeliveryStatus
from webhooks import polls
from webhooks.models import Inquiry, RefusalCount, WebhookReceipt
from webhooks.polls import POLLS
from webhooks.providers import WEBHOOKS

State = WebhookReceipt.State

# Of a provider's events: the latest so many, and none older than a day, are what lags are told from.
SAMPLE: Final = 1000
# Of the deliveries old enough to have been reported about: the latest so many are looked at.
LATEST: Final = 100
# As many rows as are counted at most.
MANY: Final = 10_000
QUANTILES: Final = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Life:
    """When a provider last reported an event, seconds since, and for how long it has left its mails without a word.

    Only webhooks count: what it tells when it is asked says nothing of them. `silent_seconds` is None where all is
    well: nothing was sent since the last event, or not long enough ago (WEBHOOK_SILENCE_HOURS), or what it told
    waits to be read. A provider that has never reported anything is silent since the mail that tells.
    """

    last_event_at: datetime | None
    last_event_seconds: float | None
    silent_seconds: float | None


@dataclass(frozen=True, slots=True)
class Lag:
    """Percentiles, in seconds by `QUANTILES`, over some events; empty where there are none.

    `to_receipt` is from when it happened, by the provider's clock, to the begin of the transaction that stored the
    webhook; `to_record` from there until the row of the event was written, once its delivery's lock was granted. The
    statement that writes it also folds it, and the commit follows: neither is in the figure. One that is parked counts
    as recorded.
    """

    events: int = 0
    to_receipt: Mapping[float, float] = field(default_factory=dict)
    to_record: Mapping[float, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refusal:
    """How often requests were refused for a reason, and when last."""

    reason: str
    code: int
    count: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Health:
    """All that is known of one provider's webhooks."""

    life: Life
    lag: Lag
    refusals: tuple[Refusal, ...] = ()


def report() -> dict[str, Health]:
    """Return the health of each provider whose webhooks are taken, by name."""
    refused: dict[str, list[Refusal]] = {}
    for row in RefusalCount.objects.order_by("provider", "reason"):
        refused.setdefault(row.provider, []).append(Refusal(row.reason, row.code, row.count, row.last_at))
    lags = _lags()
    return {name: Health(life, lags[name], tuple(refused.get(name, ()))) for name, life in lives().items()}


@dataclass(frozen=True, slots=True)
class Asking:
    """What asking a provider came to (`webhooks.reconcile`).

    `asked` mails, `told` events that no webhook had, `failed` mails that it did not answer about; `tokens` are requests
    that may go to it now, None where it was never asked.
    """

    asked: int = 0
    told: int = 0
    failed: int = 0
    tokens: float | None = None
    silent_seconds: float = 0.0


def asking() -> dict[str, Asking]:
    """Return what asking came to, by provider: of all that were asked, and of those in use that can be."""
    now = timezone.now()
    known = {row.name: row for row in Inquiry.objects.filter(name__in=POLLS).order_by("name")}
    unused = {name: Asking() for name in settings.MAIL_PROVIDERS if name in POLLS and settings.RECONCILE}
    return unused | {name: _asking(row, now) for name, row in known.items()}


def _asking(row: Inquiry, now: datetime) -> Asking:
    filled = row.tokens + polls.rate(row.name) * max(0.0, (now - row.refilled_at).total_seconds())
    silent = (row.silent_until - now).total_seconds() if row.silent_until else 0.0
    return Asking(row.asked, row.told, row.failed, min(polls.burst(row.name), filled), max(0.0, silent))


def left() -> dict[str, int]:
    """Count the receipts that wait, and those that could not be read: `MANY` are that or more."""
    with connection.cursor() as cursor:
        cursor.execute(_LEFT, {"many": MANY})
        return dict(cursor.fetchall())


def oldest_waiting() -> float | None:
    """Return for how many seconds the receipt that waits longest has waited to be read; None where none waits."""
    with connection.cursor() as cursor:
        cursor.execute(_OLDEST)
        row = cursor.fetchone()
    return row and float(row[0])


def lives() -> dict[str, Life]:
    """Return the cheaper half of the report: who has spoken when, and who is silent."""
    kept: float = settings.WEBHOOK_EVENT_DAYS
    rows = _ask(_LIVES, {"silence": settings.WEBHOOK_SILENCE_HOURS, "latest": LATEST, "kept": kept})
    return {name: Life(*rest) for name, *rest in rows}


def _lags() -> dict[str, Lag]:
    rows = _ask(_LAGS, {"sample": SAMPLE, "quantiles": list(QUANTILES)})
    return {name: Lag(events, _named(receipt), _named(record)) for name, events, receipt, record in rows}


def _named(percentiles: list[float] | None) -> Mapping[float, float]:
    return dict(zip(QUANTILES, percentiles or (), strict=False))


def _ask(statement: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    names = [name for name in WEBHOOKS if settings.WEBHOOK_SECRETS.get(name)]
    with connection.cursor() as cursor:
        cursor.execute(statement, {"names": names, **parameters})
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


_EVENT: Final = DeliveryEvent._meta.db_table
_DELIVERY: Final = DeliveryStatus._meta.db_table
_RECEIPT: Final = WebhookReceipt._meta.db_table

# Each state by its name: of one that comes from elsewhere the planner would not know that it is rare.
_LEFT: Final = " UNION ALL ".join(
    f"SELECT '{state}', (SELECT count(*) FROM (SELECT FROM {_RECEIPT} WHERE state = '{state}' LIMIT %(many)s) found)"
    for state in (State.WAITING, State.RETRY, State.POISON)
)

# Ids count up with time; so the index by state knows which came first.
_OLDEST: Final = f"""
SELECT greatest(0, extract(epoch FROM now() - received_at))::float8 FROM {_RECEIPT}
WHERE state = 'waiting' ORDER BY id LIMIT 1"""

# A mail may have been reported about by an event that came before the answer of the provider; and the events of an old
# one are not kept. Ids of deliveries begin with the time they were made at, in milliseconds (RFC 9562 5.7), by which
# those old enough are found. With `=` instead of `ANY` the order would be that of the ids alone, and a search along the
# primary key for a provider that has not been used for a year would read that year.
_LIVES: Final = f"""
WITH unread AS MATERIALIZED (
    SELECT provider FROM {_RECEIPT} WHERE state = 'waiting' ORDER BY id DESC LIMIT %(latest)s
)
SELECT p.name, last.at, extract(epoch FROM now() - last.at)::float8,
       CASE WHEN unheard.at IS NOT NULL AND NOT EXISTS (SELECT FROM unread WHERE unread.provider = p.name)
            THEN extract(epoch FROM now() - coalesce(last.at, unheard.at))::float8 END
FROM (SELECT now() - make_interval(secs => %(silence)s * 3600) AS at) due
CROSS JOIN LATERAL (
    SELECT (lpad(to_hex(floor(extract(epoch FROM due.at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid AS id
) old
CROSS JOIN unnest(%(names)s::text[]) p(name)
LEFT JOIN LATERAL (
    SELECT e.recorded_at AS at FROM {_EVENT} e
    WHERE e.provider = p.name AND e.source = 'webhook' ORDER BY e.recorded_at DESC LIMIT 1
) last ON true
LEFT JOIN LATERAL (
    SELECT min(d.sent_at) AS at
    FROM (
        SELECT d.id, d.sent_at FROM {_DELIVERY} d
        WHERE d.provider = ANY(ARRAY[p.name]) AND d.id < old.id
        ORDER BY d.provider, d.id DESC LIMIT %(latest)s
    ) d
    WHERE d.sent_at > coalesce(last.at, now() - make_interval(secs => %(kept)s * 86400)) AND d.sent_at < due.at
      AND NOT EXISTS (SELECT FROM {_EVENT} e WHERE e.delivery_id = d.id AND e.source = 'webhook')
) unheard ON true"""

# A clock of theirs that runs ahead of ours is no lag. `OFFSET 0` has the receipts found one by one; a join might read
# all of them.
_LAGS: Final = f"""
SELECT p.name, lag.events, lag.to_receipt, lag.to_record
FROM unnest(%(names)s::text[]) p(name)
CROSS JOIN LATERAL (
    SELECT count(*) AS events,
           percentile_cont(%(quantiles)s::float8[]) WITHIN GROUP (
               ORDER BY greatest(0, extract(epoch FROM r.received_at - e.occurred_at))::float8) AS to_receipt,
           percentile_cont(%(quantiles)s::float8[]) WITHIN GROUP (
               ORDER BY greatest(0, extract(epoch FROM e.recorded_at - r.received_at))::float8) AS to_record
    FROM (
        SELECT e.occurred_at, e.recorded_at, e.receipt_id FROM {_EVENT} e
        WHERE e.provider = p.name AND e.source = 'webhook' AND e.recorded_at > now() - interval '1 day'
        ORDER BY e.recorded_at DESC LIMIT %(sample)s
    ) e
    CROSS JOIN LATERAL (SELECT r.received_at FROM {_RECEIPT} r WHERE r.id = e.receipt_id OFFSET 0) r
) lag"""
