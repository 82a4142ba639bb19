"""Thin tasks: any of them may be lost, doubled or late without harm."""

from typing import Any

from celery import shared_task
from celery.signals import worker_ready

from mailer import doorbell, outbox, sender


@shared_task(name=doorbell.DELIVER)
def deliver() -> int:
    """Send all that is due; return how many messages were taken."""
    return sender.drain()


@shared_task
def sweep() -> dict[str, int]:
    """Find what was left behind, and send what is due."""
    moved = outbox.sweep()
    if outbox.oldest_due() is not None:
        sender.drain()
    return moved


@worker_ready.connect
def sweep_at_start(**_: Any) -> None:
    """Look for what was left while no worker ran."""
    sweep.delay()
