"""What others may react to, and how they are told: whatever they do, it harms nobody else."""

import traceback
from typing import Any, Final

import structlog
from asgiref.sync import async_to_sync
from django.dispatch import Signal

log = structlog.get_logger(__name__)

# A delivery's status is another one than before, whoever said so: sent once the change is committed, with `delivery`
# (as it is by then), `old_status` and `new_status`; the sender is `DeliveryStatus`. A receiver runs in the process that
# learned of the change, between other work: it should enqueue what takes time. One that raises is logged, and harms
# nothing. A process that dies right after the commit sends nothing: what must not be missed is in the table of events.
delivery_changed: Final = Signal()


def tell(signal: Signal, sender: type, **what: Any) -> None:
    """Call each receiver of a signal; one that raises is logged by its name, without what it says: that may quote.

    Not by `Signal.send_robust`: where a receiver without a name raises (an object, a partial), Django 5.2 fails to log
    it, and calls none of those after it.
    """
    receivers, asynchronous = signal._live_receivers(sender)  # noqa: SLF001  # nothing public tells who listens
    for receiver in [*receivers, *map(async_to_sync, asynchronous)]:
        try:
            receiver(signal=signal, sender=sender, **what)
        except Exception as error:  # noqa: BLE001  # it is not ours
            [*_, last] = traceback.extract_tb(error.__traceback__)
            log.error(  # noqa: TRY400  # the text may quote an address
                "receiver_failed",
                receiver=getattr(receiver, "__qualname__", type(receiver).__qualname__),
                error_class=type(error).__name__,
                place=f"{last.filename}:{last.lineno}",
            )
