"""The wiring: settings, URLs, processes. No app imports it."""

from project.celery import app as celery_app

__all__ = ["celery_app"]
