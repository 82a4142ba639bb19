"""What follows from events for the addresses they are about: whom to mail no more.

A hard bounce that is the address's own fault, or nobody knows whose, and a complaint suppress at once; soft bounces do
when enough mails in a row had one. What passes by itself, or is ours to mend (a policy, a block, a name server), does
not.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from django.conf import settings
from django.db import connection

from mailer import suppressions
from mailer.ledger import Fact, Recorded
from mailer.models import DeliveryEvent, DeliveryStatus, Suppression
from mailer.status import Status
from mailer.suppressions import Unwanted

Reason = Suppression.Reason

# Why a mail did not arrive, where the address is not to blame.
BLAMELESS: Final = frozenset({"policy", "spam", "dns", "unreachable"})
# An address's latest deliveries, among which a run of soft bounces is looked for.
LATEST: Final = 100


def draw(provider: str, facts: Iterable[Fact], recorded: Iterable[Recorded]) -> int:
    """Suppress whom new events tell to, in the transaction that `ledger.record` wrote them in; return how many are new.

    An event of a mail we do not know counts, too: what a provider says of an address holds for it, whoever sent.
    """
    new = {event.dedupe_key for event in recorded}
    telling = {fact.dedupe_key: fact for fact in facts if fact.dedupe_key in new and (_reason(fact) or _is_soft(fact))}
    if not telling:
        return 0
    return suppressions.suppress_all(_unwanted(telling, _addresses(telling)), source=provider)


def _unwanted(telling: Mapping[str, Fact], addresses: Mapping[str, str]) -> Iterator[Unwanted]:
    for key, fact in telling.items():
        if reason := _reason(fact):
            yield Unwanted(addresses[key], reason, fact.detail)
    for address in _in_a_run({addresses[key] for key, fact in telling.items() if _is_soft(fact)}):
        yield Unwanted(address, Reason.SOFT_BOUNCES)


def _reason(fact: Fact) -> Reason | None:
    if fact.status == Status.COMPLAINED:
        return Reason.COMPLAINT
    if fact.status == Status.BOUNCED and fact.category not in BLAMELESS:
        return Reason.HARD_BOUNCE
    return None


def _is_soft(fact: Fact) -> bool:
    return fact.status == Status.SOFT_BOUNCED


def _addresses(keys: Iterable[str]) -> dict[str, str]:
    """Return the address that each event is about: the delivery's, as we mail it, or what the provider says."""
    with connection.cursor() as cursor:
        cursor.execute(_ADDRESSES, [list(keys)])
        return dict(cursor.fetchall())


def _in_a_run(addresses: Iterable[str]) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(_RUNS, {"addresses": sorted(addresses), "latest": LATEST, "enough": settings.MAIL_SOFT_BOUNCES})
        return [address for (address,) in cursor.fetchall()]


_EVENT: Final = DeliveryEvent._meta.db_table
_DELIVERY: Final = DeliveryStatus._meta.db_table
_SUPPRESSION: Final = Suppression._meta.db_table

_ADDRESSES: Final = f"""
SELECT e.dedupe_key, coalesce(nullif(d.recipient_canonical, ''), e.recipient_canonical)
FROM {_EVENT} e LEFT JOIN {_DELIVERY} d ON d.id = e.delivery_id WHERE e.dedupe_key = ANY(%s)"""

# Who was released since begins anew.
_RUNS: Final = f"""
WITH run AS MATERIALIZED (
    SELECT a.address, soft.since
    FROM unnest(%(addresses)s::text[]) a(address)
    CROSS JOIN LATERAL (
        WITH latest AS MATERIALIZED (
            SELECT d.status, d.status_at, greatest(d.delivered_at, d.opened_at, d.clicked_at) AS arrived_at
            FROM {_DELIVERY} d WHERE d.recipient_canonical = a.address ORDER BY d.id DESC LIMIT %(latest)s
        )
        SELECT count(*) AS count, min(newest.status_at) AS since
        FROM (
            SELECT l.status_at FROM latest l
            WHERE l.status = 'soft_bounced'
              AND l.status_at > coalesce((SELECT max(arrived_at) FROM latest), '-infinity')
            ORDER BY l.status_at DESC LIMIT %(enough)s
        ) newest
    ) soft
    WHERE soft.count >= %(enough)s
)
SELECT run.address FROM run
WHERE NOT EXISTS (
    SELECT FROM {_SUPPRESSION} s
    WHERE s.address = run.address AND s.reason = 'soft_bounces' AND s.released_at > run.since
)"""
