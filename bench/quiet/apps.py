from django.apps import AppConfig
from django.contrib.auth import get_user_model
from django.db.models.signals import post_save


class QuietConfig(AppConfig):
    """Puts a receiver in the place of the one that enqueues the mail to a new user."""

    name = "bench.quiet"

    def ready(self) -> None:
        from bench.quiet.receivers import on_user_saved

        if not post_save.disconnect(sender=get_user_model(), dispatch_uid="mailer.on_user_saved"):
            raise RuntimeError("mail is enqueued by another receiver now: there is nothing to compare")
        post_save.connect(on_user_saved, sender=get_user_model(), dispatch_uid="bench.quiet")
