"""When an event happened, as providers write it; what cannot be read is None."""

from datetime import UTC, datetime
from typing import Any


def of_epoch(value: Any) -> datetime | None:
    """Return the time that seconds since 1970 stand for, a number or its digits."""
    try:
        return datetime.fromtimestamp(int(value), tz=UTC)
    # `OSError` is of a number that the C library takes and its calendar does not.
    except (OSError, OverflowError, TypeError, ValueError):
        return None


def of_iso(value: Any) -> datetime | None:
    """Return the time that an ISO 8601 text stands for, UTC where it names no offset."""
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
