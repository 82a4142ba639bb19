"""What the provider saw, what it was told and what was promised, brought next to our own rows in PostgreSQL.

So each check is one query, and a million messages are no trouble.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final
from uuid import UUID

import psycopg

from mailer.providers import PROVIDERS, Provider
from tests.chaos.modes import AT_LEAST_ONCE

# Where a webhook's body names the mail.
MAIL_ID: Final = {"postmark": ("MessageID",), "resend": ("data", "email_id")}

TABLES: Final = """
DROP SCHEMA IF EXISTS chaos CASCADE;
CREATE SCHEMA chaos;
CREATE TABLE chaos.promised (address text);
CREATE TABLE chaos.provider (name text PRIMARY KEY, exact bool);
CREATE TABLE chaos.repeatable (kind text PRIMARY KEY);
CREATE TABLE chaos.accepted (mail_id text PRIMARY KEY, provider text, message_id uuid, recipient text);
CREATE TABLE chaos.requested (seq bigint PRIMARY KEY, provider text, message_id uuid);
CREATE TABLE chaos.hook (seq bigint PRIMARY KEY, provider text, mail_id text, acknowledged bool);
"""

# Each message with its promise. `doubts` counts the attempts of which nobody can tell whether they were accepted.
JUDGED: Final = """
CREATE INDEX ON chaos.accepted (message_id);
CREATE INDEX ON chaos.requested (message_id);
CREATE INDEX ON chaos.hook (mail_id);
CREATE TABLE chaos.judged AS
SELECT m.id, m.kind, m.state, m.dedupe_key,
       (SELECT count(*) FROM chaos.accepted a WHERE a.message_id = m.id) AS acceptances,
       coalesce(tries.doubts, 0) AS doubts,
       CASE WHEN coalesce(tries.exact, true) THEN 'exactly once'
            WHEN EXISTS (SELECT FROM chaos.repeatable r WHERE r.kind = m.kind) THEN 'at least once'
            ELSE 'at most once' END AS promise
FROM mailer_message m
LEFT JOIN LATERAL (
    SELECT bool_and(p.exact) AS exact, count(*) FILTER (WHERE t.outcome IN ('', 'ambiguous')) AS doubts
    FROM mailer_attempt t JOIN chaos.provider p ON p.name = t.provider WHERE t.message_id = m.id
) tries ON true;
ANALYZE chaos.judged;
"""


def gather(
    sql: psycopg.Connection[Any],
    *,
    accepted: Iterable[dict[str, Any]],
    requested: Iterable[dict[str, Any]],
    hooks: Iterable[dict[str, Any]],
    promised: Sequence[str],
) -> None:
    """Write the evidence, in the place of any earlier one.

    `accepted`, `requested` and `hooks` are the simulator's own rows. `promised` are the addresses whose
    registration was answered with 202.
    """
    sql.execute(TABLES)
    _copy(sql, "promised", [(address.lower(),) for address in promised])
    _copy(sql, "provider", [(p.name, _is_exact(p)) for p in PROVIDERS.values()])
    _copy(sql, "repeatable", [(kind,) for kind in AT_LEAST_ONCE])
    _copy(
        sql,
        "accepted",
        ((m["id"], m["provider"], _our_id(m["metadata"]), m["to"][0].lower()) for m in accepted),
    )
    _copy(sql, "requested", ((r["seq"], r["provider"], r["message_id"] or None) for r in requested))
    _copy(sql, "hook", ((h["seq"], h["provider"], mail_of(h), h["state"] == "delivered") for h in hooks))
    sql.execute(JUDGED)


def _is_exact(provider: Provider) -> bool:
    """Tell whether a message in doubt can be sent again, or asked about, without the risk of a second mail."""
    return bool(provider.key or (provider.search and provider.search.complete_after))


def mail_of(hook: dict[str, Any]) -> str:
    """Return the provider's id of the mail that a webhook is about."""
    found = hook["body"]
    for name in MAIL_ID[hook["provider"]]:
        found = found[name]
    return str(found)


def _copy(sql: psycopg.Connection[Any], table: str, rows: Iterable[tuple[Any, ...]]) -> None:
    with sql.cursor() as cursor, cursor.copy(f"COPY chaos.{table} FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _our_id(metadata: dict[str, str]) -> UUID | None:
    try:
        return UUID(metadata["message_id"])
    except (KeyError, ValueError):
        return None
