"""One table, and the receiver that keeps its statuses."""

from typing import Any

from anymail.signals import AnymailTrackingEvent
from django.db import models


class Mail(models.Model):
    message_id = models.CharField(max_length=255, unique=True)
    recipient = models.EmailField()
    status = models.CharField(max_length=16, default="sent")
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return f"mail {self.pk}"


def on_tracking(sender: Any, event: AnymailTrackingEvent, esp_name: str, **_: Any) -> None:
    """Write down what became of a mail."""
    del sender, esp_name
    mail = Mail.objects.get(message_id=event.message_id)
    mail.status = event.event_type
    mail.save()
