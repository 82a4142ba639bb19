"""Registers the app."""

from django.apps import AppConfig


class ApiConfig(AppConfig):
    """The app that answers over REST."""

    name = "api"
