"""Thin tasks: any of them may be lost, doubled or late without harm."""

import time
from typing import Final

from celery import shared_task

from mailer.doorbell import Hint
from webhooks import inbox, later, retention

# Seconds that one cleanup takes at most, below the time after which Celery kills a task.
CLEANUP: Final = 300.0


@shared_task(name=inbox.READING.task, base=Hint)
def read() -> int:
    """Read receipts that wait, for a while, and ring again if that was not all; return how many were processed."""
    return later.read_due()


@shared_task
def cleanup() -> dict[str, int]:
    """Forget what is kept no longer, for a while at most; what is left waits for the next time."""
    end = time.monotonic() + CLEANUP
    return retention.cleanup(retention.rules(), keep_on=lambda: time.monotonic() < end)
