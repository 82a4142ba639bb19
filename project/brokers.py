"""What differs by broker, as data: what Celery is told for the one that `CELERY_BROKER_URL` names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured


@dataclass(frozen=True, slots=True)
class Broker:
    """Kombu's transport options, and the arguments with which a queue is declared. Times are in seconds."""

    options: Mapping[str, Any]
    queue_arguments: Mapping[str, Any] = field(default_factory=dict)


# Without a timeout, a worker waits for ever for a server that went away in silence. It waits for hints no longer than
# a second at a time, so that these bound what ought to be answered at once.
REDIS: Final = Broker(options={"socket_connect_timeout": 5, "socket_timeout": 10, "socket_keepalive": True})

# A quorum queue is replicated and survives its node (https://www.rabbitmq.com/docs/quorum-queues); a confirm comes once
# the hint is in it (https://www.rabbitmq.com/docs/confirms).
RABBITMQ: Final = Broker(options={"confirm_publish": True}, queue_arguments={"x-queue-type": "quorum"})

# A poll waits at Amazon until a hint comes, for ten seconds at most, and the next one follows soon: kombu's own pause
# of a second between two would be added to every first hint.
SQS: Final = Broker(
    options={
        "wait_time_seconds": 10,
        "polling_interval": 0.1,
        "client-config": {"connect_timeout": 5, "read_timeout": 15, "retries": {"total_max_attempts": 2}},
    }
)

BY_SCHEME: Final[Mapping[str, Broker]] = {
    "redis": REDIS,
    "rediss": REDIS,
    "redis+socket": REDIS,
    "sentinel": REDIS,
    "amqp": RABBITMQ,
    "amqps": RABBITMQ,
    "pyamqp": RABBITMQ,
    "sqs": SQS,
}


def of(url: str) -> Broker:
    """Return what is known of the broker at a URL. Raises `ImproperlyConfigured` for one that was never tried."""
    scheme, colon, _ = url.partition("://")
    try:
        return BY_SCHEME[scheme if colon else ""]
    except KeyError:
        raise ImproperlyConfigured(
            f"CELERY_BROKER_URL must begin with one of {', '.join(BY_SCHEME)}, and ://"
        ) from None
