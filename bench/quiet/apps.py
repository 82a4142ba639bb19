from django.apps import AppConfig
from django.contrib.auth import get_user_model
from django.db.models.signals import post_save


class QuietConfig(AppConfig):
    """Disconnects what enqueues a mail for a new user: with it go the challenge, the message and its delivery."""

    name = "bench.quiet"

    def ready(self) -> None:
        if not post_save.disconnect(sender=get_user_model(), dispatch_uid="mailer.on_user_saved"):
            raise RuntimeError("mail is enqueued by another receiver now: there is nothing to compare")
