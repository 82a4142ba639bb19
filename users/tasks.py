"""Thin tasks: any of them may be lost, doubled or late without harm."""

import time
from typing import Final

from celery import shared_task
from django.conf import settings

from users import audit

# Seconds that one cleanup takes at most, below the time after which Celery kills a task.
CLEANUP: Final = 300.0


@shared_task
def cleanup() -> int:
    """Forget audit entries that are kept no longer, for a while at most; return how many."""
    end, count = time.monotonic() + CLEANUP, 0
    for size in audit.forget(settings.AUDIT_DAYS):
        count += size
        if time.monotonic() > end:
            break
    return count
