"""Who did what to which account, when and from where.

`note` writes an entry in the transaction of what it tells of: both are committed, or neither is. The table takes
entries and gives none back: a trigger refuses to change or delete any, but what is older than `MIN_DAYS` to whoever
cleans up (`forget`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from ipaddress import IPv6Address, ip_address
from typing import Final

from django.db import connection, transaction
from django.http import HttpRequest

from users.addresses import mask
from users.models import AuditEntry, User

Action = AuditEntry.Action

# Days for which the trigger lets nobody delete an entry; it has the number, too.
MIN_DAYS: Final = 30
# Rows of one transaction.
BATCH: Final = 1000
USER_AGENT_LENGTH: Final = 200

_request: ContextVar[HttpRequest | None] = ContextVar("users.audit.request", default=None)


@contextmanager
def during(request: HttpRequest) -> Iterator[None]:
    """Let entries tell where they come from: from this request, its REMOTE_ADDR being the client's."""
    token = _request.set(request)
    try:
        yield
    finally:
        _request.reset(token)


def note(action: AuditEntry.Action, user: User | int | None) -> None:
    """Write what happened to a user, given by itself or its id; None where nobody has the address it was about."""
    request = _request.get()
    AuditEntry.objects.create(
        action=action,
        user_id=user.pk if isinstance(user, User) else user,
        **({} if request is None else _origin(request)),
    )


def _origin(request: HttpRequest) -> dict[str, object]:
    # Clients may call themselves anything.
    agent = "".join(letter for letter in request.headers.get("User-Agent", "") if letter.isprintable())
    return {
        "actor_id": getattr(getattr(request, "user", None), "pk", None),
        "ip": _ip(request.META.get("REMOTE_ADDR", "")),
        "user_agent": mask(agent)[:USER_AGENT_LENGTH],
    }


def _ip(text: str) -> str | None:
    try:
        address = ip_address(text)
    except ValueError:  # through a Unix socket comes none
        return None
    # PostgreSQL knows no zone, which says which of our network cards it came through.
    return text.partition("%")[0] if isinstance(address, IPv6Address) else text


def forget(days: float) -> Iterator[int]:
    """Delete entries older than some days, MIN_DAYS at least, batch after batch; yield the size of each, committed."""
    while count := _forget_some(days):
        yield count


@transaction.atomic
def _forget_some(days: float) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL users.audit_cleanup = 'on'")  # by which the trigger knows us, until the commit
        cursor.execute(_DELETE, [max(days, MIN_DAYS), BATCH])
        count: int = cursor.rowcount
        cursor.execute("SET LOCAL users.audit_cleanup = 'off'")  # the caller's transaction may go on
    return count


_TABLE: Final = AuditEntry._meta.db_table

# Two that run at once leave each other's rows alone.
_DELETE: Final = f"""
DELETE FROM {_TABLE} WHERE id IN (
    SELECT id FROM {_TABLE} WHERE at < statement_timestamp() - make_interval(secs => %s * 86400)
    ORDER BY at LIMIT %s FOR UPDATE SKIP LOCKED
)"""
