"""The outbox and the deliveries, to look at."""

from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.options import BaseModelAdmin
from django.db import models
from django.http import HttpRequest

from mailer.models import VIEW_RECIPIENT, Attempt, DeliveryEvent, DeliveryStatus, Message


class ReadOnly:
    """Nobody writes these tables by hand: they are written with their cause, or folded from facts."""

    def has_add_permission(self, *_: Any) -> bool:
        """Refuse."""
        return False

    def has_change_permission(self, *_: Any) -> bool:
        """Refuse."""
        return False

    def has_delete_permission(self, *_: Any) -> bool:
        """Refuse."""
        return False


class Masked(BaseModelAdmin[Any]):
    """Shows whole addresses to those only who may see them (`mailer.view_recipient`)."""

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        """Remember who looks."""
        rows = super().get_queryset(request)
        sees: models.QuerySet[Any] = rows.annotate(whole=models.Value(request.user.has_perm(VIEW_RECIPIENT)))
        return sees

    @admin.display(description="recipient")
    def shown_recipient(self, delivery: Any) -> str:
        """Show the address, or what those may see who may not see it."""
        return str(delivery.recipient if delivery.whole else delivery.masked_recipient)

    @admin.display(description="detail")
    def shown_detail(self, event: Any) -> str:
        """Show what was said, its addresses masked for the same people."""
        return str(event.detail if event.whole else event.masked_detail)


class AttemptInline(ReadOnly, admin.TabularInline[Attempt, Message]):
    """The attempts of a message."""

    model = Attempt
    fields = ("token", "provider", "started_at", "finished_at", "outcome", "http_status", "error_class")
    extra = 0


class DeliveryInline(ReadOnly, Masked, admin.TabularInline[DeliveryStatus, Message]):
    """The deliveries of a message."""

    model = DeliveryStatus
    fields = ("shown_recipient", "status", "status_at", "provider", "esp_message_id")
    readonly_fields = ("shown_recipient",)
    show_change_link = True
    extra = 0


class EventInline(ReadOnly, Masked, admin.TabularInline[DeliveryEvent, DeliveryStatus]):
    """The events of a delivery."""

    model = DeliveryEvent
    fields = ("occurred_at", "event_type", "status", "effect", "source", "reject_reason", "shown_detail")
    readonly_fields = ("shown_detail",)
    ordering = ("occurred_at", "id")
    extra = 0


@admin.register(Message)
class MessageAdmin(ReadOnly, admin.ModelAdmin[Message]):
    """Messages, newest first. What they say is left out: it may hold a secret."""

    list_display = ("id", "kind", "state", "provider", "attempts", "created_at", "run_at", "error_class")
    list_filter = ("state", "kind", "provider")
    search_fields = ("id", "correlation_id", "dedupe_key")
    exclude = ("content", "context")
    ordering = ("-id",)
    show_full_result_count = False
    inlines: ClassVar = [DeliveryInline, AttemptInline]


@admin.register(DeliveryStatus)
class DeliveryStatusAdmin(ReadOnly, Masked, admin.ModelAdmin[DeliveryStatus]):
    """Deliveries, newest first, each with its events."""

    list_display = ("id", "kind", "shown_recipient", "status", "status_at", "provider", "created_at")
    list_filter = ("status", "kind", "provider")
    search_fields = ("id", "esp_message_id")
    exclude = ("recipient", "recipient_canonical", "status_key", "status_rank")
    readonly_fields = ("shown_recipient",)
    ordering = ("-id",)
    show_full_result_count = False
    inlines: ClassVar = [EventInline]

    def get_search_fields(self, request: HttpRequest) -> tuple[str, ...]:
        """Search addresses, too, for those who may see them: others could find out an address by trying."""
        more = ["recipient_canonical"] if request.user.has_perm(VIEW_RECIPIENT) else []
        return (*self.search_fields, *more)
