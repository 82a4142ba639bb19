"""The status vocabulary, the ranks, and the fold: pure Python, no database.

A delivery's status is never set. It is that of the greatest event about it, by (rank, event time, dedupe key); the
time of arrival plays no part. `max` is associative, commutative and idempotent, so any order, any
duplication and any split into batches give the same status. `ledger.record` does the same in SQL.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from django.utils.translation import gettext_lazy as _


class Status(StrEnum):
    """What became of a delivery."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    UNKNOWN = "unknown"
    SENT = "sent"
    DEFERRED = "deferred"
    SOFT_BOUNCED = "soft_bounced"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    DELIVERED = "delivered"
    BOUNCED = "bounced"
    REJECTED = "rejected"
    SUPPRESSED = "suppressed"
    COMPLAINED = "complained"


CHOICES: Final = [
    (Status.SCHEDULED.value, _("scheduled")),
    (Status.QUEUED.value, _("queued")),
    (Status.UNKNOWN.value, _("may have been accepted")),
    (Status.SENT.value, _("accepted by the provider")),
    (Status.DEFERRED.value, _("delayed")),
    (Status.SOFT_BOUNCED.value, _("bounced for now")),
    (Status.FAILED.value, _("failed")),
    (Status.EXPIRED.value, _("expired")),
    (Status.CANCELLED.value, _("cancelled")),
    (Status.DELIVERED.value, _("delivered")),
    (Status.BOUNCED.value, _("bounced")),
    (Status.REJECTED.value, _("rejected")),
    (Status.SUPPRESSED.value, _("suppressed")),
    (Status.COMPLAINED.value, _("complained")),
]

RANKS: Final[dict[Status, int]] = {
    Status.SCHEDULED: 0,
    Status.QUEUED: 10,
    Status.UNKNOWN: 18,
    Status.SENT: 20,
    Status.DEFERRED: 30,
    Status.SOFT_BOUNCED: 35,
    # `delivered` beats our own verdicts: a request that timed out may have been accepted.
    Status.FAILED: 38,
    Status.EXPIRED: 38,
    Status.CANCELLED: 38,
    Status.DELIVERED: 40,
    Status.BOUNCED: 50,
    Status.REJECTED: 50,
    Status.SUPPRESSED: 50,
    Status.COMPLAINED: 60,
}
# The rank of an event that says nothing about the status.
NO_RANK: Final = -1

# From this rank on the provider has the message: whoever doubted it may stop.
ACCEPTED_RANK: Final = RANKS[Status.SENT]

# Event type -> the status it speaks for. Anymail's words, and those of our own sender. Where a provider
# tells soft from hard bounces, `webhooks.normal` overrides the status of `bounced`.
EVENT_STATUS: Final[dict[str, Status | None]] = {
    "scheduled": Status.SCHEDULED,
    "queued": Status.QUEUED,
    "ambiguous": Status.UNKNOWN,
    "retried": None,
    "sent": Status.SENT,
    "deferred": Status.DEFERRED,
    "failed": Status.FAILED,
    "expired": Status.EXPIRED,
    "cancelled": Status.CANCELLED,
    "suppressed": Status.SUPPRESSED,
    "rejected": Status.REJECTED,
    "delivered": Status.DELIVERED,
    "bounced": Status.BOUNCED,
    "complained": Status.COMPLAINED,
    # Nobody opens, clicks or unsubscribes from what was not delivered.
    "opened": Status.DELIVERED,
    "clicked": Status.DELIVERED,
    "unsubscribed": Status.DELIVERED,
    "subscribed": None,
    "autoresponded": None,
    "unknown": None,
}


@dataclass(frozen=True, slots=True)
class Mark:
    """What the fold needs of an event: the status it speaks for, when it happened, and its dedupe key."""

    status: Status | None
    occurred_at: datetime
    dedupe_key: str

    @property
    def rank(self) -> int:
        """The rank of the status, or `NO_RANK`."""
        return NO_RANK if self.status is None else RANKS[self.status]

    @property
    def weight(self) -> tuple[int, datetime, str]:
        """What events are compared by."""
        return self.rank, self.occurred_at, self.dedupe_key


def fold(marks: Iterable[Mark]) -> Mark | None:
    """Return the mark that decides the status, or None where none speaks for one."""
    return max((mark for mark in marks if mark.status is not None), key=lambda mark: mark.weight, default=None)
