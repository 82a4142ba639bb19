"""What Prometheus reads."""

from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db.models.functions import Now
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from mailer import ledger
from mailer.kinds import KINDS
from mailer.models import DeliveryEvent, RepeatCount
from tests.mailer.conftest import fact
from webhooks import health
from webhooks.models import Inquiry, RefusalCount, WebhookReceipt
from webhooks.polls import POLLS

HOUR = timedelta(hours=1)


def figures(response):
    """Return each figure by its name and the values of its labels, as Prometheus would read them."""
    families = text_string_to_metric_families(response.content.decode())
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_metrics_count_repeats_by_kind_and_provider(client, db, settings):
    settings.MAIL_PROVIDERS = ["mailgun"]
    settings.WEBHOOK_SECRETS = {}
    RepeatCount.objects.create(kind="verification", provider="sendgrid", count=3)
    RepeatCount.objects.create(kind="verification", provider="mailgun", count=1)

    response = client.get("/metrics")

    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "no-store" in response["Cache-Control"]
    assert figures(response) == {
        **{("mail_risky_repeats_total", name, "mailgun"): 0 for name, kind in KINDS.items() if kind.at_least_once},
        ("mail_risky_repeats_total", "verification", "mailgun"): 1,
        ("mail_risky_repeats_total", "verification", "sendgrid"): 3,
        ("webhook_dead_letters",): 0,
        ("webhook_receipts", "waiting"): 0,
        ("webhook_receipts", "retry"): 0,
        ("webhook_receipts", "poison"): 0,
        ("webhook_oldest_waiting_seconds",): 0,
        ("inquiry_asked_total", "mailgun"): 0,
        ("inquiry_told_total", "mailgun"): 0,
        ("inquiry_failed_total", "mailgun"): 0,
        ("inquiry_silent_seconds", "mailgun"): 0,
    }


def test_metrics_count_receipts_that_wait_or_cannot_be_read(client, db):
    for state, count in (("processed", 3), ("waiting", 4), ("retry", 2), ("poison", 1)):
        for _ in range(count):
            WebhookReceipt.objects.create(provider="resend", body=b"", state=state)

    found = figures(client.get("/metrics"))

    assert {labels[1:]: figure for labels, figure in found.items() if labels[0] == "webhook_receipts"} == {
        ("waiting",): 4,
        ("retry",): 2,
        ("poison",): 1,
    }


def test_metrics_tell_for_how_long_nobody_has_read_what_waits(client, db):
    for minutes, state in ((9, "retry"), (8, "poison"), (7, "processed"), (5, "waiting"), (1, "waiting")):
        WebhookReceipt.objects.create(
            provider="resend", body=b"", state=state, received_at=Now() - timedelta(minutes=minutes)
        )

    assert figures(client.get("/metrics"))["webhook_oldest_waiting_seconds",] == pytest.approx(300, abs=60)


def test_metrics_count_no_more_receipts_than_they_say(client, db, monkeypatch):
    monkeypatch.setattr(health, "MANY", 2)
    for _ in range(3):
        WebhookReceipt.objects.create(provider="resend", body=b"", state="poison")

    assert figures(client.get("/metrics"))["webhook_receipts", "poison"] == 2


def test_metrics_tell_what_asking_each_provider_came_to(client, db, settings):
    settings.MAIL_PROVIDERS = ["smtp"]
    now = timezone.now()
    Inquiry.objects.create(
        name="postmark", asked=5, told=3, failed=2, tokens=1, silent_until=now + HOUR, refilled_at=now
    )
    Inquiry.objects.create(name="resend", asked=1, silent_until=now - HOUR, refilled_at=now - HOUR)

    found = figures(client.get("/metrics"))

    assert {name: found[f"inquiry_{name}_total", "postmark"] for name in ("asked", "told", "failed")} == {
        "asked": 5,
        "told": 3,
        "failed": 2,
    }
    assert found["inquiry_silent_seconds", "postmark"] == pytest.approx(3600, abs=60)
    assert 1 <= found["inquiry_tokens", "postmark"] <= POLLS["postmark"].burst
    assert (found["inquiry_silent_seconds", "resend"], found["inquiry_tokens", "resend"]) == (0, POLLS["resend"].burst)
    assert ("inquiry_asked_total", "smtp") not in found


def test_metrics_count_dead_letters(client, db):
    for number in range(3):
        ledger.record([fact("delivered", esp_message_id=str(number), provider="resend")])
    DeliveryEvent.objects.filter(esp_message_id__in=["0", "1"]).update(recorded_at=Now() - timedelta(days=2))

    assert figures(client.get("/metrics"))["webhook_dead_letters",] == 2


def test_metrics_tell_how_the_webhooks_of_each_provider_are(client, db, settings):
    settings.WEBHOOK_SECRETS = {"resend": ["a secret"], "postmark": ["a secret"]}
    refused = {"provider": "resend", "reason": "the signature is missing or wrong", "code": 401}
    RefusalCount.objects.create(**refused, count=7)
    receipt = WebhookReceipt.objects.create(provider="resend", body=b"", state="processed")
    ledger.record([fact("delivered", esp_message_id="nobody's", provider="resend", receipt_id=receipt.pk)])
    recorded = DeliveryEvent.objects.get()
    DeliveryEvent.objects.update(occurred_at=recorded.recorded_at - timedelta(seconds=30))
    WebhookReceipt.objects.update(received_at=recorded.recorded_at - timedelta(seconds=20))

    found = figures(client.get("/metrics"))

    assert found["webhook_refused_total", "401", "resend", "the signature is missing or wrong"] == 7
    assert found["webhook_last_event_timestamp_seconds", "resend"] == pytest.approx(recorded.recorded_at.timestamp())
    assert ("webhook_last_event_timestamp_seconds", "postmark") not in found
    assert {found["webhook_silent_seconds", name] for name in settings.WEBHOOK_SECRETS} == {0}
    for quantile in ("0.5", "0.95", "0.99"):
        assert found["webhook_receipt_lag_seconds", "resend", quantile] == pytest.approx(10)
        assert found["webhook_record_lag_seconds", "resend", quantile] == pytest.approx(20)
    assert ("webhook_receipt_lag_seconds", "postmark", "0.5") not in found


def test_metrics_cost_eight_queries(client, db, django_assert_num_queries):
    with django_assert_num_queries(8):
        client.get("/metrics")


def test_metrics_outlive_the_messages(client, db):
    RepeatCount.objects.create(kind="verification", provider="sendgrid", count=3)

    call_command("cleanup_mail")

    assert figures(client.get("/metrics"))["mail_risky_repeats_total", "verification", "sendgrid"] == 3


def test_metrics_are_only_read(client, db):
    assert client.post("/metrics").status_code == 405


def test_metrics_without_the_database_are_503(client, no_database):
    response = client.get("/metrics")

    assert (response.status_code, response["Retry-After"], response.content) == (503, "5", b"")
