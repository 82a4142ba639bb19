"""Registers the app."""

from django.apps import AppConfig


class WebhooksConfig(AppConfig):
    """The app that hears what providers report."""

    name = "webhooks"
