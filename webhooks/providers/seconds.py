"""Times as some providers give them: seconds since 1970, in UTC."""

from datetime import UTC, datetime
from typing import Any


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
    except (OSError, OverflowError, TypeError, ValueError):
        return {key: each for key, each in event.items() if key != name}
    return event if isinstance(value, int | float) else {**event, name: seconds}
