"""Sending: through the simulator, which has what a provider has, and against servers that misbehave."""

import json
import threading
from datetime import timedelta

import pytest
from anymail.signals import post_send
from django.db import connection, transaction
from django.utils import timezone

from mailer import couriers, decisions, sender
from mailer.models import Attempt, Message
from mailer.outbox import Claimed
from mailer.providers import PROVIDERS
from mailer.verdicts import Answer, Verdict
from tests.conftest import free_port
from tests.mailer import tiny
from tests.mailer.conftest import ACCEPTED, BOTH, delivery_of, enqueue, read, send_again, signal_receiver

pytestmark = pytest.mark.usefixtures("fresh_courier")


# --- Accepted -------------------------------------------------------------------------------------------


@BOTH
def test_drain_sends_what_is_due(db, simulator, prefer, provider):
    prefer(provider)
    message = enqueue("Ada@example.com")

    assert sender.drain() == 1

    (mail,) = simulator.accepted()
    delivery, attempt = delivery_of(message), Attempt.objects.get()
    assert (mail["provider"], mail["to"]) == (provider, ["Ada@example.com"])
    assert read(message).state == "sent"
    assert (delivery.status, delivery.provider, delivery.esp_message_id) == ("sent", provider, mail["id"])
    assert (attempt.outcome, attempt.http_status, attempt.error_class) == ("accepted", 200, "")


def test_drain_with_nothing_due(db):
    enqueue(run_at=timezone.now() + timedelta(hours=1))

    assert sender.drain() == 0


def test_drain_sends_more_than_it_has_threads_for(db, simulator):
    messages = [enqueue(f"user-{number}@example.com") for number in range(30)]

    assert sender.drain() == 30

    assert {mail["metadata"]["message_id"] for mail in simulator.accepted()} == {str(each.pk) for each in messages}
    assert set(Message.objects.values_list("state", flat=True)) == {"sent"}


@BOTH
def test_drain_tells_the_provider_our_ids(db, simulator, prefer, provider):
    prefer(provider)
    message = enqueue()

    sender.drain()

    (mail,) = simulator.accepted()
    assert mail["metadata"] == {"message_id": str(message.pk), "correlation_id": message.correlation_id}


@pytest.mark.parametrize(("provider", "has_key"), [("resend", True), ("postmark", False)])
def test_drain_sends_our_id_as_idempotency_key_where_there_is_one(db, simulator, prefer, provider, has_key):
    prefer(provider)
    message = enqueue()

    sender.drain()

    (mail,) = simulator.accepted()
    assert mail["idempotency_key"] == (str(message.pk) if has_key else "")


def test_drain_sends_subject_text_html_and_sender(db, simulator):
    enqueue()

    sender.drain()

    (mail,) = simulator.inbox("ada@example.com")
    assert mail["subject"] == "Welcome to Example"
    assert "Your address is confirmed." in mail["text"]
    assert "Your address is confirmed." in mail["html"]
    assert mail["from"] == "Accounts <accounts@example.com>"


def test_drain_sends_to_an_international_address(db, simulator):
    message = enqueue("ada@bücher.example")

    sender.drain()

    delivery = delivery_of(message)
    assert delivery.status == "sent"
    assert delivery.esp_message_id == simulator.accepted()[0]["id"]


def test_drain_stays_with_the_provider_of_the_first_intent(db, simulator, prefer):
    message = enqueue()
    simulator.faults(rate_5xx_before=1)
    prefer("resend")
    sender.drain()
    simulator.faults()

    prefer("postmark")
    send_again()

    (mail,) = simulator.accepted(message.pk)
    assert mail["provider"] == "resend"


def test_drain_repeats_the_frozen_content(db, simulator, settings):
    simulator.faults(rate_5xx_after=1)
    message = enqueue()
    sender.drain()
    simulator.faults()

    settings.SITE_NAME = "Renamed"
    send_again()

    assert read(message).state == "sent"
    assert [mail["subject"] for mail in simulator.accepted()] == ["Welcome to Example"]


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"", b"null", b"123", b'"ok"', b"[]", b"[1]", b"{}", b'{"id": {}}', b'{"Message": 1, "To": 2}'],
)
@BOTH
def test_drain_takes_any_2xx_for_an_acceptance(db, answering, provider, body):
    server = answering(provider, body=body)
    message = enqueue()

    sender.drain()
    send_again()

    assert read(message).state == "sent"
    assert delivery_of(message).status in {"sent", "rejected"}
    assert len(server.requests) == 1


@BOTH
def test_drain_takes_a_2xx_whose_body_was_cut_off_for_an_acceptance(db, answering, provider):
    server = answering(provider, Content_Length="1000")
    message = enqueue()

    sender.drain()
    send_again()

    assert read(message).state == "sent"
    assert len(server.requests) == 1


@BOTH
def test_drain_takes_an_unreadable_answer_for_an_acceptance(db, simulator, prefer, provider):
    prefer(provider)
    simulator.faults(rate_unreadable=1)
    message = enqueue()

    sender.drain()
    send_again()

    assert read(message).state == "sent"
    assert Attempt.objects.get().error_class == "unreadable_answer"
    assert len(simulator.accepted()) == 1


def test_drain_tells_anymails_signal(db, simulator):
    heard = []

    def listen(message, status, esp_name, **_):
        heard.append((message.to, status.status, esp_name))

    with signal_receiver(post_send, listen):
        enqueue()
        sender.drain()

    assert heard == [(["ada@example.com"], {"queued"}, "Resend")]


# --- Connections and transactions -----------------------------------------------------------------------


@BOTH
def test_drain_keeps_its_connections(db, answering, settings, provider):
    settings.MAIL_CONCURRENCY = 3
    server = answering(provider)
    for _ in range(2):
        for _ in range(15):
            enqueue()
        sender.drain()

    assert len(server.requests) == 30
    assert server.connections <= 3


@pytest.mark.parametrize("status", [200, 422, 500])
def test_drain_keeps_a_connection_after_any_answer(db, answering, settings, status):
    settings.MAIL_CONCURRENCY = 1
    server = answering("resend", status, b"{}")
    for _ in range(5):
        enqueue()

    sender.drain()

    assert (len(server.requests), server.connections) == (5, 1)


def test_drain_sends_at_once_what_it_has_slots_for(db, prefer, settings):
    settings.MAIL_CONCURRENCY = 4
    together = threading.Barrier(4, timeout=20)

    def answer():
        together.wait()
        return 200, {}, ACCEPTED["resend"]

    for _ in range(8):
        enqueue(kind="account_exists")
    with tiny.serving(answer) as server:
        prefer("resend", server.url)
        sender.drain()
        couriers.close()

    assert not together.broken
    assert len(server.requests) == 8


@pytest.mark.django_db(transaction=True)
def test_drain_holds_no_transaction_and_has_committed_its_intent_while_a_request_runs(prefer):
    seen = []

    def answer():
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'"
            )
            seen.append((cursor.fetchone()[0], Attempt.objects.count(), Message.objects.get().state))
        connection.close()
        return 200, {}, ACCEPTED["resend"]

    message = enqueue()
    with tiny.serving(answer) as server:
        prefer("resend", server.url)
        sender.drain()
        couriers.close()

    assert seen == [(0, 1, "sending")]
    assert read(message).state == "sent"


# --- Retry ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [Verdict.NOT_SENT, Verdict.AMBIGUOUS])
@pytest.mark.parametrize(("attempts", "most"), [(0, 2), (1, 4), (5, 64), (8, 512), (9, 900), (12, 900)])
def test_delay_has_full_jitter_within_bounds(monkeypatch, verdict, attempts, most):
    monkeypatch.setattr(decisions.random, "uniform", lambda low, high: (low, high))

    assert decisions._delay(Answer(verdict), attempts) == (0, most)


@pytest.mark.parametrize(
    ("attempts", "age", "doubted_for", "verdict", "state"),
    [
        (10, 0, None, Verdict.NOT_SENT, "retry"),
        (11, 0, None, Verdict.NOT_SENT, "dead"),
        (11, 0, 60, Verdict.NOT_SENT, "unknown"),
        (11, 0, None, Verdict.AMBIGUOUS, "unknown"),
        (11, 0, None, Verdict.THROTTLED, "retry"),
        (11, 0, None, Verdict.CONFIGURATION, "retry"),
        (0, 24 * 3600 - 60, None, Verdict.NOT_SENT, "retry"),
        (0, 24 * 3600, None, Verdict.NOT_SENT, "dead"),
        (0, 24 * 3600, 60, Verdict.NOT_SENT, "unknown"),
        (0, 24 * 3600, None, Verdict.THROTTLED, "dead"),
        (11, 24 * 3600, None, Verdict.ACCEPTED, "sent"),
    ],
)
def test_conclude_gives_up_at_the_limits(attempts, age, doubted_for, verdict, state):
    claim = Claimed(Message(attempts=attempts, token=1), age, doubted_for)

    outcome = decisions.conclude(claim, PROVIDERS["resend"], Answer(verdict))

    assert outcome.state == state


def test_drain_gives_up_after_the_twelfth_attempt(db, prefer):
    prefer("resend", f"http://127.0.0.1:{free_port()}")
    message = enqueue()

    for _ in range(15):
        send_again()
        sender.drain()

    assert (read(message).state, read(message).attempts) == ("dead", 12)
    assert Attempt.objects.count() == 12
    assert delivery_of(message).status == "failed"


# --- What is logged -------------------------------------------------------------------------------------


def test_drain_logs_the_story_without_the_address(db, simulator, caplog):
    message = enqueue("ada.lovelace@example.com")

    sender.drain()

    lines = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    (sent,) = (line for line in lines if line["event"] == "message_sent")
    assert sent["message_id"] == str(message.pk)
    assert sent["correlation_id"] == message.correlation_id
    assert sent["esp_message_ids"] == [simulator.accepted()[0]["id"]]
    assert "lovelace" not in json.dumps(lines, default=str) + caplog.text
