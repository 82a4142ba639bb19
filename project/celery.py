"""The Celery application: carries hints to the workers, never the truth."""

import os
from typing import Any

from celery import Celery, bootsteps
from celery.signals import beat_init, setup_logging, worker_init
from celery.worker import consumer
from django.conf import settings
from django_structlog.celery.steps import DjangoStructLogInitStep
from kombu.transport import TRANSPORT_ALIASES

from project.starting import check_settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

app = Celery("project")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

TRANSPORT_ALIASES["sqs"] = "project.sqs:Transport"

_worker_steps: set[type[bootsteps.Step]] = app.steps["worker"]
_worker_steps.add(DjangoStructLogInitStep)


class Consumer(consumer.Consumer):
    """A worker's consumer that outlives its broker, without Celery's delayed delivery.

    That would declare 28 quorum queues on every RabbitMQ, for tasks with an ETA, and works with topic exchanges only
    (https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/rabbitmq.html). Here `run_at` is a column.
    """

    class Blueprint(consumer.Consumer.Blueprint):  # type: ignore[misc,valid-type]  # typed as a variable
        """The steps by which a consumer starts."""

        default_steps = [step for step in consumer.Consumer.Blueprint.default_steps if "DelayedDelivery" not in step]

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Let go of a lost connection, without putting back over it what is not acknowledged yet.

        Celery closes it twice. The second time kombu's Redis channel asks the transport it has lost for a connection to
        put a task back by, and that error ends the worker. The broker gives such a task to another worker by itself.
        """
        for channel in getattr(self.connection and self.connection.transport, "channels", ()):
            channel.do_restore = False
        super().on_connection_error_after_connected(exc)


@setup_logging.connect
def use_our_logging(**_: Any) -> None:
    """Keep Celery from installing its own handlers: worker and beat log like the web process."""
    from logging.config import dictConfig  # at worker start only

    dictConfig(settings.LOGGING)


@worker_init.connect
@beat_init.connect
def check(**_: Any) -> None:
    """End a worker, and beat, by our checks. Celery runs them, too, and does not look at what they find."""
    check_settings()
