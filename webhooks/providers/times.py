"""When an event happened, as providers write it; what cannot be read is None."""

from datetime import UTC, datetime
from typing import Any, Final

# What a number raises that is no time: `OSError` is of one that the C library takes and its calendar does not.
NO_TIME: Final = (OSError, OverflowError, TypeError, ValueError)


def of_epoch(value: Any) -> datetime | None:
    """Return the time that seconds since 1970 stand for, a number or its digits."""
    try:
        return datetime.fromtimestamp(int(value), tz=UTC)
    except NO_TIME:
        return None


def of_iso(value: Any) -> datetime | None:
    """Return the time that an ISO 8601 text stands for, UTC where it names no offset."""
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def with_readable_time(event: Any, name: str) -> Any:
    """Return an event whose time at `name` is a number, or without one where it is no time.

    Anymail takes numbers alone, and for one that is out of range raises `OSError`: a time would cost the event.
    """
    if not isinstance(event, dict) or name not in event:
        return event
    value = event[name]
    try:
        seconds = float(value)
        datetime.fromtimestamp(seconds, UTC)
    except NO_TIME:
        return {key: each for key, each in event.items() if key != name}
    return event if isinstance(value, int | float) else {**event, name: seconds}
