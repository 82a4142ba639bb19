"""Batches at Resend, for which one key holds, that are left in doubt and repeated."""

from collections import Counter

from mailer import batches, sender
from mailer.models import Message, ProviderState
from tests.mailer.conftest import enqueue, run

COUNT = 12
# What Resend refuses.
REFUSED = {"subject": "", "text": "t", "html": "h", "from_email": "me@example.org"}


def several(count: int = COUNT, **fields) -> list[Message]:
    return [enqueue(f"user-{number}@example.com", **fields) for number in range(count)]


def states() -> dict[str, int]:
    return dict(Counter(Message.objects.values_list("state", flat=True)))


def requests(simulator) -> list[tuple[int, str]]:
    """Return the requests in their order: how many messages each held, and what was done with them."""
    seen = Counter((row["request"], row["done"]) for row in simulator.requests())
    return [(count, done) for (_, done), count in sorted(seen.items())]


def left_in_doubt(simulator, fault: str, **fields) -> list[Message]:
    """Send a batch that gets no answer, and have the provider behave again."""
    messages = several(**fields)
    simulator.faults(**{fault: 1})
    sender.drain()
    simulator.faults()
    ProviderState.objects.all().delete()
    return messages


def repeat() -> int:
    """Let the time of every batch have come."""
    run("UPDATE mailer_batch SET repeat_at = now()")
    return batches.resolve()


def ids_at(simulator) -> dict[str, str]:
    return {mail["metadata"]["message_id"]: mail["id"] for mail in simulator.accepted()}
