"""Registers the app, and what the sweep does for it."""

from django.apps import AppConfig


class WebhooksConfig(AppConfig):
    """The app that hears what providers report."""

    name = "webhooks"

    def ready(self) -> None:
        """Have the sweep try receipts again, ask providers what no webhook told, and forget what is kept no longer."""
        from mailer.sweeping import CHORES  # models can be imported from here on

        CHORES["receipts"] = "webhooks.later.read_due"
        CHORES["inquiries"] = "webhooks.reconcile.reconcile"
        CHORES["forgotten"] = "webhooks.retention.tidy"
