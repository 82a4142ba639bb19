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
    """A worker's consumer without Celery's delayed delivery.

    That would declare 28 quorum queues on every RabbitMQ, for tasks with an ETA, and works with topic exchanges only
    (https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/rabbitmq.html). Here `run_at` is a column.
    """

    class Blueprint(consumer.Consumer.Blueprint):  # type: ignore[misc,valid-type]  # typed as a variable
        """The steps by which a consumer starts."""

        default_steps = [step for step in consumer.Consumer.Blueprint.default_steps if "DelayedDelivery" not in step]


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
