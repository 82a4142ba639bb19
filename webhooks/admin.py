"""The inbox, to look at."""

from typing import Final

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from mailer.admin import Masked, ReadOnly
from users.addresses import mask
from webhooks import replaying
from webhooks.models import DeadLetter, Inquiry, WebhookReceipt

# Receipts that are replayed while somebody waits for the page: those of one page of the list.
MOST: Final = 100


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
    actions = ("replay",)

    def has_replay_permission(self, request: HttpRequest) -> bool:
        """Ask for `webhooks.change_webhookreceipt`, as the API does."""
        return request.user.has_perm("webhooks.change_webhookreceipt")

    @admin.action(description="Replay the selected receipts", permissions=["replay"])
    def replay(self, request: HttpRequest, receipts: QuerySet[WebhookReceipt]) -> None:
        """Have them read again, and say what came of it."""
        ids = list(receipts.order_by("pk").values_list("pk", flat=True)[: MOST + 1])
        if not ids:
            self.message_user(request, "These receipts are kept no longer.", messages.ERROR)
            return
        if len(ids) > MOST:
            text = f"More than {MOST} receipts: manage.py replay_webhooks replays any number."
            self.message_user(request, text, messages.ERROR)
            return
        done, was_all = replaying.replay_in_time(replaying.Selection(ids=ids))
        news = f"{done.new_events} new events, {len(done.changes)} statuses changed"
        self.message_user(request, f"{done.receipts} of {len(ids)} receipts replayed: {news}.")
        for identifier, error in done.failures.items():
            self.message_user(request, f"Receipt {identifier}: {error}", messages.ERROR)
        if not was_all and (left := ids[ids.index(done.last) + 1 :]):
            text = f"{len(left)} were left, since this took long; the first of them is {left[0]}."
            self.message_user(request, text, messages.WARNING)

    @admin.display(description="body")
    def text(self, receipt: WebhookReceipt) -> str:
        """Show the body as text, its addresses masked for those who may not see them."""
        return receipt.text(whole=receipt.whole)  # type: ignore[attr-defined]  # annotated by `Masked`


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


@admin.register(Inquiry)
class InquiryAdmin(ReadOnly, admin.ModelAdmin[Inquiry]):
    """What asking each provider came to."""

    list_display = ("name", "asked", "told", "failed", "error", "silent_until")
    ordering = ("name",)
