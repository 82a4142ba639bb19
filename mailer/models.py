"""The outbox, and what became of what was in it."""

from typing import ClassVar

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Case, F, Func, Q, When
from django.db.models.functions import Now
from django.db.models.lookups import IsNull
from django.utils.translation import gettext_lazy as _
from uuid_utils.compat import uuid7

from mailer import status
from users.addresses import MAX_LENGTH, mask

# Who may see whole addresses, in the admin and over REST; others see `a***@example.org`.
VIEW_RECIPIENT = "mailer.view_recipient"


# Where what waits stands on the line that claims go along (`mailer.turns`).
_PLACE = Case(
    When(
        state__in=["pending", "retry"],
        then=F("priority") * 2**32 + Func("flow", function="hashtext", output_field=models.BigIntegerField()),
    ),
    output_field=models.BigIntegerField(),
)


class Message(models.Model):
    """One mail to send. Written with its cause, moved by `mailer.outbox` alone.

    Its id is also what the provider gets as idempotency key and in the metadata.
    """

    class State(models.TextChoices):
        """Where a message stands on its way out."""

        PENDING = "pending", _("pending")
        LEASED = "leased", _("taken by a worker")
        SENDING = "sending", _("request under way")
        RETRY = "retry", _("waits to be tried again")
        UNKNOWN = "unknown", _("may have been accepted")
        SENT = "sent", _("accepted by the provider")
        DEAD = "dead", _("given up")
        EXPIRED = "expired", _("expired unsent")
        CANCELLED = "cancelled", _("cancelled")
        SUPPRESSED = "suppressed", _("suppressed")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(max_length=64)
    dedupe_key = models.CharField(max_length=200)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="messages")
    correlation_id = models.CharField(max_length=64, blank=True)
    locale = models.CharField(max_length=16, default="en")

    state = models.CharField(max_length=16, choices=State, default=State.PENDING)
    priority = models.PositiveSmallIntegerField(default=20, help_text=_("Lower goes first."))
    flow = models.CharField(max_length=64, blank=True, db_default="", help_text=_("Kinds or tags that take turns."))
    created_at = models.DateTimeField(db_default=Now())
    run_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    token = models.PositiveIntegerField(default=0, help_text=_("Counts the claims; fences late writers."))
    lease_owner = models.CharField(max_length=100, blank=True)
    lease_until = models.DateTimeField(null=True)
    attempts = models.PositiveSmallIntegerField(default=0, help_text=_("Attempts that count against the limit."))
    crashes = models.PositiveSmallIntegerField(default=0, help_text=_("Leases that ran out."))
    first_ambiguous_at = models.DateTimeField(null=True)
    retried_at = models.DateTimeField(null=True, help_text=_("When an operator let it go again."))
    repeats = models.PositiveSmallIntegerField(
        db_default=0, help_text=_("Sent again though it may have been accepted.")
    )
    inquire_at = models.DateTimeField(null=True, help_text=_("When the provider is asked what became of it."))

    provider = models.CharField(max_length=32, blank=True, help_text=_("Pinned while it may have been accepted."))
    context = models.JSONField(default=dict)
    content = models.JSONField(null=True, help_text=_("What it says; rendered at the first intent if not before."))
    secret = models.BooleanField(default=False, help_text=_("The content is erased once the message has ended."))
    error_class = models.CharField(max_length=64, blank=True)

    class Meta:
        verbose_name = _("message")
        verbose_name_plural = _("messages")
        indexes: ClassVar = [
            # By a hash, so that a claim can begin at any flow with the same chance. PostgreSQL's hash indexes stand on
            # the same function, so that it outlives upgrades.
            models.Index(_PLACE, "run_at", "id", condition=Q(IsNull(_PLACE, False)), name="message_by_flow"),
            models.Index(
                fields=["priority", "run_at"], condition=Q(state__in=["pending", "retry"]), name="message_due"
            ),
            models.Index(fields=["inquire_at"], condition=Q(state="unknown"), name="message_doubted"),
            models.Index(fields=["finished_at"], condition=Q(finished_at__isnull=False), name="message_finished"),
            models.Index(
                fields=["finished_at"],
                condition=Q(finished_at__isnull=False) & (Q(content__isnull=False) | ~Q(context={})),
                name="message_with_body",
            ),
            models.Index(
                fields=["state", "id"],
                condition=Q(state__in=["dead", "unknown", "expired", "cancelled", "suppressed"]),
                name="message_stopped",
            ),
            models.Index(fields=["lease_until"], condition=Q(state__in=["leased", "sending"]), name="message_leased"),
            models.Index(
                fields=["expires_at"],
                condition=Q(state__in=["pending", "retry"], expires_at__isnull=False),
                name="message_expiring",
            ),
        ]
        # Not `unique=True`, which also makes an index for LIKE.
        constraints: ClassVar = [models.UniqueConstraint(fields=["dedupe_key"], name="message_once")]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}"


class Attachment(models.Model):
    """That a message needs a file. Written by `mailer.files` alone."""

    # Without a constraint, so that messages can be deleted by statements that know nothing of files.
    message = models.ForeignKey(Message, on_delete=models.CASCADE, db_constraint=False, related_name="attachments")
    digest = models.CharField(max_length=64, db_index=True, help_text=_("SHA-256 of the content, in hex: its name."))
    size = models.PositiveBigIntegerField(help_text=_("In bytes."))

    class Meta:
        verbose_name = _("attachment")
        verbose_name_plural = _("attachments")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["message", "digest"], name="attached_once_to_a_message")
        ]

    def __str__(self) -> str:
        return f"attachment of {self.message_id}"


class Attempt(models.Model):
    """One intent to send one message, committed before the request leaves. Append-only but for its outcome."""

    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="tries", db_index=False)
    token = models.PositiveIntegerField(help_text=_("The message's token at the time: one attempt a claim."))
    provider = models.CharField(max_length=32)
    started_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=16, blank=True, help_text=_("A verdict; empty while under way."))
    http_status = models.PositiveSmallIntegerField(null=True)
    error_class = models.CharField(max_length=64, blank=True)
    disproved_at = models.DateTimeField(null=True, help_text=_("When a search found nothing that it had sent."))
    batch_id = models.UUIDField(null=True, help_text=_("The batch it went in, where one key held for all of that."))

    class Meta:
        verbose_name = _("attempt")
        verbose_name_plural = _("attempts")
        constraints: ClassVar = [models.UniqueConstraint(fields=["message", "token"], name="attempt_once_per_claim")]

    def __str__(self) -> str:
        return f"attempt {self.token} of {self.message_id}"


class Batch(models.Model):
    """A request with several messages under one idempotency key, kept as it was sent: only so can it be repeated.

    It goes once it is known what became of each. Written by `mailer.batches` alone.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False, help_text=_("The idempotency key."))
    provider = models.CharField(max_length=32)
    body = models.TextField()
    message_ids = ArrayField(models.UUIDField(), help_text=_("In the order of the body."))
    started_at = models.DateTimeField(db_default=Now())
    repeats = models.PositiveSmallIntegerField(db_default=0)
    repeat_at = models.DateTimeField(db_index=True, help_text=_("When it is repeated if it has no answer by then."))

    class Meta:
        verbose_name = _("batch")
        verbose_name_plural = _("batches")

    def __str__(self) -> str:
        return f"batch {self.pk}"


class RepeatCount(models.Model):
    """How many times messages of a kind went again at a provider that may have accepted them before.

    It outlives the messages, so that it never falls. Written by `mailer.doubts` alone.
    """

    kind = models.CharField(max_length=64)
    provider = models.CharField(max_length=32)
    count = models.PositiveBigIntegerField()

    class Meta:
        verbose_name = _("count of repeats")
        verbose_name_plural = _("counts of repeats")
        constraints: ClassVar = [models.UniqueConstraint(fields=["kind", "provider"], name="repeats_counted_once")]

    def __str__(self) -> str:
        return f"repeats of {self.kind} through {self.provider}"


class DeliveryStatus(models.Model):
    """One message to one recipient, and the fold of all events about it. Written by `mailer.ledger` alone."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="deliveries")
    # Of the message, repeated so that lists need no join.
    kind = models.CharField(max_length=64)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="deliveries", db_index=False
    )
    recipient = models.CharField(max_length=MAX_LENGTH)
    recipient_canonical = models.CharField(max_length=MAX_LENGTH)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    provider = models.CharField(max_length=32, blank=True)
    # The provider's id, by Anymail's name for it; in the database it must not collide with the foreign key's column.
    esp_message_id = models.CharField(max_length=255, blank=True)

    # The event that decides: its status, rank, time and key.
    status = models.CharField(max_length=16, choices=status.CHOICES)
    status_rank = models.SmallIntegerField()
    status_at = models.DateTimeField()
    status_key = models.CharField(max_length=64)

    sent_at = models.DateTimeField(null=True)
    delivered_at = models.DateTimeField(null=True)
    opened_at = models.DateTimeField(null=True, help_text=_("The first time."))
    clicked_at = models.DateTimeField(null=True, help_text=_("The first time."))
    unsubscribed_at = models.DateTimeField(null=True, help_text=_("The first time."))
    open_count = models.PositiveIntegerField(default=0)
    click_count = models.PositiveIntegerField(default=0)
    # Set in the update by which it is with its provider, emptied in the one that says what became of it; moved by
    # `webhooks.reconcile`.
    inquire_at = models.DateTimeField(null=True, help_text=_("When the provider is asked what became of it."))

    class Meta:
        verbose_name = _("delivery")
        verbose_name_plural = _("deliveries")
        permissions: ClassVar = [("view_recipient", "Can see whole addresses of recipients")]
        indexes: ClassVar = [
            models.Index(fields=["status", "-id"], name="delivery_by_status"),
            models.Index(fields=["kind", "-id"], name="delivery_by_kind"),
            models.Index(fields=["user", "-id"], name="delivery_by_user"),
            models.Index(fields=["provider", "-id"], name="delivery_by_provider"),
            models.Index(fields=["recipient_canonical", "-id"], name="delivery_by_recipient"),
            models.Index(fields=["created_at"], name="delivery_by_time"),
            models.Index(
                fields=["esp_message_id", "provider"],
                condition=~Q(esp_message_id=""),
                name="delivery_by_esp_message_id",
            ),
            models.Index(
                fields=["provider", "inquire_at"],
                condition=Q(inquire_at__isnull=False),
                name="delivery_untold",
            ),
        ]

    def __str__(self) -> str:
        return f"delivery {self.pk}"

    @property
    def masked_recipient(self) -> str:
        """The recipient for those who may not see addresses."""
        return mask(self.recipient)


class DeliveryEvent(models.Model):
    """One fact about one delivery, from us or from the provider. Written by `mailer.ledger` alone."""

    class Source(models.TextChoices):
        """Who said so."""

        SENDER = "sender", _("our sender")
        WEBHOOK = "webhook", _("a webhook")
        POLL = "poll", _("the provider, asked")

    class Effect(models.TextChoices):
        """What the event did to the status when it came."""

        CHANGED = "changed", _("changed the status")
        CONFIRMED = "confirmed", _("said the same, later")
        OUTRANKED = "outranked", _("a greater event stood already")
        NONE = "none", _("says nothing about the status")
        PARKED = "parked", _("its delivery is not known yet")

    delivery = models.ForeignKey(
        DeliveryStatus, null=True, on_delete=models.CASCADE, related_name="events", db_index=False
    )
    event_type = models.CharField(max_length=32)
    status = models.CharField(max_length=16, blank=True, choices=status.CHOICES)
    rank = models.SmallIntegerField()
    occurred_at = models.DateTimeField()
    # When its row was written, after any wait for the delivery's lock.
    recorded_at = models.DateTimeField(db_default=Now())
    source = models.CharField(max_length=16, choices=Source)
    effect = models.CharField(max_length=16, choices=Effect)
    dedupe_key = models.CharField(max_length=64, help_text=_("SHA-256 in hex."))

    provider = models.CharField(max_length=32, blank=True)
    esp_message_id = models.CharField(max_length=255, blank=True)
    esp_event_id = models.CharField(max_length=255, blank=True)
    recipient_canonical = models.CharField(max_length=MAX_LENGTH, blank=True)
    reject_reason = models.CharField(max_length=32, blank=True)
    detail = models.TextField(blank=True, help_text=_("What the receiving server or the provider said."))
    receipt_id = models.UUIDField(null=True, help_text=_("The webhook receipt it came in."))
    category = models.CharField(max_length=16, blank=True, db_default="", help_text=_("Why it did not arrive."))
    smtp_status = models.CharField(max_length=12, blank=True, db_default="", help_text=_("As RFC 3463 has it: 5.1.1."))

    class Meta:
        verbose_name = _("event")
        verbose_name_plural = _("events")
        indexes: ClassVar = [
            models.Index(fields=["delivery", "occurred_at"], name="event_by_delivery"),
            models.Index(fields=["esp_message_id", "provider"], condition=Q(delivery=None), name="event_parked"),
            models.Index(fields=["recorded_at"], condition=Q(delivery=None), name="event_parked_lately"),
            # What providers said, the latest first or the oldest.
            models.Index(
                fields=["provider", "source", "recorded_at"], condition=~Q(source="sender"), name="event_reported"
            ),
        ]
        constraints: ClassVar = [models.UniqueConstraint(fields=["dedupe_key"], name="event_once")]

    def __str__(self) -> str:
        return f"{self.event_type} {self.pk}"

    @property
    def masked_detail(self) -> str:
        """The detail for those who may not see addresses: receiving servers quote them in their refusals."""
        return mask(self.detail)


class Suppression(models.Model):
    """An address we do not mail now, and why. Written by `mailer.suppressions` alone; released, never deleted."""

    class Reason(models.TextChoices):
        """Why."""

        HARD_BOUNCE = "hard_bounce", _("a hard bounce")
        SOFT_BOUNCES = "soft_bounces", _("a run of soft bounces")
        COMPLAINT = "complaint", _("a complaint")
        UNSUBSCRIBE = "unsubscribe", _("unsubscribed")
        MANUAL = "manual", _("by hand")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    address = models.CharField(max_length=MAX_LENGTH, help_text=_("In canonical form."))
    reason = models.CharField(max_length=16, choices=Reason)
    source = models.CharField(max_length=64, help_text=_("Who said so: a provider, or an operator."))
    detail = models.TextField(blank=True)
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField(null=True)
    released_at = models.DateTimeField(null=True)
    released_by = models.CharField(max_length=64, blank=True)

    class Meta:
        verbose_name = _("suppression")
        verbose_name_plural = _("suppressions")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["address", "reason"], condition=Q(released_at=None), name="suppressed_once_for_a_reason"
            ),
        ]

    def __str__(self) -> str:
        return f"suppression {self.pk}"

    @property
    def masked_address(self) -> str:
        """The address for those who may not see addresses."""
        return mask(self.address)


class ProviderState(models.Model):
    """What the fleet knows of a provider: its tokens, and whether it is left alone. Written by `mailer.routing`."""

    class Reason(models.TextChoices):
        """Why a provider is left alone."""

        THROTTLED = "throttled", _("it asked us to wait")
        FAILING = "failing", _("its requests fail")
        REFUSED = "refused", _("it does not know us")
        PROBING = "probing", _("its next request tells whether it works again")

    name = models.CharField(max_length=32, primary_key=True)
    tokens = models.FloatField(null=True, help_text=_("Messages that may go now; empty where there is no limit."))
    refilled_at = models.DateTimeField(db_default=Now())
    failures = models.PositiveIntegerField(default=0, help_text=_("In a row."))
    blocked_until = models.DateTimeField(null=True)
    reason = models.CharField(max_length=16, blank=True, choices=Reason)

    class Meta:
        verbose_name = _("state of a provider")
        verbose_name_plural = _("states of providers")

    def __str__(self) -> str:
        return self.name
