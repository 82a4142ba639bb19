"""No sequential scan, for claims and lists, over 100,000 messages with their deliveries and events.

What is explained is what the code runs: each statement is caught on its way to the database.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import Permission
from django.db import connection, transaction
from django.db.models import TextField
from django.db.models.functions import Cast, Now
from django.utils import timezone
from rest_framework.test import APIClient

from mailer import doubts, ledger, letters, outbox, parked, sweeping
from mailer.models import Attempt, DeliveryEvent, DeliveryStatus, Message
from tests.mailer.conftest import fact
from users.models import User
from webhooks import reconcile
from webhooks.models import Inquiry

ROWS = 100_000
PAGE = 25
TABLES = {model._meta.db_table for model in (Message, Attempt, DeliveryStatus, DeliveryEvent)}

# One in a thousand messages is due, one in a thousand leased; all others are long sent, ten of them by Postmark. Every
# user has 20.
FILL = [
    f"""INSERT INTO users_user (id, password, is_superuser, email, email_canonical, locale, is_active, is_staff)
    SELECT 1000000 + n, '', false, 'user-' || n || '@example.com', 'user-' || n || '@example.com', 'en', true, false
    FROM generate_series(1, {ROWS // 20}) n""",
    f"""INSERT INTO mailer_message (id, kind, dedupe_key, user_id, correlation_id, locale, state, priority, created_at,
        run_at, expires_at, token, lease_owner, lease_until, attempts, crashes, provider, context, secret, error_class)
    SELECT lpad(to_hex(n), 32, '0')::uuid, (ARRAY['verification', 'welcome'])[1 + n % 2], 'explain:' || n,
           1000001 + n % {ROWS // 20}, md5(n::text), 'en',
           CASE WHEN n % 1000 < 1 THEN 'pending' WHEN n % 1000 < 2 THEN 'sending' ELSE 'sent' END, 20 * (n % 2), at, at,
           CASE WHEN n % 3000 = 0 THEN at + interval '1 hour' END, 1, '', CASE WHEN n % 1000 = 1 THEN at END, 0, 0,
           CASE WHEN n % 10000 = 5 THEN 'postmark' ELSE 'resend' END, '{{}}', false, ''
    FROM generate_series(1, {ROWS}) n, LATERAL (SELECT now() - (({ROWS} + 100 - n) || ' minutes')::interval AS at) t""",
    """INSERT INTO mailer_attempt (message_id, token, provider, started_at, finished_at, outcome, error_class)
    SELECT m.id, m.token, m.provider, m.run_at, CASE m.state WHEN 'sent' THEN m.run_at END,
           CASE m.state WHEN 'sent' THEN 'accepted' ELSE '' END, ''
    FROM mailer_message m WHERE m.state <> 'pending'""",
    """INSERT INTO mailer_deliverystatus (id, message_id, kind, user_id, recipient, recipient_canonical, created_at,
        updated_at, provider, esp_message_id, status, status_rank, status_at, status_key, open_count, click_count)
    SELECT m.id, m.id, m.kind, m.user_id, u.email, u.email_canonical, m.created_at, m.created_at,
           CASE m.state WHEN 'sent' THEN m.provider ELSE '' END, CASE m.state WHEN 'sent' THEN m.id::text ELSE '' END,
           CASE WHEN m.state = 'sent' THEN
                CASE WHEN m.id::text LIKE '%%777' THEN 'complained' WHEN m.id::text LIKE '%%33' THEN 'bounced'
                ELSE 'delivered' END ELSE 'queued' END,
           40, m.created_at, md5(m.id::text), 0, 0
    FROM mailer_message m JOIN users_user u ON u.id = m.user_id""",
    """INSERT INTO mailer_deliveryevent (delivery_id, event_type, status, rank, occurred_at, source, effect, dedupe_key,
        provider, esp_message_id, esp_event_id, recipient_canonical, reject_reason, detail)
    SELECT d.id, 'queued', 'queued', 10, d.created_at, 'sender', 'changed', md5(d.id::text), '', '', '', '', '', ''
    FROM mailer_deliverystatus d""",
    """INSERT INTO mailer_deliveryevent (delivery_id, event_type, status, rank, occurred_at, source, effect, dedupe_key,
        provider, esp_message_id, esp_event_id, recipient_canonical, reject_reason, detail)
    SELECT NULL, 'delivered', 'delivered', 40, now(), 'webhook', 'parked', 'parked' || n, 'postmark', 'nobody-' || n,
           '', '', '', '' FROM generate_series(1, 200) n""",
]


@pytest.fixture(scope="module")
def filled(django_db_setup, django_db_blocker) -> Iterator[None]:
    """Fill the tables, in a transaction that is rolled back after this module."""
    with django_db_blocker.unblock(), transaction.atomic():
        with connection.cursor() as cursor:
            for statement in FILL:
                cursor.execute(statement.replace("%%", "%"))
            # First, so that no plan for an empty table, which this connection may have kept, checks 100,000 references.
            cursor.execute(f"ANALYZE users_user, {', '.join(sorted(TABLES))}")
            # Once, here: what is left to check is checked again at the end of every test.
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute("SET CONSTRAINTS ALL DEFERRED")
        yield
        transaction.set_rollback(True)


@pytest.fixture
def rolled_back(filled, db) -> None:
    """Undo what one test changed, but not what was filled in."""


Plan = dict[str, Any]


@contextmanager
def explained() -> Iterator[list[tuple[str, Plan]]]:
    """Explain every statement of a block, before it runs."""
    plans: list[tuple[str, Plan]] = []

    def explain(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:  # noqa: FBT001  # Django's own
        if sql.lstrip().split(None, 1)[0] in {"SELECT", "WITH", "UPDATE", "INSERT", "DELETE"}:
            with context["connection"].connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", params)
                plans.append((sql, cursor.fetchone()[0][0]["Plan"]))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(explain):
        yield plans


def nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def check(plans: list[tuple[str, Plan]], *tables: type) -> None:
    """Fail where a plan scans one of the big tables, or where none of them touches those that are meant."""
    touched = set()
    for sql, plan in plans:
        for node in nodes(plan):
            touched |= {node.get("Relation Name")}
            scans = node["Node Type"] == "Seq Scan" and node["Relation Name"] in TABLES
            assert not scans, f"{sql}\n{json.dumps(plan, indent=1)}"
    assert touched >= {table._meta.db_table for table in tables}


@pytest.fixture
def operator(rolled_back) -> APIClient:
    user = User.objects.create_user("operator@example.com")
    user.user_permissions.set(
        Permission.objects.filter(codename__in=["view_deliverystatus", "view_recipient"]),
    )
    client = APIClient()
    client.force_authenticate(user)
    return client


@pytest.fixture
def some(rolled_back) -> DeliveryStatus:
    return DeliveryStatus.objects.filter(status="delivered").order_by("id")[ROWS // 2]


# --- The outbox -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 8, 100])
def test_claim(rolled_back, limit):
    with explained() as plans:
        assert len(outbox.claim("worker", limit)) == min(limit, 67)

    check(plans, Message, DeliveryStatus)


def test_intend_and_settle(rolled_back):
    claims = outbox.claim("worker", 8)
    for claim in claims:
        claim.message.provider, claim.message.content = "resend", {}

    with explained() as plans:
        outbox.intend(claims)
        outbox.settle(
            [
                outbox.Outcome(
                    claim.message.pk,
                    claim.message.token,
                    "sent",
                    facts=(
                        ledger.own_fact(
                            *("sent", claim.recipients[0].delivery_id, 1),
                            provider="resend",
                            esp_message_id=f"re-{claim.message.pk}",
                        ),
                    ),
                )
                for claim in claims
            ]
        )

    check(plans, Message, DeliveryStatus, DeliveryEvent)


def test_confirm(some):
    with explained() as plans:
        doubts.confirm("resend", [some.message_id])

    check(plans, Message)


@pytest.mark.parametrize("kind", ["verification", "welcome"])
def test_resolve(rolled_back, kind):
    ids = Message.objects.filter(state="sent", provider="resend", kind=kind).values("id")[:30]
    Message.objects.filter(id__in=ids).update(state="unknown", inquire_at=Now() - timedelta(hours=1))

    with explained() as plans:
        assert [doubts.resolve() for _ in range(3)] == [20, 10, 0]

    check(plans, Message, Attempt, DeliveryStatus, DeliveryEvent)


def test_reconcile(rolled_back):
    ids = DeliveryStatus.objects.filter(provider="resend").values("id")[:1000]
    DeliveryStatus.objects.filter(id__in=ids).update(
        status="sent", sent_at=Now() - timedelta(hours=2), inquire_at=Now() - timedelta(hours=1)
    )

    letters.backend_at.cache_clear()  # another test's provider may be there still
    with explained() as plans:
        reconcile.reconcile()  # nobody is there to answer

    assert Inquiry.objects.get().error == "ClientConnectorError"
    check(plans, DeliveryStatus)
    indexes = {node.get("Index Name") for _, plan in plans for node in nodes(plan)}
    assert "delivery_untold" in indexes


def test_claim_of_what_was_tried_before(rolled_back):
    Message.objects.filter(state="sending").update(state="retry")

    with explained() as plans:
        assert any(claim.age > 0 for claim in outbox.claim("worker", 100))

    check(plans, Message, Attempt, DeliveryStatus)


def test_sweep_finds_lapsed_and_expired_and_parked(rolled_back):
    with explained() as plans:
        moved = sweeping.sweep()

    # Of those under way, all but the last were tried longer ago than their provider keeps the key.
    assert moved == {"unknown": 99, "retry": 1, "expired": 33}
    check(plans, Message, Attempt, DeliveryStatus, DeliveryEvent)


def test_sweep_with_nothing_to_do(rolled_back):
    sweeping.sweep()

    with explained() as plans:
        assert sweeping.sweep() == {}

    check(plans, Message, DeliveryEvent)


def test_claim_among_many_flows(rolled_back):
    Message.objects.filter(state="sent", id__lte=UUID(int=20_000)).update(
        state="pending", flow=Cast("id", TextField()), expires_at=None
    )

    with explained() as plans:
        assert len(outbox.claim("worker", 100)) == 100

    check(plans, Message, DeliveryStatus)


def test_oldest_due(rolled_back):
    with explained() as plans:
        assert outbox.oldest_due() is not None

    check(plans, Message)


# --- The ledger -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("named", ["by delivery", "by message", "by provider", "by nobody"])
def test_record(some, named, count):
    rows = DeliveryStatus.objects.filter(status="delivered")[:count]
    names = {
        "by delivery": lambda row: {"delivery_id": row.pk},
        "by message": lambda row: {
            "provider": row.provider,
            "message_id": row.message_id,
            "recipient_canonical": row.recipient_canonical,
        },
        "by provider": lambda row: {"provider": row.provider, "esp_message_id": row.esp_message_id},
        "by nobody": lambda row: {"provider": "postmark", "esp_message_id": f"nobody's {row.pk}"},
    }
    facts = [fact("opened", **names[named](row)) for row in rows]

    with explained() as plans:
        recorded = ledger.record(facts)

    assert len(recorded) == count
    assert {each.effect == "parked" for each in recorded} == {named == "by nobody"}
    check(plans, DeliveryStatus, DeliveryEvent)


def test_match_parked(some):
    ledger.record([fact("sent", delivery_id=queued().pk, provider="postmark", esp_message_id="nobody-7")])

    with explained() as plans:
        assert len(parked.match()) == 1

    check(plans, DeliveryStatus, DeliveryEvent)


def test_match_parked_of(some):
    ledger.record([fact("sent", delivery_id=queued().pk, provider="postmark", esp_message_id="nobody-7")])

    with explained() as plans:
        assert len(ledger.match_parked_of([("postmark", "nobody-7")])) == 1

    check(plans, DeliveryStatus, DeliveryEvent)


def queued() -> DeliveryStatus:
    return DeliveryStatus.objects.filter(status="queued")[0]


# --- The lists ------------------------------------------------------------------------------------------

YESTERDAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, PAGE),
        ({"status": ["delivered"]}, PAGE),
        ({"status": ["complained"]}, 24),
        ({"status": ["deferred"]}, 0),
        ({"status": ["bounced", "complained"]}, PAGE),
        ({"kind": "welcome"}, PAGE),
        ({"kind": "account_exists"}, 0),
        ({"recipient": "User-7@example.com"}, 20),
        ({"recipient": "nobody@example.com"}, 0),
        ({"provider": "resend"}, PAGE),
        ({"provider": "postmark"}, 10),
        ({"kind": "welcome", "status": ["complained"]}, 24),
        ({"q": "user-7@example.com"}, 20),
        ({"q": "00000000-0000-0000-0000-00000000abcd"}, 1),
        ({"q": "not-an-id-of-anything"}, 0),
    ],
    ids=str,
)
def test_operators_list(operator, query, found):
    with explained() as plans:
        results = operator.get("/api/v1/deliveries", query).json()["results"]

    assert len(results) == found
    check(plans, DeliveryStatus)


@pytest.mark.parametrize(
    ("after", "before"),
    [(YESTERDAY, None), (None, 68 * YESTERDAY), (30 * YESTERDAY, 29 * YESTERDAY)],
)
def test_operators_list_by_time(operator, after, before):
    now = timezone.now()
    query = {"created_after": after, "created_before": before}

    with explained() as plans:
        answer = operator.get(
            "/api/v1/deliveries", {name: (now - ago).isoformat() for name, ago in query.items() if ago}
        )

    assert len(answer.json()["results"]) == PAGE
    check(plans, DeliveryStatus)


def test_operators_next_page(operator):
    following = operator.get("/api/v1/deliveries").json()["next"]

    with explained() as plans:
        assert len(operator.get(following).json()["results"]) == PAGE

    check(plans, DeliveryStatus)


def test_operators_detail_with_its_events(operator, some):
    with explained() as plans:
        detail = operator.get(f"/api/v1/deliveries/{some.pk}").json()

    assert UUID(detail["id"]) == some.pk
    assert len(detail["events"]) == 1
    check(plans, DeliveryStatus, DeliveryEvent, Message)


def test_a_users_own_list(some):
    client = APIClient()
    client.force_authenticate(User.objects.get(pk=some.user_id))

    with explained() as plans:
        results = client.get("/api/v1/accounts/me/deliveries").json()["results"]

    assert len(results) == 20
    check(plans, DeliveryStatus)
