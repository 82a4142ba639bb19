"""Kombu's transport for Amazon SQS, with a worker that goes on polling when a poll fails."""

from typing import Any, Final

import structlog
from kombu.transport import SQS
from vine import promise

log = structlog.get_logger(__name__)

# Seconds from a poll that failed to the next.
PAUSE: Final = 1.0


class Channel(SQS.Channel):
    """A channel on which a poll that failed is not the last one of its queue.

    In kombu 5.7 it is: a lost connection and an answer of 5xx come as an empty list where an object is expected, any
    other bad answer as an exception. Both end in a timer of the event loop, which logs them, and nothing polls again;
    or outside of one, which ends the worker.
    """

    hub: Any  # this and the methods below are unknown to the types
    _schedule_queue: Any

    def _get_from_sqs(
        self, queue_name: str, queue_url: str, connection: Any, count: int = 1, callback: Any = None
    ) -> Any:
        def failed(error: Exception) -> None:
            log.warning("poll_failed", error_class=type(error).__name__)
            for queue in self._active_queues:
                if self.canonical_queue_name(queue) == queue_name:
                    self.hub.call_later(PAUSE, self._schedule_queue, queue)

        going_on = promise(callback, on_error=failed)
        return super()._get_from_sqs(queue_name, queue_url, connection, count, going_on)  # type: ignore[misc]  # unknown


class Transport(SQS.Transport):
    """The transport with that channel."""

    Channel = Channel
