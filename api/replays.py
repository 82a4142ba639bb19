"""Having many receipts read again, some at a time."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Any, ClassVar, Final
from uuid import UUID

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework import generics, serializers
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from api.doors import PrivateView
from api.fields import IdField, NameField, NumberField, TextField
from api.receipts import ChangeSerializer, MayReplayReceipts, ReplaySerializer
from api.schema import BODY, TOKEN, problems
from webhooks import replaying
from webhooks.models import WebhookReceipt
from webhooks.providers import WEBHOOKS
from webhooks.replaying import Round, Selection

# Receipts that one request replays at most, and unless it says otherwise.
MOST: Final = 1000
LIMIT: Final = 100
# Receipts among which one request looks for those of a provider or a state.
AMONG: Final = 10_000
# By what receipts are named, where not by their ids.
NARROWING: Final = ("provider", "state", "received_after", "received_before")


@dataclass(frozen=True, slots=True)
class Place:
    """Where to go on: after a receipt, up to the last one there was when the first request came."""

    after: UUID
    last: UUID

    def __str__(self) -> str:
        return urlsafe_b64encode(self.after.bytes + self.last.bytes).decode().rstrip("=")

    @classmethod
    def of(cls, text: str) -> "Place":
        """Read what was given out. Raises `ValueError`."""
        octets = urlsafe_b64decode(text + "==")
        return cls(UUID(bytes=octets[:16]), UUID(bytes=octets[16:]))


class SelectionSerializer(ReplaySerializer):
    """Which receipts to replay: those with these ids, or all that the other fields name together."""

    composed: ClassVar = {"oneOf": [{"required": ["ids"]}, {"anyOf": [{"required": [name]} for name in NARROWING]}]}

    ids = serializers.ListField(child=IdField(), min_length=1, max_length=LIMIT, required=False, allow_empty=False)
    provider = NameField(sorted(WEBHOOKS), "There is no such provider.", required=False)
    state = NameField(WebhookReceipt.State.choices, "There is no such state.", required=False)
    received_after = serializers.DateTimeField(required=False, help_text="Those that came then or later.")
    received_before = serializers.DateTimeField(required=False, help_text="Those that came before.")
    limit = NumberField(
        min_value=1,
        max_value=MOST,
        default=LIMIT,
        help_text="How many to replay at most; what takes long ends earlier.",
    )
    cursor = TextField(
        required=False, max_length=64, help_text="To go on, `next` of the answer before, with the same other fields."
    )

    def validate_cursor(self, value: str) -> Place:
        """Read a cursor. Raises `ValidationError` for one that we did not make."""
        try:
            return Place.of(value)
        except ValueError:
            raise serializers.ValidationError("This is no cursor of ours.") from None

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Have receipts named in one of the two ways."""
        if ("ids" in attrs) == any(name in attrs for name in NARROWING):
            raise serializers.ValidationError({"ids": [f"Name receipts by ids, or by {', '.join(NARROWING)}."]})
        return attrs


class FailureSerializer(serializers.Serializer[Any]):
    """A receipt that cannot be read or recorded. It is as it was."""

    receipt_id = serializers.UUIDField()
    error = serializers.CharField(help_text="An error's name.")


class ReplayedAllSerializer(serializers.Serializer[Any]):
    """What came of a replay of some receipts."""

    receipts = serializers.IntegerField(help_text="How many were read again by this request.")
    new_events = serializers.IntegerField(help_text="How many events were not known before.")
    parked = serializers.IntegerField(help_text="How many of these are of deliveries that we do not know.")
    differing = serializers.IntegerField(help_text="Events that are known, read otherwise now, and stay as they are.")
    changes = ChangeSerializer(many=True)
    failures = FailureSerializer(many=True)
    next = serializers.CharField(
        allow_null=True, help_text="The `cursor` to go on with, also where `receipts` is 0; null where that was all."
    )


_ASKED = {"state": "poison", "received_after": "2026-11-01T00:00:00Z", "dry_run": True}
_REPLAYED = {
    "receipts": 100,
    "new_events": 98,
    "parked": 3,
    "differing": 0,
    "changes": [
        {
            "delivery_id": "0190a6c4-7b3e-7c1a-9d3b-0f1e2d3c4b5a",
            "old_status": "sent",
            "new_status": "delivered",
        }
    ],
    "failures": [{"receipt_id": "0190a6c4-7b4e-7c1a-9d3b-0f1e2d3c4b5b", "error": "KeyError"}],
    "next": "AZCmxHtOfBqdOw8eLTxLWwGQpsR7TnwanTsPHi08S1s",
}


class ReplayView(PrivateView, generics.GenericAPIView[WebhookReceipt]):
    """Have receipts read again."""

    permission_classes = (IsAuthenticated, MayReplayReceipts)
    queryset = WebhookReceipt.objects.only("pk")
    serializer_class = SelectionSerializer

    @extend_schema(
        operation_id="replay_webhook_receipts",
        summary="Read many receipts again",
        tags=["webhooks"],
        request=SelectionSerializer,
        responses={
            200: ReplayedAllSerializer,
            **problems(*BODY, *TOKEN, "permission_denied", error=("#/ids", "empty", "This list may not be empty.")),
        },
        examples=[
            OpenApiExample("dry run", _ASKED, request_only=True),
            OpenApiExample("replayed", _REPLAYED, response_only=True, status_codes=["200"]),
        ],
    )
    def post(self, request: Request) -> Response:
        """Read receipts again in the order in which they came, and record what is new: some with each request.

        What is known already changes nothing, and nothing is taken back, so any part may be repeated. Ids of no receipt
        count for nothing. A dry run says which statuses would change, and changes none; it looks at some hundred
        receipts at a time as if they were the only ones.
        """
        asked = self.get_serializer(data=request.data)
        asked.is_valid(raise_exception=True)
        done, place = _replay(_selection(asked.validated_data), asked.validated_data)
        answer = {
            "receipts": done.receipts,
            "new_events": done.new_events,
            "parked": done.parked,
            "differing": done.differing,
            "changes": done.changes,
            "failures": [{"receipt_id": identifier, "error": error} for identifier, error in done.failures.items()],
            "next": place and str(place),
        }
        return Response(ReplayedAllSerializer(answer).data)


def _selection(asked: dict[str, Any]) -> Selection:
    place: Place | None = asked.get("cursor")
    return Selection(
        ids=asked.get("ids"),
        providers=[asked["provider"]] if "provider" in asked else (),
        states=[asked["state"]] if "state" in asked else (),
        since=asked.get("received_after"),
        until=asked.get("received_before"),
        **({"after": place.after, "last": place.last} if place else {}),
    )


def _replay(selection: Selection, asked: dict[str, Any]) -> tuple[Round, Place | None]:
    """Replay as many as one request may; return what came of it, and where to go on."""
    part, has_more = (selection, False) if selection.ids is not None else selection.begin(AMONG)
    total, was_all = replaying.replay_in_time(part, dry_run=asked["dry_run"], most=asked["limit"])
    if not was_all:
        return total, Place(total.last, selection.last)
    return total, Place(part.last, selection.last) if has_more else None
