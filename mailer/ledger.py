"""Facts in, statuses folded: the only writer of `DeliveryEvent` and of `DeliveryStatus`.

Both ways in, new facts and parked events that found their delivery, are one statement each, made of the same parts:

    fact      what is known, each with its delivery where one is found
    locked    the deliveries concerned, locked in the order of their ids, as they are now
    judged    each fact against the locked delivery: does it change the status, and if not, why
    written   the events, inserted or unparked, in the order of their dedupe keys
    tally     what was written, by delivery; `winner` is the greatest of it
    folded    the deliveries, updated

Why this is safe when many run at once: every lock on a delivery is taken before any event is written, each in one
order everywhere, so no circle of waiting can form; what is compared is the row as it is once its lock is granted;
and only what was really written is folded, so a fact that another one recorded meanwhile has no second effect.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson
from django.conf import settings
from django.db import transaction
from uuid_utils.compat import uuid7

from mailer import statements
from mailer.models import DeliveryEvent, DeliveryStatus, Message
from mailer.providers import PROVIDERS
from mailer.signals import delivery_changed
from mailer.status import EVENT_STATUS, NO_RANK, RANKS, Status
from users.addresses import loosely_canonical
from users.signals import tell

Effect = DeliveryEvent.Effect
Source = DeliveryEvent.Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something that happened to a delivery.

    The delivery is named by its id (`delivery_id`), or by our message's id (`message_id`, from the provider's
    metadata) or the provider's (`esp_message_id`), and the recipient. A fact whose delivery is not found is parked.
    `occurred_at` None means now, by the database's clock.

    A provider is believed about what it has sent itself: our message's id leads to a delivery that it has accepted or,
    where none has, to one of a message that is with it now (`Message.provider`). So the word of one, or of who holds
    its secret, moves no mail of another. What a provider says late of a message that it refused, and another one took,
    is parked: kept and seen, as a dead letter in the end, and without effect.
    """

    event_type: str
    dedupe_key: str
    source: Source
    status: Status | None = None
    occurred_at: datetime | None = None
    delivery_id: UUID | None = None
    message_id: UUID | None = None
    provider: str = ""
    esp_message_id: str = ""
    esp_event_id: str = ""
    recipient_canonical: str = ""
    reject_reason: str = ""
    detail: str = ""
    receipt_id: UUID | None = None
    category: str = ""
    smtp_status: str = ""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One event that was written, and what it did."""

    dedupe_key: str
    event_type: str
    effect: Effect
    delivery_id: UUID | None
    message_id: UUID | None
    correlation_id: str
    old_status: str
    new_status: str


# Statuses that are not the last word: what becomes of such a delivery its provider is asked, if it can be.
INQUIRED: Final = (Status.SENT, Status.DEFERRED, Status.SOFT_BOUNCED)
# For how long a delivery has one of them before that.
INQUIRY: Final = "10 minutes"
# Characters of a provider's id that are kept.
MAX_IDENTIFIER: Final = 255


def dedupe_key(*parts: object) -> str:
    """Return the key that names a fact: SHA-256, in hex, over its parts."""
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()


def text_of(value: Any, limit: int) -> str:
    """Return a provider's value as text that PostgreSQL takes: no NUL, no lone surrogate, not too long."""
    if value is None:
        return ""
    return str(value).replace("\0", "").encode("utf-8", "replace").decode()[:limit]


def own_fact(
    event_type: str, delivery_id: UUID, occasion: object, *, source: Source = Source.SENDER, **fields: Any
) -> Fact:
    """Return a fact of our own; `occasion` tells two of one type about one delivery apart."""
    return Fact(
        event_type=event_type,
        status=EVENT_STATUS[event_type],
        dedupe_key=dedupe_key("sender", delivery_id, event_type, occasion),
        delivery_id=delivery_id,
        source=source,
        **fields,
    )


def openings(recipients: Iterable[str], *, event_type: str) -> str:
    """Return what `OPENING` reads: a delivery for each recipient of a new message, and its first event."""
    firsts = [(recipient, own_fact(event_type, uuid7(), "")) for recipient in recipients]
    rows = [
        {**_as_row(first), "recipient": recipient, "recipient_canonical": loosely_canonical(recipient)}
        for recipient, first in firsts
    ]
    return orjson.dumps(rows).decode()


def record(facts: Sequence[Fact]) -> list[Recorded]:
    """Write facts as events and fold them into the statuses; return what was new.

    Call it in a transaction that holds no lock on a delivery and, of the messages' rows, only ones it locked in
    the order of their ids. A fact whose dedupe key is known already changes nothing.
    """
    if not facts:
        return []
    return _run(_RECORD, [orjson.dumps([_as_row(fact) for fact in facts]).decode()])


def match_parked(events: Iterable[int]) -> list[Recorded]:
    """Give these events, where they are parked, to the deliveries that know their provider's id; return those matched.

    Safe to run at any time and by many at once: the delivery's lock lets one of them unpark an event.
    """
    ids = sorted(events)
    return _run(_MATCH, [ids, len(ids)]) if ids else []


def match_parked_of(deliveries: Iterable[tuple[str, str]]) -> list[Recorded]:
    """Do what `match_parked` does for some (provider, esp_message_id), in the transaction that stored them."""
    pairs = sorted({(provider, identifier) for provider, identifier in deliveries if identifier})
    if not pairs:
        return []
    providers, identifiers = map(list, zip(*pairs, strict=True))
    return _run(_MATCH_OF, [providers, identifiers, len(pairs) * 100])


def _as_row(fact: Fact) -> dict[str, Any]:
    return {
        "event_type": fact.event_type,
        "status": fact.status or "",
        "rank": NO_RANK if fact.status is None else RANKS[fact.status],
        "occurred_at": fact.occurred_at,
        "source": fact.source.value,
        "dedupe_key": fact.dedupe_key,
        "delivery_id": fact.delivery_id,
        "message_id": fact.message_id,
        "provider": fact.provider,
        "esp_message_id": fact.esp_message_id,
        "esp_event_id": fact.esp_event_id,
        "recipient_canonical": fact.recipient_canonical,
        "reject_reason": fact.reject_reason,
        "detail": fact.detail,
        "receipt_id": fact.receipt_id,
        "category": fact.category,
        "smtp_status": fact.smtp_status,
    }


def _run(statement: str, parameters: list[Any]) -> list[Recorded]:
    with statements.prepared() as cursor:
        cursor.execute(statement, [*parameters, _ASKED if settings.RECONCILE else []])
        recorded = [Recorded(row[0], row[1], Effect(row[2]), *row[3:]) for row in cursor.fetchall()]
    if delivery_changed.has_listeners(DeliveryStatus):
        changed = {
            event.delivery_id: (event.old_status, event.new_status)
            for event in recorded
            if event.delivery_id and event.new_status and event.old_status != event.new_status
        }
        transaction.on_commit(lambda: _announce(changed), robust=True)
    return recorded


def _announce(changed: Mapping[UUID, tuple[str, str]]) -> None:
    for identifier, delivery in DeliveryStatus.objects.in_bulk(list(changed)).items():
        old_status, new_status = changed[identifier]
        tell(delivery_changed, DeliveryStatus, delivery=delivery, old_status=old_status, new_status=new_status)


_OPEN_ENDED: Final = ", ".join(f"'{status}'" for status in INQUIRED)
_ASKED: Final = [provider.name for provider in PROVIDERS.values() if provider.tells]
_EVENT: Final = DeliveryEvent._meta.db_table
_DELIVERY: Final = DeliveryStatus._meta.db_table
_MESSAGE: Final = Message._meta.db_table
# Who has a delivery's message: who accepted it, or who may have, or is to.
_HOLDER: Final = f"""CASE d.provider
               WHEN '' THEN (SELECT m.provider FROM {_MESSAGE} m WHERE m.id = d.message_id) ELSE d.provider END"""
# What the fold makes of `provider`: the first that is heard of, but who accepts wins over who has refused.
_PROVIDER: Final = """coalesce(CASE WHEN d.sent_at IS NULL THEN tally.accepted_by END,
                 nullif(d.provider, ''), tally.provider)"""


def _find(where: str, recipient: str) -> str:
    """Return the query for one delivery among some: the recipient's, or the only one there is."""
    return f"""
        SELECT CASE WHEN count(*) = 1 OR bool_or(d.recipient_canonical = {recipient})
               THEN (array_agg(d.id ORDER BY (d.recipient_canonical = {recipient}) DESC, d.id))[1] END AS delivery_id
        FROM {_DELIVERY} d WHERE {where}"""


def _weight(row: str) -> str:
    """Return what events are compared by, as `status.Mark.weight` has it; "C" orders text as Python does."""
    return f'{row}.rank, {row}.occurred_at, {row}.dedupe_key COLLATE "C"'


def _statement(*, fact: str, write: str) -> str:
    return f"""
WITH fact AS MATERIALIZED ({fact}),
locked AS MATERIALIZED (
    SELECT d.id, d.message_id, d.status, d.status_rank AS rank, d.status_at AS occurred_at, d.status_key AS dedupe_key
    FROM {_DELIVERY} d WHERE d.id IN (SELECT delivery_id FROM fact)
    ORDER BY d.id FOR NO KEY UPDATE
),
judged AS MATERIALIZED (
    SELECT fact.*, CASE
        WHEN locked.id IS NULL THEN 'parked'
        WHEN fact.rank = {NO_RANK} THEN 'none'
        WHEN ({_weight("fact")}) < ({_weight("locked")}) THEN 'outranked'
        WHEN row_number() OVER (
            PARTITION BY fact.delivery_id ORDER BY {_weight("fact").replace(",", " DESC,")} DESC) > 1 THEN 'outranked'
        WHEN fact.status = locked.status THEN 'confirmed'
        ELSE 'changed' END AS effect
    FROM fact LEFT JOIN locked ON locked.id = fact.delivery_id
),
written AS ({write}),
tally AS (
    SELECT delivery_id,
           min(occurred_at) FILTER (WHERE event_type = 'sent') AS sent_at,
           min(occurred_at) FILTER (WHERE event_type = 'delivered') AS delivered_at,
           min(occurred_at) FILTER (WHERE event_type = 'opened') AS opened_at,
           min(occurred_at) FILTER (WHERE event_type = 'clicked') AS clicked_at,
           min(occurred_at) FILTER (WHERE event_type = 'unsubscribed') AS unsubscribed_at,
           count(*) FILTER (WHERE event_type = 'opened') AS opens,
           count(*) FILTER (WHERE event_type = 'clicked') AS clicks,
           max(provider) AS provider, max(esp_message_id) AS esp_message_id,
           max(provider) FILTER (WHERE event_type = 'sent' AND provider <> '') AS accepted_by,
           max(esp_message_id) FILTER (WHERE event_type = 'sent' AND provider <> '') AS accepted_as
    FROM written WHERE delivery_id IS NOT NULL GROUP BY delivery_id
),
winner AS (
    SELECT DISTINCT ON (written.delivery_id) written.*
    FROM written JOIN locked ON locked.id = written.delivery_id
    WHERE written.rank > {NO_RANK} AND ({_weight("written")}) > ({_weight("locked")})
    ORDER BY written.delivery_id, {_weight("written").replace(",", " DESC,")} DESC
),
folded AS (
    UPDATE {_DELIVERY} d SET
        status = coalesce(winner.status, d.status),
        status_rank = coalesce(winner.rank, d.status_rank),
        status_at = coalesce(winner.occurred_at, d.status_at),
        status_key = coalesce(winner.dedupe_key, d.status_key),
        updated_at = now(),
        provider = {_PROVIDER},
        esp_message_id = coalesce(CASE WHEN d.sent_at IS NULL THEN nullif(tally.accepted_as, '') END,
                                  nullif(d.esp_message_id, ''), tally.esp_message_id),
        sent_at = least(d.sent_at, tally.sent_at),
        delivered_at = least(d.delivered_at, tally.delivered_at),
        opened_at = least(d.opened_at, tally.opened_at),
        clicked_at = least(d.clicked_at, tally.clicked_at),
        unsubscribed_at = least(d.unsubscribed_at, tally.unsubscribed_at),
        open_count = d.open_count + tally.opens,
        click_count = d.click_count + tally.clicks,
        inquire_at = CASE
            WHEN coalesce(winner.status, d.status) NOT IN ({_OPEN_ENDED}) THEN NULL
            WHEN d.status_rank < {RANKS[Status.SENT]} AND {_PROVIDER} = ANY(%s)
                THEN now() + interval '{INQUIRY}'
            ELSE d.inquire_at END
    FROM tally LEFT JOIN winner USING (delivery_id)
    WHERE d.id = tally.delivery_id
    RETURNING d.id, d.status
)
SELECT written.dedupe_key::text, written.event_type::text, written.effect::text, written.delivery_id,
       locked.message_id,
       coalesce((SELECT m.correlation_id FROM {_MESSAGE} m WHERE m.id = locked.message_id), '')::text,
       coalesce(locked.status, '')::text, coalesce(folded.status, '')::text
FROM written
LEFT JOIN locked ON locked.id = written.delivery_id
LEFT JOIN folded ON folded.id = written.delivery_id
ORDER BY written.dedupe_key"""


# Parts of the statement that writes a message, and have its `written` (id, kind, user_id): the message's deliveries,
# and the first event of each.
OPENING: Final = f"""
opened AS (
    INSERT INTO {_DELIVERY} (id, message_id, kind, user_id, recipient, recipient_canonical, provider, esp_message_id,
                             status, status_rank, status_at, status_key, open_count, click_count)
    SELECT o.delivery_id, written.id, written.kind, written.user_id, o.recipient, o.recipient_canonical, '', '',
           o.status, o.rank, statement_timestamp(), o.dedupe_key, 0, 0
    FROM written CROSS JOIN jsonb_to_recordset(%(openings)s::jsonb) AS o(
        delivery_id uuid, recipient text, recipient_canonical text, status text, rank smallint, dedupe_key text)
    RETURNING *
),
begun AS (
    INSERT INTO {_EVENT} (delivery_id, event_type, status, rank, occurred_at, source, effect, dedupe_key,
                          provider, esp_message_id, esp_event_id, recipient_canonical, reject_reason, detail)
    SELECT opened.id, o.event_type, opened.status, opened.status_rank, opened.status_at, o.source, 'changed',
           opened.status_key, '', '', '', '', '', ''
    FROM opened JOIN jsonb_to_recordset(%(openings)s::jsonb) AS o(delivery_id uuid, event_type text, source text)
        ON o.delivery_id = opened.id
)"""

_COLUMNS: Final = """event_type, status, rank, occurred_at, source, dedupe_key, provider, esp_message_id,
           esp_event_id, recipient_canonical, reject_reason, detail, receipt_id, category, smtp_status"""

_RECORD: Final = _statement(
    fact=f"""
    SELECT DISTINCT ON (f.dedupe_key)
           event_type, status, rank, coalesce(occurred_at, statement_timestamp()) AS occurred_at, source, dedupe_key,
           provider, esp_message_id, esp_event_id, recipient_canonical, reject_reason, detail, receipt_id,
           category, smtp_status, coalesce(f.delivery_id, by_message.delivery_id, by_esp.delivery_id) AS delivery_id
    FROM jsonb_to_recordset(%s::jsonb) AS f(
           event_type text, status text, rank int, occurred_at timestamptz, source text, dedupe_key text,
           provider text, esp_message_id text, esp_event_id text, recipient_canonical text, reject_reason text,
           detail text, receipt_id uuid, category text, smtp_status text, delivery_id uuid, message_id uuid)
    CROSS JOIN LATERAL ({
        _find(
            f"f.delivery_id IS NULL AND d.message_id = f.message_id AND {_HOLDER} = f.provider", "f.recipient_canonical"
        )
    }) by_message
    CROSS JOIN LATERAL ({
        _find(
            "f.delivery_id IS NULL AND by_message.delivery_id IS NULL AND f.esp_message_id <> ''"
            " AND d.provider = f.provider AND d.esp_message_id = f.esp_message_id AND d.esp_message_id <> ''",
            "f.recipient_canonical",
        )
    }) by_esp
    ORDER BY f.dedupe_key, f.occurred_at""",
    write=f"""
    INSERT INTO {_EVENT} (delivery_id, effect, recorded_at, {_COLUMNS})
    SELECT CASE effect WHEN 'parked' THEN NULL ELSE delivery_id END, effect, clock_timestamp(), {_COLUMNS}
    FROM judged ORDER BY dedupe_key
    ON CONFLICT (dedupe_key) DO NOTHING
    RETURNING delivery_id, event_type, status, rank, occurred_at, dedupe_key, effect, provider, esp_message_id""",
)


def _match(which: str) -> str:
    return _statement(
        fact=f"""
    SELECT e.id, e.event_type, e.status, e.rank, e.occurred_at, e.dedupe_key, found.delivery_id
    FROM {_EVENT} e
    CROSS JOIN LATERAL ({
            _find(
                "d.provider = e.provider AND d.esp_message_id = e.esp_message_id AND d.esp_message_id <> ''",
                "e.recipient_canonical",
            )
        }) found
    WHERE e.delivery_id IS NULL AND e.esp_message_id <> '' AND found.delivery_id IS NOT NULL AND {which}
    ORDER BY e.dedupe_key
    LIMIT %s""",
        write=f"""
    UPDATE {_EVENT} e SET delivery_id = judged.delivery_id, effect = judged.effect
    FROM judged WHERE e.id = judged.id AND e.delivery_id IS NULL AND judged.effect <> 'parked'
    RETURNING e.delivery_id, e.event_type, e.status, e.rank, e.occurred_at, e.dedupe_key, e.effect,
              e.provider, e.esp_message_id""",
    )


_MATCH: Final = _match("e.id = ANY(%s)")
_MATCH_OF: Final = _match("(e.provider, e.esp_message_id) IN (SELECT * FROM unnest(%s::text[], %s::text[]))")
