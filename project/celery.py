"""The Celery application: carries hints to the workers, never the truth."""

import os
from typing import Any

from celery import Celery, bootsteps
from celery.signals import setup_logging
from django.conf import settings
from django_structlog.celery.steps import DjangoStructLogInitStep

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

app = Celery("project")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

_worker_steps: set[type[bootsteps.Step]] = app.steps["worker"]
_worker_steps.add(DjangoStructLogInitStep)


@setup_logging.connect
def use_our_logging(**_: Any) -> None:
    """Keep Celery from installing its own handlers: worker and beat log like the web process."""
    from logging.config import dictConfig  # at worker start only

    dictConfig(settings.LOGGING)
