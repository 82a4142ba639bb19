"""What became of a registration and its mail, for who registered and cannot log in yet."""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework import exceptions, serializers
from rest_framework.request import Request
from rest_framework.response import Response

from api import throttles
from api.doors import PublicView
from api.proofs import HasStatusToken, StatusTokenAuthentication
from api.schema import TOKEN, problems
from mailer.receivers import delivery_of
from mailer.status import Status
from users import registration
from users.registration import Verification

# What a stranger may know of a delivery: nobody has to know more to wait for a mail.
COARSE: Final[Mapping[str, str]] = {
    Status.SCHEDULED: "queued",
    Status.QUEUED: "queued",
    Status.UNKNOWN: "queued",
    Status.SENT: "sent",
    Status.DEFERRED: "delayed",
    Status.SOFT_BOUNCED: "delayed",
    Status.DELIVERED: "delivered",
    Status.COMPLAINED: "delivered",
    Status.BOUNCED: "bounced",
    Status.REJECTED: "bounced",
    Status.SUPPRESSED: "bounced",
    Status.FAILED: "failed",
    Status.EXPIRED: "failed",
    Status.CANCELLED: "failed",
}


class RegistrationDeliverySerializer(serializers.Serializer[Any]):
    """Where the newest mail is, in few words."""

    status = serializers.ChoiceField(sorted({*COARSE.values()}))
    updated_at = serializers.DateTimeField()


class RegistrationStatusSerializer(serializers.Serializer[Any]):
    """Where a registration stands."""

    verification = serializers.ChoiceField([each.value for each in Verification])
    delivery = RegistrationDeliverySerializer()
    correct_address = serializers.BooleanField(
        help_text="The mail cannot arrive. Ask for the right address, and register that."
    )


_STATUS = {
    "verification": "pending",
    "delivery": {"status": "delivered", "updated_at": "2026-11-21T08:00:02Z"},
    "correct_address": False,
}
_BOUNCED = {
    "verification": "pending",
    "delivery": {"status": "bounced", "updated_at": "2026-11-21T08:00:02Z"},
    "correct_address": True,
}


class RegistrationView(PublicView):
    """A registration, for who made it."""

    throttle_classes = (throttles.AskingStatus,)
    authentication_classes = (StatusTokenAuthentication,)
    permission_classes = (HasStatusToken,)

    @extend_schema(
        operation_id="registration",
        summary="Watch a registration",
        tags=["accounts"],
        responses={200: RegistrationStatusSerializer, **problems(*TOKEN, "not_found")},
        examples=[
            OpenApiExample("delivered", _STATUS, response_only=True, status_codes=["200"]),
            OpenApiExample("bounced", _BOUNCED, response_only=True, status_codes=["200"]),
        ],
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """Tell whether the address is verified, and where the newest mail is.

        It looks the same for an address that was taken: what is told is the course of the mail to its owner. After
        `bounced`, `correct_address` is true: register the right address; nothing has to be taken back.
        """
        del request
        found = registration.read(pk)
        if found is None:
            raise exceptions.NotFound("There is no such thing.")
        delivery = delivery_of(found.newest)
        status = COARSE[delivery.status] if delivery else "queued"
        answer = {
            "verification": found.verification.value,
            "delivery": {"status": status, "updated_at": delivery.updated_at if delivery else found.newest.created_at},
            "correct_address": status == "bounced" and found.verification is not Verification.VERIFIED,
        }
        return Response(RegistrationStatusSerializer(answer).data)
