"""The inbox."""

from typing import ClassVar, Final

from django.contrib.postgres.functions import TransactionNow
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _
from uuid_utils.compat import uuid7

from mailer.models import DeliveryEvent
from mailer.parked import KEPT
from users.addresses import mask

# States of a receipt whose time will come.
DUE: Final = ("waiting", "retry")


class WebhookReceipt(models.Model):
    """One webhook request as it came in, kept so that it can be looked at and replayed."""

    class State(models.TextChoices):
        """Where a receipt stands."""

        WAITING = "waiting", _("waits to be read")
        PROCESSED = "processed", _("processed")
        RETRY = "retry", _("waits to be tried again")
        POISON = "poison", _("could not be read")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    provider = models.CharField(max_length=32)
    # When its transaction began: before anything in it was recorded.
    received_at = models.DateTimeField(db_default=TransactionNow())
    request_id = models.CharField(max_length=64, blank=True)
    headers = models.JSONField(default=dict, help_text=_("Those that the events are read from; never credentials."))
    body = models.BinaryField()
    state = models.CharField(max_length=16, choices=State)
    events = models.PositiveIntegerField(default=0, help_text=_("How many it reported."))
    unreadable = models.PositiveIntegerField(db_default=0, help_text=_("How many of its events could not be read."))
    new_events = models.PositiveIntegerField(default=0, help_text=_("How many of them were news."))
    error = models.CharField(max_length=200, blank=True)
    attempts = models.PositiveSmallIntegerField(db_default=0, help_text=_("How often it was tried later."))
    run_at = models.DateTimeField(null=True, help_text=_("When it is read, or tried again."))

    class Meta:
        verbose_name = _("webhook receipt")
        verbose_name_plural = _("webhook receipts")
        indexes: ClassVar = [
            models.Index(fields=["state", "-id"], name="receipt_by_state"),
            models.Index(fields=["received_at"], name="receipt_by_time"),
            models.Index(fields=["run_at"], condition=Q(state__in=DUE), name="receipt_waiting"),
        ]

    def __str__(self) -> str:
        return f"receipt {self.pk}"

    def text(self, *, whole: bool) -> str:
        """Return the body as text, its addresses masked for those who may not see them whole."""
        body = bytes(self.body).decode("utf-8", "replace")
        return body if whole else mask(body)


class Nonce(models.Model):
    """A request that its provider named without signing its body, and the body it came with first."""

    key = models.CharField(max_length=64, primary_key=True, help_text=_("SHA-256, in hex, of provider and name."))
    digest = models.CharField(max_length=64, help_text=_("SHA-256 of the body, in hex."))
    received_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name = _("nonce")
        verbose_name_plural = _("nonces")
        indexes: ClassVar = [models.Index(fields=["received_at"], name="nonce_by_time")]

    def __str__(self) -> str:
        return f"nonce {self.key}"


class RefusalCount(models.Model):
    """How many requests that claimed to be a provider's were refused, and why. Written by `webhooks.refusals` alone.

    A row for each reason there is, whoever sends whatever: it never falls, and the table does not grow.
    """

    provider = models.CharField(max_length=32)
    reason = models.CharField(max_length=100)
    code = models.PositiveSmallIntegerField(help_text=_("The status that it was answered with."))
    count = models.PositiveBigIntegerField()
    last_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name = _("count of refusals")
        verbose_name_plural = _("counts of refusals")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["provider", "reason"], name="refusals_counted_once"),
        ]

    def __str__(self) -> str:
        return f"refusals by {self.provider}"


class Inquiry(models.Model):
    """What all processes know of asking a provider what became of mails. Written by `webhooks.reconcile` alone."""

    name = models.CharField(max_length=32, primary_key=True)
    tokens = models.FloatField(default=0, help_text=_("Requests that may go now."))
    refilled_at = models.DateTimeField(db_default=Now())
    silent_until = models.DateTimeField(null=True, help_text=_("Until when it is not asked."))
    asked = models.PositiveBigIntegerField(default=0, help_text=_("Mails it was asked about."))
    told = models.PositiveBigIntegerField(default=0, help_text=_("Events it told that no webhook had."))
    failed = models.PositiveBigIntegerField(default=0, help_text=_("Mails that it did not answer about."))
    error = models.CharField(max_length=64, blank=True, help_text=_("What went wrong last."))

    class Meta:
        verbose_name = _("inquiry")
        verbose_name_plural = _("inquiries")

    def __str__(self) -> str:
        return f"inquiry at {self.name}"


class DeadLetters(models.Manager["DeadLetter"]):
    """Events whose delivery nobody knew for so long that the sweep seeks it no more."""

    def get_queryset(self) -> "models.QuerySet[DeadLetter]":
        """Leave out what is parked still."""
        parked = super().get_queryset().filter(delivery=None)
        return parked.filter(recorded_at__lte=Now() - KEPT)


class DeadLetter(DeliveryEvent):
    """An event about a mail that was not ours, or of which we know nothing any more."""

    objects: ClassVar[DeadLetters] = DeadLetters()

    class Meta:
        proxy = True
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")
