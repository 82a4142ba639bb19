"""What providers have posted, for operators: to look at, and to have it read again."""

from typing import Any, ClassVar

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_view
from rest_framework import generics, serializers
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from api.doors import Holds, PrivateView
from api.fields import FlagField
from api.filters import StrictFilterSet, TimeFilter, one_of
from api.schema import BODY, TOKEN, problems
from mailer.models import VIEW_RECIPIENT
from mailer.status import CHOICES
from webhooks import replaying
from webhooks.models import WebhookReceipt
from webhooks.providers import WEBHOOKS


class ReceiptSerializer(serializers.ModelSerializer[WebhookReceipt]):
    """One webhook request as it came in, and what came of it."""

    class Meta:
        model = WebhookReceipt
        fields: ClassVar = [
            *("id", "provider", "received_at", "request_id", "state", "error"),
            *("events", "unreadable", "new_events", "attempts", "run_at"),
        ]


class ReceiptDetailSerializer(ReceiptSerializer):
    """The same, with what was posted. Addresses are masked for those who lack `mailer.view_recipient`."""

    headers = serializers.DictField(
        child=serializers.CharField(), help_text="Those that the events are read from; never credentials."
    )
    body = serializers.SerializerMethodField(help_text="As text; a byte that is none is shown as U+FFFD.")

    class Meta(ReceiptSerializer.Meta):
        fields: ClassVar = [*ReceiptSerializer.Meta.fields, "headers", "body"]

    def get_body(self, receipt: WebhookReceipt) -> str:
        """Show the body, its addresses masked for those who may not see them."""
        return receipt.text(whole=self.context["request"].user.has_perm(VIEW_RECIPIENT))


class ReplaySerializer(serializers.Serializer[Any]):
    """How to replay."""

    dry_run = FlagField(default=False, help_text="Say what would change, and change nothing.")


class ChangeSerializer(serializers.Serializer[Any]):
    """A status that the replay has changed, or would change."""

    delivery_id = serializers.UUIDField()
    old_status = serializers.ChoiceField(CHOICES)
    new_status = serializers.ChoiceField(CHOICES)


class ReplayedSerializer(serializers.Serializer[Any]):
    """What came of a replay."""

    new_events = serializers.IntegerField(help_text="How many events were not known before.")
    parked = serializers.IntegerField(help_text="How many of these are of mails that we do not know.")
    differing = serializers.IntegerField(help_text="Events that are known, read otherwise now, and stay as they are.")
    error = serializers.CharField(
        help_text="Why it could not be read or recorded, an error's name; empty where it could. It is then as it was."
    )
    changes = ChangeSerializer(many=True)


class ReceiptFilter(StrictFilterSet):
    """The filters; all of them exact."""

    provider = one_of(WEBHOOKS, "There is no such provider.")
    state = one_of(WebhookReceipt.State.values, "There is no such state.")
    received_after = TimeFilter(field_name="received_at", lookup_expr="gte")
    received_before = TimeFilter(field_name="received_at", lookup_expr="lt")

    class Meta:
        model = WebhookReceipt
        fields: ClassVar[list[str]] = []


class MaySeeReceipts(Holds):
    permission = "webhooks.view_webhookreceipt"


class MayReplayReceipts(Holds):
    permission = "webhooks.change_webhookreceipt"


_RECEIPT = {
    "id": "0190a6c4-7b4e-7c1a-9d3b-0f1e2d3c4b5b",
    "provider": "postmark",
    "received_at": "2026-11-21T08:00:02Z",
    "request_id": "0b8e62c6-8f0f-4f0e-9d4e-1f6a2c3d4e5f",
    "state": "processed",
    "error": "",
    "events": 1,
    "unreadable": 0,
    "new_events": 1,
    "attempts": 0,
    "run_at": None,
}
_REPLAYED = {
    "new_events": 1,
    "parked": 0,
    "differing": 0,
    "error": "",
    "changes": [
        {
            "delivery_id": "0190a6c4-7b3e-7c1a-9d3b-0f1e2d3c4b5a",
            "old_status": "sent",
            "new_status": "delivered",
        }
    ],
}


def _shown(value: Any) -> list[OpenApiExample]:
    return [OpenApiExample("receipt", value, response_only=True, status_codes=["200"])]


@extend_schema_view(
    get=extend_schema(
        operation_id="list_webhook_receipts",
        summary="List what providers have posted",
        tags=["webhooks"],
        responses={
            200: ReceiptSerializer(many=True),
            **problems(
                "invalid", *TOKEN, "permission_denied", error=("state", "invalid_choice", "There is no such state.")
            ),
        },
        examples=_shown(_RECEIPT),
    )
)
class ReceiptList(PrivateView, generics.ListAPIView[WebhookReceipt]):
    """All receipts, newest first, without what was posted."""

    permission_classes = (IsAuthenticated, MaySeeReceipts)
    # A body may have 10 MB.
    queryset: QuerySet[WebhookReceipt] = WebhookReceipt.objects.defer("body", "headers")
    serializer_class = ReceiptSerializer
    filterset_class = ReceiptFilter


@extend_schema_view(
    get=extend_schema(
        operation_id="webhook_receipt",
        summary="Look at what a provider has posted",
        tags=["webhooks"],
        responses={200: ReceiptDetailSerializer, **problems(*TOKEN, "permission_denied", "not_found")},
        examples=_shown(
            {**_RECEIPT, "headers": {}, "body": '{"RecordType": "Delivery", "Recipient": "a***@b.example"}'}
        ),
    )
)
class ReceiptDetail(PrivateView, generics.RetrieveAPIView[WebhookReceipt]):
    """One receipt, with what was posted, its addresses masked for those who lack `mailer.view_recipient`."""

    permission_classes = (IsAuthenticated, MaySeeReceipts)
    queryset = WebhookReceipt.objects.all()
    serializer_class = ReceiptDetailSerializer


class ReceiptReplay(PrivateView, generics.GenericAPIView[WebhookReceipt]):
    """Have a receipt read again."""

    permission_classes = (IsAuthenticated, MayReplayReceipts)
    queryset = WebhookReceipt.objects.only("pk")
    serializer_class = ReplaySerializer

    @extend_schema(
        operation_id="replay_webhook_receipt",
        summary="Read a receipt again",
        tags=["webhooks"],
        request=ReplaySerializer,
        responses={
            200: ReplayedSerializer,
            **problems(
                *BODY,
                *TOKEN,
                "permission_denied",
                "not_found",
                error=("#/dry_run", "invalid", "Must be a valid boolean."),
            ),
        },
        examples=[
            OpenApiExample("dry run", {"dry_run": True}, request_only=True),
            OpenApiExample("replayed", _REPLAYED, response_only=True, status_codes=["200"]),
        ],
    )
    def post(self, request: Request, pk: str) -> Response:
        """Read a receipt again, as this release reads it, and record what is new.

        What is known already changes nothing, and nothing is taken back.
        """
        del pk
        receipt = self.get_object()
        asked = self.get_serializer(data=request.data)
        asked.is_valid(raise_exception=True)
        selection = replaying.Selection(ids=[receipt.pk])
        # No round at all where it has just been deleted.
        done = next(replaying.replay(selection, dry_run=asked.validated_data["dry_run"]), replaying.Round())
        answer = {
            "new_events": done.new_events,
            "parked": done.parked,
            "differing": done.differing,
            "error": done.failures.get(receipt.pk, ""),
            "changes": done.changes,
        }
        return Response(ReplayedSerializer(answer).data)
