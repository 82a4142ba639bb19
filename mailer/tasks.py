"""Thin tasks: any of them may be lost, doubled or late without harm."""

import time
from typing import Any, Final

from celery import shared_task
from celery.signals import worker_ready

from mailer import doorbell, outbox, sender

# Seconds that one task sends for, so that a worker that is told to stop soon does.
SHIFT: Final = 10.0


@shared_task(name=doorbell.DELIVER)
def deliver() -> int:
    """Send what is due, for a while, and ring again if there is more; return how many messages were taken."""
    end = time.monotonic() + SHIFT
    taken = sender.drain(keep_on=lambda: time.monotonic() < end)
    if outbox.oldest_due() is not None:
        doorbell.ring()
    return taken


@shared_task(base=doorbell.Hint)
def sweep() -> dict[str, int]:
    """Find what was left behind, and ring if something is due."""
    moved = outbox.sweep()
    if outbox.oldest_due() is not None:
        doorbell.ring()
    return moved


@worker_ready.connect
def sweep_at_start(**_: Any) -> None:
    """Look for what was left while no worker ran."""
    sweep.delay()
