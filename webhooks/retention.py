"""What is not kept of what providers reported: receipts, events and nonces after some days, a person's when they ask.

The rules are applied as `mailer.retention` applies its own: batch by batch, each a transaction of its own over rows
that nobody else holds, in any number of processes.

An event is its own dedupe key: while its row stands, the same report changes nothing. It outlives its receipt, so no
replay finds its key gone, and by far the time for which any provider repeats. A delivery keeps its status, times and
counters when events of it go: `mailer.ledger` compares with what stands in the delivery, and folds no row twice.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import idna
import structlog
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Value
from django.db.models.functions import Now

from mailer import retention
from mailer.models import DeliveryEvent, DeliveryStatus
from mailer.providers import PROVIDERS
from mailer.retention import REPORTED, Rule
from users.addresses import loosely_canonical
from webhooks import inbox, later
from webhooks.models import DUE, Nonce, WebhookReceipt
from webhooks.providers import WEBHOOKS

log = structlog.get_logger(__name__)


# --- By age ---------------------------------------------------------------------------------------------


def rules(
    receipt_days: float | None = None, event_days: float | None = None, nonce_days: float | None = None
) -> list[Rule]:
    """Return what is to go now, by WEBHOOK_RECEIPT_DAYS, _EVENT_DAYS and _NONCE_DAYS or the days given.

    Receipts go before events: an event stays for as long as the receipt it came in. What waits to be read, or
    tried again, stays, however old it is.
    """
    receipt, event, nonce = (
        timedelta(days=default if days is None else days)
        for default, days in (
            (settings.WEBHOOK_RECEIPT_DAYS, receipt_days),
            (settings.WEBHOOK_EVENT_DAYS, event_days),
            (settings.WEBHOOK_NONCE_DAYS, nonce_days),
        )
    )
    receipts = WebhookReceipt.objects.exclude(state__in=DUE)
    # By provider and source, as the index `event_reported` has it.
    events = DeliveryEvent.objects.filter(provider__in={*WEBHOOKS, *PROVIDERS}, source__in=REPORTED)
    kept = Exists(WebhookReceipt.objects.filter(pk=OuterRef("receipt_id")))
    nonces = Nonce.objects.annotate(state=Value("old"))  # they have none to be counted by
    return [
        Rule("receipts", receipts.filter(received_at__lt=Now() - receipt), _deleting(WebhookReceipt)),
        Rule("events", events.filter(~kept, recorded_at__lt=Now() - event), _deleting(DeliveryEvent), by="provider"),
        Rule("nonces", nonces.filter(received_at__lt=Now() - nonce), _deleting(Nonce)),
    ]


def _deleting(model: type[Any]) -> Callable[[Sequence[Any]], object]:
    return lambda ids: model.objects.filter(pk__in=ids).delete()


def cleanup(
    chosen: Sequence[Rule], keep_on: Callable[[], bool] = lambda: True, seen: Callable[[int], object] = lambda _: None
) -> dict[str, int]:
    """Apply rules as `mailer.retention.apply_all` does."""
    taken = retention.apply_all(chosen, keep_on, seen)
    log.info("webhooks_cleaned_up", **taken)
    return taken


def tidy() -> int:
    """Apply each rule to one batch; return how many rows went. The sweep calls it, so that it does without beat."""
    return sum(next(rule.apply(), 0) for rule in rules())


# --- By address -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure did: in `mailer`, how many receipts it deleted, and how many it left since they wait."""

    mail: retention.Erased
    receipts: int
    waiting: int


def holdings(address: str, seen: Callable[[int], object] = lambda _: None) -> Mapping[str, int]:
    """Return how many rows hold an address, however it is spelled; tell `seen` the receipts read of each page."""
    canonical = loosely_canonical(address)
    receipts = {*_reached(canonical)}
    for page in _pages():
        receipts |= {identifier for identifier, _ in _naming(canonical, page)}
        seen(len(page))
    return {**retention.holdings(address), "webhook receipts": len(receipts)}


def erase(address: str, seen: Callable[[int], object] = lambda _: None) -> Erased:
    """Erase an address, however it is spelled, from all that was sent to it and reported about it.

    The receipts first, while the events tell which: those that events about the address came in, however its body
    spells it, then all that name it. A receipt may be about other people, too: it is deleted all the same, since its
    events are recorded. One that waits is read first; where that fails it is left, and counted as `waiting`: erase
    again once it has ended. A run that was cut short may be repeated. Tells `seen` the receipts it has read of each
    page, then the deliveries of each batch. Raises `ValueError` as `mailer.retention.erase` does.
    """
    canonical = loosely_canonical(address)
    if not canonical:
        raise ValueError("an address is needed")
    receipts = waiting = 0
    while identifiers := _reached(canonical)[: retention.BATCH]:
        receipts += _delete(identifiers)
    for page in _pages():
        found = _naming(canonical, page)
        waits = {identifier for identifier, state in found if state in DUE and not _is_read_now(identifier)}
        waiting += len(waits)
        receipts += _delete([identifier for identifier, _ in found if identifier not in waits])
        seen(len(page))
    erased = Erased(retention.erase(address, seen), receipts, waiting)
    log.info("webhook_data_erased", receipts=receipts, waiting=waiting)
    return erased


def _is_read_now(identifier: UUID) -> bool:
    """Read a receipt that waits; tell whether that went well. What it records is erased with the rest."""
    try:
        later.replay(identifier)
    except Exception as error:  # as in `inbox.process_all`
        if inbox.is_away(error):
            raise
        log.warning("receipt_failed", receipt_id=str(identifier), error_class=type(error).__name__)
        return False
    return True


def _reached(canonical: str) -> list[UUID]:
    """Return the receipts that are kept of the events about an address."""
    with connection.cursor() as cursor:
        cursor.execute(_REACHED, [canonical, canonical])
        return [identifier for (identifier,) in cursor.fetchall()]


def _pages() -> Iterator[list[UUID]]:
    """Yield the receipts there are, page by page."""
    last = UUID(int=0)
    while page := list(
        WebhookReceipt.objects.filter(pk__gt=last).order_by("pk").values_list("pk", flat=True)[: retention.BATCH]
    ):
        yield page
        last = page[-1]


def _naming(canonical: str, page: Sequence[UUID]) -> list[tuple[UUID, str]]:
    """Return those of a page whose body names an address, each with its state."""
    with connection.cursor() as cursor:
        cursor.execute(_NAMING, [[*page], pattern(canonical)])
        found: list[tuple[UUID, str]] = cursor.fetchall()
    return found


@transaction.atomic
def _delete(identifiers: Sequence[UUID]) -> int:
    """Delete receipts. They are locked in the order of their ids, so that two erasures do not wait for each other."""
    locked = WebhookReceipt.objects.select_for_update().filter(pk__in=identifiers).order_by("pk")
    return WebhookReceipt.objects.filter(pk__in=list(locked.values_list("pk", flat=True))).delete()[0]


def pattern(canonical: str) -> str:
    r"""Return the regular expression, of PostgreSQL's, by which a body names an address in canonical form.

    For `encode(body, 'escape')`, where a backslash is two, and a byte beyond ASCII a backslash and three digits; to be
    matched without regard to case. Each character may be as it is, as in JSON (`\u0040`) or as in a form (`%40`), and
    the domain in IDNA form or not. A longer address does not match.
    """
    local, at, domain = canonical.rpartition("@")
    spelled = "|".join("".join(map(_spellings, each)) for each in sorted({domain, _unicode(domain)}))
    begin = r"(?:^|[^a-z0-9.+_%-]|%[0-9a-f]{2}|\\\\(?:u[0-9a-f]{4}|[nrt])|\\[0-7]{3})"
    end = r"(?:$|[^a-z0-9.-]|\.(?:$|[^a-z0-9]))"
    return f"{begin}{''.join(map(_spellings, local + at))}(?:{spelled}){end}"


def _spellings(character: str) -> str:
    octets = character.encode()
    units = character.encode("utf-16-be")
    plain = re.escape(character) if character.isascii() else "".join(rf"\\{octet:03o}" for octet in octets)
    quoted = "".join(rf"\\+u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
    return f"(?:{plain}|{quoted}|{''.join(f'%(?:25)?{octet:02x}' for octet in octets)})"


def _unicode(domain: str) -> str:
    try:
        return idna.decode(domain)
    except UnicodeError:  # idna.IDNAError is one
        return domain


_EVENT: Final = DeliveryEvent._meta.db_table
_DELIVERY: Final = DeliveryStatus._meta.db_table
_RECEIPT: Final = WebhookReceipt._meta.db_table

_REACHED: Final = f"""
SELECT r.id FROM {_RECEIPT} r WHERE r.id IN (
    SELECT e.receipt_id FROM {_DELIVERY} d JOIN {_EVENT} e ON e.delivery_id = d.id WHERE d.recipient_canonical = %s
    UNION
    SELECT e.receipt_id FROM {_EVENT} e WHERE e.delivery_id IS NULL AND e.recipient_canonical = %s
)"""

_NAMING: Final = f"SELECT id, state FROM {_RECEIPT} WHERE id = ANY(%s) AND encode(body, 'escape') ~* %s"
