"""The inbox."""

from typing import ClassVar

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _
from uuid_utils.compat import uuid7


class WebhookReceipt(models.Model):
    """One webhook request as it came in, kept so that it can be looked at and replayed."""

    class State(models.TextChoices):
        """Where a receipt stands."""

        PROCESSED = "processed", _("processed")
        POISON = "poison", _("could not be read")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    provider = models.CharField(max_length=32)
    received_at = models.DateTimeField(db_default=Now())
    request_id = models.CharField(max_length=64, blank=True)
    headers = models.JSONField(default=dict, help_text=_("Those that the events are read from; never credentials."))
    body = models.BinaryField()
    state = models.CharField(max_length=16, choices=State)
    events = models.PositiveIntegerField(default=0, help_text=_("How many it reported."))
    unreadable = models.PositiveIntegerField(db_default=0, help_text=_("How many of its events could not be read."))
    new_events = models.PositiveIntegerField(default=0, help_text=_("How many of them were news."))
    error = models.CharField(max_length=200, blank=True)

    class Meta:
        verbose_name = _("webhook receipt")
        verbose_name_plural = _("webhook receipts")
        indexes: ClassVar = [
            models.Index(fields=["state", "-id"], name="receipt_by_state"),
            models.Index(fields=["received_at"], name="receipt_by_time"),
        ]

    def __str__(self) -> str:
        return f"receipt {self.pk}"
