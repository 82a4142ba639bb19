"""The inbox, to look at."""

from django.contrib import admin

from mailer.admin import Masked, ReadOnly
from users.addresses import mask
from webhooks.models import DeadLetter, WebhookReceipt


@admin.register(WebhookReceipt)
class WebhookReceiptAdmin(ReadOnly, Masked, admin.ModelAdmin[WebhookReceipt]):
    """Receipts, newest first. Nobody writes them by hand."""

    list_display = ("id", "provider", "received_at", "state", "events", "unreadable", "new_events", "error")
    list_filter = ("state", "provider")
    search_fields = ("id", "request_id")
    fields = (
        *("provider", "received_at", "request_id", "state", "error", "attempts", "run_at"),
        *("events", "unreadable", "new_events", "text"),
    )
    readonly_fields = ("text",)
    ordering = ("-id",)
    show_full_result_count = False

    @admin.display(description="body")
    def text(self, receipt: WebhookReceipt) -> str:
        """Show the body as text, its addresses masked for those who may not see them."""
        body = bytes(receipt.body).decode("utf-8", "replace")
        return body if receipt.whole else mask(body)  # type: ignore[attr-defined]  # annotated by `Masked`


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnly, Masked, admin.ModelAdmin[DeadLetter]):
    """Events that no delivery claimed, newest first."""

    list_display = ("id", "provider", "recorded_at", "event_type", "esp_message_id")
    list_filter = ("provider", "event_type")
    search_fields = ("esp_message_id", "receipt_id")
    fields = (
        *("provider", "recorded_at", "occurred_at", "event_type", "status", "esp_message_id", "esp_event_id"),
        *("shown_address", "category", "smtp_status", "reject_reason", "shown_detail", "receipt_id"),
    )
    readonly_fields = ("shown_address", "shown_detail")
    ordering = ("-id",)
    show_full_result_count = False

    @admin.display(description="recipient")
    def shown_address(self, event: DeadLetter) -> str:
        """Show the address, or what those may see who may not see it."""
        address = event.recipient_canonical
        return address if event.whole else mask(address)  # type: ignore[attr-defined]  # annotated by `Masked`
