"""The inbox, to look at."""

from django.contrib import admin

from mailer.admin import Masked, ReadOnly
from users.addresses import mask
from webhooks.models import WebhookReceipt


@admin.register(WebhookReceipt)
class WebhookReceiptAdmin(ReadOnly, Masked, admin.ModelAdmin[WebhookReceipt]):
    """Receipts, newest first. Nobody writes them by hand."""

    list_display = ("id", "provider", "received_at", "state", "events", "new_events", "error")
    list_filter = ("state", "provider")
    search_fields = ("id", "request_id")
    fields = ("provider", "received_at", "request_id", "state", "error", "events", "new_events", "text")
    readonly_fields = ("text",)
    ordering = ("-id",)
    show_full_result_count = False

    @admin.display(description="body")
    def text(self, receipt: WebhookReceipt) -> str:
        """Show the body as text, its addresses masked for those who may not see them."""
        body = bytes(receipt.body).decode("utf-8", "replace")
        return body if receipt.whole else mask(body)  # type: ignore[attr-defined]  # annotated by `Masked`
