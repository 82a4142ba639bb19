"""Registers the app."""

from django.apps import AppConfig


class UsersConfig(AppConfig):
    """The app that holds people and their challenges."""

    name = "users"
