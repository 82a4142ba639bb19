"""Connects the receivers."""

from django.apps import AppConfig


class MailerConfig(AppConfig):
    """The app that sends mail and knows what became of it."""

    name = "mailer"

    def ready(self) -> None:
        """Let the receivers hear of users."""
        from mailer import receivers

        receivers.connect()
