"""How the webhooks of each provider are doing, and what it costs to ask."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils import timezone

from mailer import ledger
from mailer.models import DeliveryEvent, DeliveryStatus
from tests.conftest import wait_until
from tests.mailer.conftest import ask, fact, new_delivery, run
from tests.mailer.test_explain import nodes
from tests.webhooks import payloads
from webhooks import health
from webhooks.models import RefusalCount, WebhookReceipt

HOUR = timedelta(hours=1)
PROVIDERS = ("postmark", "resend")


@pytest.fixture(autouse=True)
def configured(settings):
    settings.WEBHOOK_SILENCE_HOURS = 6


def sent_hours_ago(hours, provider="resend", status="sent"):
    """Write a delivery that was made and accepted so many hours ago, and of which this is known."""
    delivery = new_delivery()
    at = timezone.now() - hours * HOUR
    identifier = UUID(int=(int(at.timestamp() * 1000) << 80) | (delivery.int & (1 << 80) - 1))
    DeliveryEvent.objects.filter(delivery=delivery).delete()
    DeliveryStatus.objects.filter(pk=delivery).update(
        id=identifier, created_at=at, sent_at=at, provider=provider, status=status, status_rank=20
    )
    return identifier


def reported_hours_ago(hours, provider="resend", **fields):
    """Record an event that came so many hours ago."""
    [recorded] = ledger.record([fact("delivered", esp_message_id="nobody's", provider=provider, **fields)])
    DeliveryEvent.objects.filter(dedupe_key=recorded.dedupe_key).update(recorded_at=Now() - hours * HOUR)


# --- Silence ------------------------------------------------------------------------------------------


def test_all_is_well_where_nothing_was_sent(db):
    assert health.lives() == {name: health.Life(None, None, None) for name in PROVIDERS}


def test_last_event_is_the_latest_webhook_of_the_provider(db):
    reported_hours_ago(5)
    reported_hours_ago(3)
    reported_hours_ago(1, source=ledger.Source.POLL)
    reported_hours_ago(2, "postmark")

    lives = health.lives()

    assert lives["resend"].last_event_seconds == pytest.approx(3 * 3600, abs=60)
    assert lives["postmark"].last_event_seconds == pytest.approx(2 * 3600, abs=60)
    assert lives["resend"].last_event_at == DeliveryEvent.objects.order_by("-recorded_at")[2].recorded_at


@pytest.mark.parametrize(
    ("sent", "status", "reported", "silent"),
    [
        (5, "sent", None, None),  # there was no time yet
        (7, "sent", None, 7),
        (7, "sent", 6.5, None),  # something came since
        (7, "sent", 8, 8),
        (7, "delivered", 8, 8),
    ],
)
def test_a_provider_is_silent_that_leaves_its_mails_without_a_word(db, sent, status, reported, silent):
    sent_hours_ago(sent, status=status)
    if reported:
        reported_hours_ago(reported)

    lives = health.lives()

    assert lives["resend"].silent_seconds == (silent and pytest.approx(silent * 3600, abs=60))
    assert lives["postmark"].silent_seconds is None


def test_a_provider_is_silent_also_while_mail_goes_on(db):
    for hours in (7, 3, 1):
        sent_hours_ago(hours)

    assert health.lives()["resend"].silent_seconds == pytest.approx(7 * 3600, abs=60)


def test_what_a_provider_tells_when_it_is_asked_does_not_break_its_silence(db):
    delivery = sent_hours_ago(7)
    reported_hours_ago(1, delivery_id=delivery, source=ledger.Source.POLL)

    assert DeliveryStatus.objects.get(pk=delivery).status == "delivered"
    assert health.lives()["resend"].silent_seconds == pytest.approx(7 * 3600, abs=60)


def test_webhook_that_came_before_the_answer_is_no_silence(db):
    reported_hours_ago(8, delivery_id=sent_hours_ago(7))

    assert health.lives()["resend"].silent_seconds is None


@pytest.mark.parametrize(("provider", "is_silent"), [("resend", False), ("postmark", True)])
def test_provider_whose_webhook_waits_to_be_read_is_not_silent(db, provider, is_silent):
    sent_hours_ago(7)
    WebhookReceipt.objects.create(provider=provider, body=b"", state="waiting", received_at=Now() - HOUR)

    assert (health.lives()["resend"].silent_seconds is not None) == is_silent


def test_provider_whose_events_are_no_longer_kept_is_not_silent(db, settings):
    settings.WEBHOOK_EVENT_DAYS = 40
    sent_hours_ago(41 * 24)

    assert health.lives()["resend"].silent_seconds is None


def test_silence_is_a_setting(db, settings):
    settings.WEBHOOK_SILENCE_HOURS = 0.5
    sent_hours_ago(1)

    assert health.lives()["resend"].silent_seconds == pytest.approx(3600, abs=60)


# --- Lags ---------------------------------------------------------------------------------------------


def test_lags_are_percentiles_over_the_latest_events(db):
    for _ in range(101):
        receipt = WebhookReceipt.objects.create(provider="resend", body=b"", state="processed")
        reported_hours_ago(0, receipt_id=receipt.pk)
    now = timezone.now()
    for number, event in enumerate(DeliveryEvent.objects.all()):
        received_at = now - timedelta(seconds=2)
        WebhookReceipt.objects.filter(pk=event.receipt_id).update(received_at=received_at)
        DeliveryEvent.objects.filter(pk=event.pk).update(
            recorded_at=now, occurred_at=received_at - timedelta(seconds=number)
        )

    lag = health.report()["resend"].lag

    assert lag.events == 101
    assert lag.to_receipt == pytest.approx({0.5: 50, 0.95: 95, 0.99: 99})
    assert lag.to_record == pytest.approx({0.5: 2, 0.95: 2, 0.99: 2})


def test_lags_leave_out_what_is_old_and_no_clock_ahead_makes_them_negative(db):
    receipt = WebhookReceipt.objects.create(provider="resend", body=b"", state="processed")
    reported_hours_ago(25, receipt_id=receipt.pk)
    assert health.report()["resend"].lag == health.Lag()

    reported_hours_ago(0, receipt_id=receipt.pk, occurred_at=timezone.now() + HOUR)
    lag = health.report()["resend"].lag
    assert (lag.events, lag.to_receipt[0.99]) == (1, 0)


def test_wait_for_a_delivery_is_part_of_the_lag_to_record(transactional_db, post_resend, sent):
    message = sent()
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"

    def post():
        try:
            return post_resend(payloads.resend("email.delivered", message)).status_code
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            DeliveryStatus.objects.select_for_update().get()
            posted = pool.submit(post)
            wait_until(lambda: ask(waiting))
            released = ask("SELECT extract(epoch FROM clock_timestamp())")
        assert posted.result() == 200

    assert DeliveryEvent.objects.get(source="webhook").recorded_at.timestamp() >= released


def test_a_webhook_is_received_before_it_is_recorded(db, post_resend):
    post_resend(payloads.resend("email.delivered"))

    receipt, event = WebhookReceipt.objects.get(), DeliveryEvent.objects.get()
    assert receipt.received_at <= event.recorded_at


# --- Refusals -----------------------------------------------------------------------------------------


def test_refusals_are_told_by_provider(db):
    for reason in ("b", "a"):
        RefusalCount.objects.create(provider="resend", reason=reason, code=401, count=2)

    report = health.report()

    assert [(each.reason, each.code, each.count) for each in report["resend"].refusals] == [
        ("a", 401, 2),
        ("b", 401, 2),
    ]
    assert report["postmark"].refusals == ()


# --- What it costs ------------------------------------------------------------------------------------

ROWS = 60_000
BIG = {model._meta.db_table for model in (DeliveryStatus, DeliveryEvent, WebhookReceipt)}
FILL = [
    f"""INSERT INTO mailer_message (id, kind, dedupe_key, correlation_id, locale, state, priority, token, lease_owner,
        attempts, crashes, provider, context, secret, error_class)
    SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - 5000 * n), 12, '0') || repeat('0', 20))::uuid,
           'welcome', 'health:' || n, '', 'en', 'sent', 20, 1, '', 0, 0, 'resend', '{{}}', false, ''
    FROM generate_series(1, {ROWS}) n""",
    """INSERT INTO mailer_deliverystatus (id, message_id, kind, recipient, recipient_canonical, created_at, updated_at,
        sent_at, provider, esp_message_id, status, status_rank, status_at, status_key, open_count, click_count)
    SELECT m.id, m.id, m.kind, 'r', 'r', m.created_at, m.created_at,
           to_timestamp(('x' || left(replace(m.id::text, '-', ''), 12))::bit(48)::bigint / 1000.0),
           'resend', m.id::text, 'delivered', 40, now(), '', 0, 0
    FROM mailer_message m""",
    """INSERT INTO webhooks_webhookreceipt (id, provider, request_id, headers, body, state, events, new_events, error,
        received_at)
    SELECT d.id, 'resend', '', '{}', '', 'processed', 1, 1, '', d.sent_at FROM mailer_deliverystatus d""",
    """INSERT INTO mailer_deliveryevent (delivery_id, event_type, status, rank, occurred_at, source, effect, dedupe_key,
        provider, esp_message_id, esp_event_id, recipient_canonical, reject_reason, detail, receipt_id, recorded_at)
    SELECT d.id, 'delivered', 'delivered', 40, d.sent_at, s.source, 'changed', md5(d.id::text || s.source), d.provider,
           '', '', '', '', '', CASE s.source WHEN 'webhook' THEN d.id END, d.sent_at
    FROM mailer_deliverystatus d, unnest(ARRAY['webhook', 'sender']) s(source)""",
    "ANALYZE mailer_deliverystatus, mailer_deliveryevent, webhooks_webhookreceipt",
]


def plan_of(statement, parameters):
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
        return cursor.fetchone()[0][0]["Plan"]


def test_what_is_read_has_a_bound_and_an_index(db):
    for statement in FILL:
        run(statement)
    names = {"names": ["resend", "postmark"]}

    plans = [
        plan_of(health._LIVES, {**names, "silence": 6, "latest": health.LATEST, "kept": 400}),
        plan_of(health._LEFT, {"many": health.MANY}),
        plan_of(health._OLDEST, {}),
        plan_of(health._LAGS, {**names, "sample": health.SAMPLE, "quantiles": list(health.QUANTILES)}),
    ]

    read = {}
    for plan in plans:
        for node in nodes(plan):
            if (table := node.get("Relation Name")) in BIG:
                assert node["Node Type"] != "Seq Scan", node
                rows = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
                read[table] = max(read.get(table, 0), rows)
    assert set(read) == BIG
    assert max(read.values()) <= 2 * health.SAMPLE
    assert ask("SELECT count(*) FROM mailer_deliveryevent") == 2 * ROWS
