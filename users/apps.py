"""Connects the receivers."""

from django.apps import AppConfig


class UsersConfig(AppConfig):
    """The app that holds people and their challenges."""

    name = "users"

    def ready(self) -> None:
        """Let what happens to users be noted."""
        from users import changes

        changes.connect()
