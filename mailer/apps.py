"""Connects the receivers and the checks."""

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import register


class MailerConfig(AppConfig):
    """The app that sends mail and knows what became of it."""

    name = "mailer"

    def ready(self) -> None:
        """Let the receivers hear of users, and the settings be checked; know the backends that they name."""
        from mailer import checks, providers, receivers

        providers.add(settings.MAIL_BACKENDS)
        receivers.connect()
        for check in checks.ALL:
            register(check, checks.TAG)
