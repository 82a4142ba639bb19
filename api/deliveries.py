"""What became of each mail: for its owner, and for operators."""

from typing import Any, ClassVar

import django_filters
from django.db.models import Prefetch, Q, QuerySet
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_view
from rest_framework import exceptions, generics, serializers
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request

from api.doors import Holds, PrivateView
from api.filters import StrictFilterSet, TimeFilter, one_of, text_filter
from api.schema import TOKEN, problems
from mailer import status
from mailer.kinds import KINDS
from mailer.models import VIEW_RECIPIENT, Attempt, DeliveryEvent, DeliveryStatus
from mailer.providers import PROVIDERS
from users.addresses import loosely_canonical


def _sees_recipients(request: Request) -> bool:
    return bool(request.user.has_perm(VIEW_RECIPIENT))


class EventSerializer(serializers.ModelSerializer[DeliveryEvent]):
    """One fact about a delivery, as its owner may see it."""

    class Meta:
        model = DeliveryEvent
        fields: ClassVar = ["event_type", "status", "effect", "occurred_at", "recorded_at", "source"]


class OperatorsEventSerializer(EventSerializer):
    """One fact about a delivery, whole. Addresses in `detail` are masked like the recipient."""

    detail = serializers.SerializerMethodField(help_text="What the receiving server or the provider said.")

    class Meta(EventSerializer.Meta):
        fields: ClassVar = [
            *EventSerializer.Meta.fields,
            *("provider", "esp_message_id", "esp_event_id", "reject_reason", "detail", "receipt_id"),
        ]

    def get_detail(self, event: DeliveryEvent) -> str:
        """Show the text, its addresses masked for those who may not see them."""
        return event.detail if _sees_recipients(self.context["request"]) else event.masked_detail


class AttemptSerializer(serializers.ModelSerializer[Attempt]):
    """One attempt to send the message."""

    class Meta:
        model = Attempt
        fields: ClassVar = ["provider", "started_at", "finished_at", "outcome", "http_status", "error_class"]


class OwnDeliverySerializer(serializers.ModelSerializer[DeliveryStatus]):
    """What became of one of one's own mails."""

    class Meta:
        model = DeliveryStatus
        fields: ClassVar = [
            *("id", "kind", "recipient", "status", "status_at", "created_at", "updated_at", "sent_at", "delivered_at"),
        ]


class OwnDeliveryDetailSerializer(OwnDeliverySerializer):
    """The same, with what happened, oldest first."""

    events = EventSerializer(many=True)

    class Meta(OwnDeliverySerializer.Meta):
        fields: ClassVar = [*OwnDeliverySerializer.Meta.fields, "events"]


class DeliverySerializer(OwnDeliverySerializer):
    """What became of one mail. The recipient is masked for those who lack `mailer.view_recipient`."""

    recipient = serializers.SerializerMethodField()

    class Meta(OwnDeliverySerializer.Meta):
        fields: ClassVar = [
            *OwnDeliverySerializer.Meta.fields,
            *("message_id", "provider", "esp_message_id", "opened_at", "open_count", "clicked_at", "click_count"),
        ]

    def get_recipient(self, delivery: DeliveryStatus) -> str:
        """Show the address, or its first letter and domain."""
        return delivery.recipient if _sees_recipients(self.context["request"]) else delivery.masked_recipient


class DeliveryDetailSerializer(DeliverySerializer):
    """The same, with what happened, oldest first, and what was tried."""

    correlation_id = serializers.CharField(source="message.correlation_id")
    events = OperatorsEventSerializer(many=True)
    attempts = AttemptSerializer(source="message.tries", many=True)

    class Meta(DeliverySerializer.Meta):
        fields: ClassVar = [*DeliverySerializer.Meta.fields, "correlation_id", "events", "attempts"]


def _status_filter() -> Any:
    return django_filters.MultipleChoiceFilter(
        choices=status.CHOICES,
        distinct=False,  # no join doubles a row, and to find that out costs a sort
        help_text="Repeat it for several.",
        error_messages={"invalid_choice": "There is no such status."},
    )


class DeliveryFilter(StrictFilterSet):
    """The operators' filters; all of them exact, so that an index serves each."""

    status = _status_filter()
    recipient = text_filter("by_recipient", "The whole address, in any spelling. Needs `mailer.view_recipient`.")
    kind = one_of(KINDS, "There is no such kind.")
    provider = one_of(PROVIDERS, "There is no such provider.")
    created_after = TimeFilter(field_name="created_at", lookup_expr="gte")
    created_before = TimeFilter(field_name="created_at", lookup_expr="lt")
    q = text_filter("search", "The id of a delivery or of a message, the provider's message id, or a whole address.")

    class Meta:
        model = DeliveryStatus
        fields: ClassVar[list[str]] = []

    def by_recipient(self, rows: QuerySet[DeliveryStatus], _: str, value: str) -> QuerySet[DeliveryStatus]:
        """Match the address; who may not see addresses may not try them either."""
        if not _sees_recipients(self.request):
            raise exceptions.PermissionDenied
        return rows.filter(recipient_canonical=loosely_canonical(value))

    def search(self, rows: QuerySet[DeliveryStatus], name: str, value: str) -> QuerySet[DeliveryStatus]:
        """Match whatever the text can be."""
        if "@" in value:
            return self.by_recipient(rows, name, value)
        try:
            identifier = serializers.UUIDField().to_internal_value(value)
        except exceptions.ValidationError:
            return rows.filter(esp_message_id=value)
        return rows.filter(Q(pk=identifier) | Q(message_id=identifier) | Q(esp_message_id=value))


class OwnFilter(StrictFilterSet):
    """The owner's filters."""

    status = _status_filter()
    kind = one_of(KINDS, "There is no such kind.")

    class Meta:
        model = DeliveryStatus
        fields: ClassVar[list[str]] = []


class MaySeeDeliveries(Holds):
    permission = "mailer.view_deliverystatus"


EVENTS = Prefetch("events", DeliveryEvent.objects.order_by("occurred_at", "id"))
TRIES = Prefetch("message__tries", Attempt.objects.order_by("token"))

_OWN = {
    "id": "0190a6c4-7b3e-7c1a-9d3b-0f1e2d3c4b5a",
    "kind": "verification",
    "recipient": "ada@example.com",
    "status": "delivered",
    "status_at": "2026-11-21T08:00:02Z",
    "created_at": "2026-11-21T08:00:00Z",
    "updated_at": "2026-11-21T08:00:02Z",
    "sent_at": "2026-11-21T08:00:01Z",
    "delivered_at": "2026-11-21T08:00:02Z",
}
_EVENT = {
    "event_type": "delivered",
    "status": "delivered",
    "effect": "changed",
    "occurred_at": "2026-11-21T08:00:02Z",
    "recorded_at": "2026-11-21T08:00:02Z",
    "source": "webhook",
}
_FULL = {
    **_OWN,
    "message_id": "0190a6c4-7b3d-7c1a-9d3b-0f1e2d3c4b59",
    "provider": "postmark",
    "esp_message_id": "b7bc2f4a-e38e-4336-af7d-e6c392c2f817",
    "opened_at": None,
    "open_count": 0,
    "clicked_at": None,
    "click_count": 0,
}
_DETAIL = {
    **_FULL,
    "correlation_id": "0b8e62c6-8f0f-4f0e-9d4e-1f6a2c3d4e5f",
    "events": [
        {
            **_EVENT,
            "provider": "postmark",
            "esp_message_id": "b7bc2f4a-e38e-4336-af7d-e6c392c2f817",
            "esp_event_id": "",
            "reject_reason": "",
            "detail": "smtp;250 2.0.0 OK",
            "receipt_id": "0190a6c4-7b4e-7c1a-9d3b-0f1e2d3c4b5b",
        }
    ],
    "attempts": [
        {
            "provider": "postmark",
            "started_at": "2026-11-21T08:00:00Z",
            "finished_at": "2026-11-21T08:00:01Z",
            "outcome": "accepted",
            "http_status": 200,
            "error_class": "",
        }
    ],
}


_STATUS = ("status", "invalid_choice", "There is no such status.")


def _shown(value: Any) -> list[OpenApiExample]:
    return [OpenApiExample("delivery", value, response_only=True, status_codes=["200"])]


def _own(request: Request) -> QuerySet[DeliveryStatus]:
    return DeliveryStatus.objects.filter(user=request.user.pk)


@extend_schema_view(
    get=extend_schema(
        operation_id="list_own_deliveries",
        summary="List one's own deliveries",
        tags=["deliveries"],
        responses={200: OwnDeliverySerializer(many=True), **problems("invalid", *TOKEN, error=_STATUS)},
        examples=_shown(_OWN),
    )
)
class OwnDeliveryList(PrivateView, generics.ListAPIView[DeliveryStatus]):
    """One's own deliveries, newest first."""

    serializer_class = OwnDeliverySerializer
    filterset_class = OwnFilter

    def get_queryset(self) -> QuerySet[DeliveryStatus]:
        """Return the caller's own."""
        return _own(self.request)


@extend_schema_view(
    get=extend_schema(
        operation_id="own_delivery",
        summary="Look at one of one's own deliveries",
        tags=["deliveries"],
        responses={200: OwnDeliveryDetailSerializer, **problems(*TOKEN, "not_found")},
        examples=_shown({**_OWN, "events": [_EVENT]}),
    )
)
class OwnDeliveryDetail(PrivateView, generics.RetrieveAPIView[DeliveryStatus]):
    """One of one's own deliveries, with its events."""

    serializer_class = OwnDeliveryDetailSerializer

    def get_queryset(self) -> QuerySet[DeliveryStatus]:
        """Return the caller's own, with their events."""
        return _own(self.request).prefetch_related(EVENTS)


@extend_schema_view(
    get=extend_schema(
        operation_id="list_deliveries",
        summary="List all deliveries",
        tags=["deliveries"],
        responses={
            200: DeliverySerializer(many=True),
            **problems("invalid", *TOKEN, "permission_denied", error=_STATUS),
        },
        examples=_shown(_FULL),
    )
)
class DeliveryList(PrivateView, generics.ListAPIView[DeliveryStatus]):
    """All deliveries, newest first. Whole addresses are for those who also hold `mailer.view_recipient`."""

    permission_classes = (IsAuthenticated, MaySeeDeliveries)
    queryset = DeliveryStatus.objects.all()
    serializer_class = DeliverySerializer
    filterset_class = DeliveryFilter


@extend_schema_view(
    get=extend_schema(
        operation_id="delivery",
        summary="Look at a delivery",
        tags=["deliveries"],
        responses={200: DeliveryDetailSerializer, **problems(*TOKEN, "permission_denied", "not_found")},
        examples=_shown(_DETAIL),
    )
)
class DeliveryDetail(PrivateView, generics.RetrieveAPIView[DeliveryStatus]):
    """One delivery, with its events and the attempts to send it."""

    permission_classes = (IsAuthenticated, MaySeeDeliveries)
    queryset = DeliveryStatus.objects.select_related("message").prefetch_related(EVENTS, TRIES)
    serializer_class = DeliveryDetailSerializer
