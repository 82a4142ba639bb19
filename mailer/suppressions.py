"""Addresses we do not mail now, and why: the only writer of `Suppression`.

An address may be suppressed for several reasons at once, each with an end of its own. A kind that must go anyway
names the reasons it overrides (`kinds.Kind.despite`).
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog
from django.db import connection, transaction
from django.db.models.functions import Now
from uuid_utils.compat import uuid7

from mailer.models import Suppression
from users.addresses import loosely_canonical

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Unwanted:
    """An address, in canonical form, that is not to be mailed, and why."""

    address: str
    reason: str
    detail: str = ""


def suppress(address: str, reason: str, *, source: str, detail: str = "", expires_at: datetime | None = None) -> bool:
    """Mail an address no more, until `expires_at` where that is given; tell whether that is new.

    Where the address is suppressed for this reason already, its end is put off, never brought forward. Safe when two
    say so at once: the unique index decides, and the second one extends.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        # One that has run out is history, and says so.
        cursor.execute(_RUN_OUT, [loosely_canonical(address), reason])
        cursor.execute(_SUPPRESS, [uuid7(), loosely_canonical(address), reason, source, detail, expires_at])
        identifier, is_new = cursor.fetchone()
    log.info("address_suppressed", suppression_id=str(identifier), reason=reason, source=source, is_new=is_new)
    return bool(is_new)


def suppress_all(wanted: Iterable[Unwanted], *, source: str) -> int:
    """Do what `suppress` does for many in the caller's transaction, without an end; return how many are new.

    Whoever suppresses many waits for another one who does, and holds no address before: so in no order of them can two
    wait for each other.
    """
    rows = sorted({(each.address, each.reason): each for each in wanted if each.address}.items())
    if not rows:
        return 0
    given = [
        [each.address for _, each in rows],
        [each.reason for _, each in rows],
        [each.detail for _, each in rows],
    ]
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_MANY])
        cursor.execute(_RUN_OUT_ALL, given[:2])
        cursor.execute(_SUPPRESS_ALL, [source, [uuid7() for _ in rows], *given])
        suppressed = cursor.fetchall()
    for identifier, reason, is_new in suppressed:
        log.info("address_suppressed", suppression_id=str(identifier), reason=reason, source=source, is_new=is_new)
    return sum(is_new for _, _, is_new in suppressed)


def release(address: str, *, by: str, reasons: Collection[str] = tuple(Suppression.Reason)) -> int:
    """Mail an address again; return how many suppressions that ended. What was sent meanwhile is not sent again."""
    standing = Suppression.objects.filter(address=loosely_canonical(address), reason__in=reasons, released_at=None)
    released = standing.update(released_at=Now(), released_by=by)
    if released:
        log.info("address_released", count=released, by=by)
    return released


def standing(addresses: Collection[str]) -> Mapping[str, frozenset[str]]:
    """Return why each of these addresses, in canonical form, is suppressed now; those that are not are left out."""
    found: dict[str, frozenset[str]] = {}
    if not addresses:
        return found
    with connection.cursor() as cursor:
        cursor.execute(_STANDING, [list(addresses)])
        for address, reason in cursor.fetchall():
            found[address] = found.get(address, frozenset()) | {reason}
    return found


_TABLE: Final = Suppression._meta.db_table

_STANDING: Final = f"""
SELECT address, reason FROM {_TABLE}
WHERE address = ANY(%s) AND released_at IS NULL AND (expires_at IS NULL OR expires_at > statement_timestamp())"""

_RUN_OUT: Final = f"""
UPDATE {_TABLE} SET released_at = expires_at, released_by = 'expiry'
WHERE address = %s AND reason = %s AND released_at IS NULL AND expires_at <= now()"""

_SUPPRESS: Final = f"""
INSERT INTO {_TABLE} AS s (id, address, reason, source, detail, expires_at, released_by)
VALUES (%s, %s, %s, %s, %s, %s, '')
ON CONFLICT (address, reason) WHERE released_at IS NULL DO UPDATE SET
    expires_at = CASE WHEN s.expires_at IS NULL OR excluded.expires_at IS NULL THEN NULL
                 ELSE greatest(s.expires_at, excluded.expires_at) END
RETURNING id, xmax = 0"""

# The advisory lock of who suppresses many: any number that no other of ours is.
_MANY: Final = 0x53757070

_RUN_OUT_ALL: Final = f"""
UPDATE {_TABLE} SET released_at = expires_at, released_by = 'expiry'
WHERE (address, reason) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
  AND released_at IS NULL AND expires_at <= now()"""

# In the order of the addresses, as whoever suppresses a single one cannot wait for a second.
_SUPPRESS_ALL: Final = f"""
INSERT INTO {_TABLE} AS s (id, address, reason, detail, source, expires_at, released_by)
SELECT w.*, %s, NULL, '' FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[]) w
ON CONFLICT (address, reason) WHERE released_at IS NULL DO UPDATE SET expires_at = NULL
RETURNING id, reason, xmax = 0"""
