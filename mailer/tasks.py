"""Thin tasks: any of them may be lost, doubled or late without harm."""

import time
from typing import Any, Final

from celery import shared_task
from celery.signals import worker_ready

from mailer import doorbell, doubts, outbox, retention, routing, sender, sweeping

# Seconds that one task sends for, so that a worker that is told to stop soon does.
SHIFT: Final = 10.0
# Seconds that one cleanup takes at most, below the time after which Celery kills a task.
CLEANUP: Final = 300.0


@shared_task(name=doorbell.DELIVER)
def deliver() -> int:
    """Send what is due, for a while, and ring again if there is more; return how many messages were taken."""
    taken = sender.drain(shift=SHIFT)
    _ring_if_due()
    return taken


@shared_task(base=doorbell.Hint)
def sweep() -> dict[str, int]:
    """Find what was left behind, look into doubts, and ring if something is due."""
    moved = sweeping.sweep()
    doubts.resolve()
    _ring_if_due()
    return moved


def _ring_if_due() -> None:
    if outbox.oldest_due() is not None and routing.is_open():
        doorbell.ring()


@shared_task
def cleanup() -> dict[str, int]:
    """Forget what is kept no longer, for a while at most; what is left waits for the next time."""
    end = time.monotonic() + CLEANUP
    return retention.cleanup(retention.rules(), keep_on=lambda: time.monotonic() < end)


@worker_ready.connect
def sweep_at_start(**_: Any) -> None:
    """Look for what was left while no worker ran."""
    sweep.delay()
