"""What happened to accounts, for operators."""

from typing import ClassVar

import django_filters
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_field, extend_schema_view
from rest_framework import generics, serializers
from rest_framework.permissions import IsAuthenticated

from api.doors import Holds, PrivateView
from api.filters import StrictFilterSet, TimeFilter, one_of
from api.schema import TOKEN, problems
from users.models import AuditEntry


class AuditEntrySerializer(serializers.ModelSerializer[AuditEntry]):
    """Something that happened to an account."""

    class Meta:
        model = AuditEntry
        fields: ClassVar = ["id", "at", "action", "user_id", "actor_id", "ip", "user_agent"]


class AuditFilter(StrictFilterSet):
    """The filters; all of them exact."""

    action = one_of(AuditEntry.Action.values, "There is no such action.")
    user_id = extend_schema_field({"type": "integer", "format": "int64", "minimum": 1})(
        django_filters.NumberFilter(min_value=1, max_value=2**63 - 1, decimal_places=0)
    )
    after = TimeFilter(field_name="at", lookup_expr="gte")
    before = TimeFilter(field_name="at", lookup_expr="lt")

    class Meta:
        model = AuditEntry
        fields: ClassVar[list[str]] = []


class MaySeeAudit(Holds):
    permission = "users.view_auditentry"


_ENTRY = {
    "id": "0190a6c4-7b4e-7c1a-9d3b-0f1e2d3c4b5b",
    "at": "2026-11-21T08:00:02Z",
    "action": "verified",
    "user_id": 42,
    "actor_id": None,
    "ip": "192.0.2.7",
    "user_agent": "Mozilla/5.0",
}


@extend_schema_view(
    get=extend_schema(
        operation_id="list_audit",
        summary="List what happened to accounts",
        tags=["audit"],
        responses={
            200: AuditEntrySerializer(many=True),
            **problems(
                "invalid", *TOKEN, "permission_denied", error=("action", "invalid_choice", "There is no such action.")
            ),
        },
        examples=[OpenApiExample("entry", _ENTRY, response_only=True, status_codes=["200"])],
    )
)
class AuditList(PrivateView, generics.ListAPIView[AuditEntry]):
    """What happened to accounts, newest first: who did it, when and from where."""

    permission_classes = (IsAuthenticated, MaySeeAudit)
    queryset = AuditEntry.objects.all()
    serializer_class = AuditEntrySerializer
    filterset_class = AuditFilter
