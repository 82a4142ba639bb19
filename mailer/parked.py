"""Parked events: the sweep seeks their deliveries for a day, some in each round.

Most find theirs when it learns its provider's id (`ledger.match_parked_of`). This is for the others: those parked while
that id was being stored, and those whose delivery learned it from another event. Many are of mails that are not ours at
all, so a round looks at the newest, and at some of the rest: each process walks through them, oldest first, and goes on
where its last round stopped. So a round costs the same however many are parked; each is looked at in every round while
they are few, and by each process once in so many rounds as there are `LIMIT / 2` of them.
"""

import random
from datetime import UTC, datetime, timedelta
from typing import Final

from django.db import connection
from django.utils import timezone

from mailer import ledger
from mailer.ledger import Recorded
from mailer.models import DeliveryEvent

# For how long an event is sought a delivery; those that nobody claimed by then are of mails that were not ours.
KEPT: Final = timedelta(hours=24)
# Events that one round looks at: the newest, and as many of all.
LIMIT: Final = 1000

# What sorts before any event.
_BEGIN: Final = (datetime.min.replace(tzinfo=UTC), 0)


class Walk:
    """Where a process stands among the parked events."""

    def __init__(self) -> None:
        # Anywhere: processes that live for one round shall not all look at the same ones.
        self._last = (timezone.now() - KEPT * random.random(), 0)  # noqa: S311  # no secret

    def go(self, limit: int) -> list[int]:
        """Return the next events, by their ids, and go on to the oldest after the newest."""
        found = self._next(limit)
        if len(found) < limit:
            self._last = _BEGIN
            found += self._next(limit - len(found))
        return found

    def _next(self, limit: int) -> list[int]:
        with connection.cursor() as cursor:
            cursor.execute(
                _NEXT, {"kept": KEPT.total_seconds(), "at": self._last[0], "id": self._last[1], "limit": limit}
            )
            rows = cursor.fetchall()
        if rows:
            self._last = rows[-1]
        return [identifier for _, identifier in rows]


_of_this_process = Walk()


def match(limit: int = LIMIT, walk: Walk = _of_this_process) -> list[Recorded]:
    """Give parked events to the deliveries that have learned their provider's id since; return those matched.

    Looks at no more than `limit`. Safe to run at any time and by many at once: the delivery's lock lets one of them
    unpark an event.
    """
    with connection.cursor() as cursor:
        cursor.execute(_NEWEST, {"kept": KEPT.total_seconds(), "limit": limit - limit // 2})
        newest = [identifier for (identifier,) in cursor.fetchall()]
    return ledger.match_parked({*newest, *walk.go(limit // 2)})


_EVENT: Final = DeliveryEvent._meta.db_table
_PARKED: Final = f"FROM {_EVENT} WHERE delivery_id IS NULL AND recorded_at > now() - make_interval(secs => %(kept)s)"
_NEWEST: Final = f"SELECT id {_PARKED} ORDER BY recorded_at DESC LIMIT %(limit)s"
_NEXT: Final = f"""
SELECT recorded_at, id {_PARKED} AND (recorded_at, id) > (%(at)s, %(id)s) ORDER BY recorded_at, id LIMIT %(limit)s"""
