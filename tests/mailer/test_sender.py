"""Sending: through the simulator, which has what a provider has, and against servers that misbehave."""

import json
import threading
from datetime import timedelta

import psycopg
import pytest
import trustme
from anymail.exceptions import AnymailCancelSend
from anymail.signals import post_send, pre_send
from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils import timezone

from mailer import couriers, decisions, ledger, letters, outbox, sender, sweeping, threaded
from mailer.models import Attempt, DeliveryEvent, Message, ProviderState
from mailer.outbox import Claimed
from mailer.providers import PROVIDERS, Provider
from mailer.verdicts import Answer, Verdict
from tests.conftest import free_port
from tests.mailer import tiny
from tests.mailer.conftest import change, delivery_of, enqueue, read

BOTH = pytest.mark.parametrize("provider", ["resend", "postmark"])
ACCEPTED = {
    "resend": b'{"id": "re-1"}',
    "postmark": b'{"To": "ada@example.com", "MessageID": "pm-1", "ErrorCode": 0, "Message": "OK"}',
}


@pytest.fixture(autouse=True)
def fresh_courier():
    """Have the courier's connections, and what is known of a provider's address, end with the test."""
    letters.backend_at.cache_clear()
    yield
    couriers.close()
    letters.backend_at.cache_clear()


@pytest.fixture
def prefer(settings):
    """Prefer a provider; where a URL is given, it is reached there."""

    def prefer(provider: str, url: str = "") -> None:
        settings.MAIL_PROVIDERS = [provider]
        if url:
            settings.ANYMAIL = {**settings.ANYMAIL, f"{provider.upper()}_API_URL": f"{url}/"}
        letters.backend_at.cache_clear()

    return prefer


@pytest.fixture
def answering(prefer):
    """Start a server that gives one answer for ever, and prefer it as a provider."""
    started = []

    def answering(provider: str, status: int = 200, body: bytes | None = None, **headers: str) -> tiny.Tiny:
        content = ACCEPTED[provider] if body is None else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        server = tiny.serving(lambda: (status, named, content))
        started.append(server)
        it = server.__enter__()
        prefer(provider, it.url)
        return it

    yield answering
    couriers.close()
    for server in started:
        server.__exit__(None, None, None)


def send_again() -> None:
    """Drain as if the time to retry had come, and no provider was left alone any more."""
    ProviderState.objects.all().delete()
    Message.objects.filter(state="retry").update(run_at=Now() - timedelta(hours=1))
    sender.drain()


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


# --- Refused --------------------------------------------------------------------------------------------


def test_drain_waits_as_long_as_the_provider_asks(db, answering):
    server = answering("resend", 429, b"{}", Retry_After="70")
    message = enqueue()

    sender.drain()

    row = read(message)
    assert (row.state, row.attempts, row.error_class) == ("retry", 0, "http_429")
    assert timedelta(seconds=60) < ProviderState.objects.get(name="resend").blocked_until - timezone.now()
    assert Attempt.objects.get().outcome == "throttled"
    assert len(server.requests) == 1


@pytest.mark.parametrize("retry_after", ["", "Fri, 31 Dec 2027 23:59:59 GMT", "-5", "²"])
def test_drain_waits_a_moment_where_the_provider_does_not_say(retry_after):
    response = type("Response", (), {"headers": {"retry-after": retry_after}})()

    seconds = letters._retry_after(response)

    assert seconds is None


def test_drain_does_not_wait_for_ever():
    response = type("Response", (), {"headers": {"retry-after": "86400"}})()

    assert letters._retry_after(response) == letters.LONGEST


@BOTH
def test_drain_retries_what_was_throttled(db, simulator, prefer, provider):
    prefer(provider)
    simulator.faults(rate_429=1)
    message = enqueue()
    sender.drain()
    assert read(message).state == "retry"

    simulator.faults()
    send_again()

    assert read(message).state == "sent"
    assert len(simulator.accepted(message.pk)) == 1


@BOTH
def test_drain_charges_no_attempt_where_it_is_not_known(db, simulator, prefer, settings, provider):
    prefer(provider)
    settings.ANYMAIL = {**settings.ANYMAIL, "RESEND_API_KEY": "wrong", "POSTMARK_SERVER_TOKEN": "wrong"}
    message = enqueue()

    sender.drain()

    row = read(message)
    assert (row.state, row.attempts) == ("retry", 0)
    state = ProviderState.objects.get(name=provider)
    assert (state.reason, state.blocked_until - timezone.now() > timedelta(seconds=40)) == ("refused", True)
    assert Attempt.objects.get().outcome == "configuration"


def test_drain_gives_up_a_rejected_recipient(db, simulator, prefer):
    prefer("postmark")
    message = enqueue("reject@example.com")

    sender.drain()

    assert (read(message).state, delivery_of(message).status) == ("dead", "rejected")
    assert Attempt.objects.get().outcome == "permanent"
    assert simulator.accepted() == []


def test_drain_tells_rejected_recipients_from_accepted_ones(db, simulator, prefer):
    prefer("postmark")
    message = enqueue("ada@example.com")
    ledger.open_delivery(message, "reject@example.com", event_type="queued")

    sender.drain()

    statuses = dict(message.deliveries.values_list("recipient", "status"))
    assert statuses == {"ada@example.com": "sent", "reject@example.com": "rejected"}
    assert read(message).state == "sent"


@pytest.mark.parametrize("status", [400, 404, 413, 422])
@BOTH
def test_drain_gives_up_what_the_provider_will_never_take(db, answering, provider, status):
    answering(provider, status, b'{"message": "no"}')
    message = enqueue()

    sender.drain()

    assert (read(message).state, delivery_of(message).status) == ("dead", "failed")
    assert read(message).error_class == f"http_{status}"


@BOTH
def test_drain_follows_no_redirect(db, answering, provider):
    elsewhere = answering(provider)
    server = answering(provider, 302, b"", Location=f"{elsewhere.url}/", Content_Length="0")
    message = enqueue()

    sender.drain()

    assert (len(server.requests), elsewhere.connections) == (1, 0)
    assert (read(message).state, read(message).error_class, read(message).attempts) == ("retry", "http_302", 0)


def test_drain_reads_no_more_of_a_body_than_makes_sense(db, answering, monkeypatch):
    monkeypatch.setattr(couriers, "LARGEST", 10)
    answering("postmark")
    message = enqueue()

    sender.drain()

    assert (read(message).state, read(message).error_class) == ("sent", "unreadable_answer")


def test_drain_abandons_a_request_that_outlives_its_lease(db, prefer, monkeypatch, settings):
    settings.MAIL_LEASE_SECONDS, settings.MAIL_CONCURRENCY = 0.2, 4
    monkeypatch.setattr(sender, "LOOK_AROUND", 0.05)
    monkeypatch.setitem(
        PROVIDERS, "stuck", Provider("stuck", "django.core.mail.backends.locmem.EmailBackend", over_http=False)
    )
    release, calls = threading.Event(), []

    def stuck(*args):
        calls.append(args)
        release.wait(30)
        return Answer(Verdict.ACCEPTED)

    monkeypatch.setattr(threaded, "send", stuck)
    prefer("stuck")
    monkeypatch.setattr(sender, "THREADS", 1)
    first, second = enqueue(), enqueue()

    sender.drain()
    release.set()

    assert len(calls) == 1
    assert {read(first).state, read(second).state} == {"sending", "retry"}
    assert Message.objects.get(state="retry").error_class == "no_free_thread"


@pytest.mark.django_db(transaction=True)
def test_answers_outlive_a_lost_database(answering, monkeypatch):
    server = answering("postmark")
    settle, lost = outbox.settle, []

    def blinking(outcomes):
        if not lost:
            lost.append(connection.connection.info.backend_pid)
            with psycopg.connect(connection.connection.info.dsn, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", lost)
        return settle(outcomes)

    monkeypatch.setattr(outbox, "settle", blinking)
    messages = [enqueue() for _ in range(3)]

    sender.drain()

    assert lost
    assert {read(message).state for message in messages} == {"sent"}
    assert len(server.requests) == 3


def test_drain_gives_up_an_address_that_cannot_be_written_to(db, simulator):
    message = enqueue("no address at all")

    sender.drain()

    assert (read(message).state, read(message).error_class) == ("dead", "AnymailInvalidAddress")
    assert simulator.accepted() == []


def test_drain_gives_up_what_does_not_render_and_sends_its_neighbours(db, simulator):
    broken = enqueue(kind="verification", context={"challenge_id": "01900000-0000-7000-8000-000000000000"})
    sound = [enqueue() for _ in range(3)]

    sender.drain()

    assert (read(broken).state, read(broken).error_class) == ("dead", "does_not_render")
    assert DeliveryEvent.objects.get(event_type="failed").detail == "its challenge is gone"
    assert {read(each).state for each in sound} == {"sent"}


def test_drain_gives_up_a_kind_that_it_no_longer_knows_and_sends_its_neighbours(db, simulator):
    gone, sound = enqueue(), enqueue()
    change(gone, kind="gone")

    sender.drain()

    assert (read(gone).state, read(gone).error_class) == ("dead", "does_not_render")
    assert read(sound).state == "sent"


def test_drain_goes_on_after_a_claim_of_which_nothing_could_be_sent(db, simulator, settings):
    settings.MAIL_CONCURRENCY = 1
    enqueue(kind="verification")  # its context names no challenge
    sound = enqueue()

    assert sender.drain() == 2

    assert read(sound).state == "sent"


def test_drain_gives_up_what_is_pinned_to_a_forgotten_provider(db, simulator):
    message = enqueue()
    change(message, provider="pigeon")

    sender.drain()

    assert (read(message).state, read(message).error_class) == ("dead", "not_routable")


def test_drain_lets_a_receiver_cancel(db, simulator):
    def cancel(**_):
        raise AnymailCancelSend

    message = enqueue()
    with signal_receiver(pre_send, cancel):
        sender.drain()

    assert (read(message).state, read(message).error_class) == ("dead", "cancelled_by_receiver")
    assert simulator.accepted() == []


def test_drain_settles_the_rest_before_it_tells_of_an_unforeseen_error(db, simulator):
    def fail(message, **_):
        if message.to == ["broken@example.com"]:
            raise RuntimeError("a receiver's mistake")

    broken = enqueue("broken@example.com")
    sound = [enqueue(f"sound-{number}@example.com") for number in range(3)]
    with signal_receiver(pre_send, fail), pytest.raises(RuntimeError, match="a receiver's mistake"):
        sender.drain()

    assert {read(each).state for each in sound} == {"sent"}
    assert (read(broken).state, read(broken).error_class) == ("retry", "RuntimeError")


# --- In doubt -------------------------------------------------------------------------------------------

FAULTS = pytest.mark.parametrize(
    ("fault", "reached"),
    [("rate_5xx_before", 0), ("rate_5xx_after", 1), ("rate_reset_before", 0), ("rate_reset_after", 1)],
)


@FAULTS
def test_drain_repeats_a_doubtful_request_with_its_key(db, simulator, prefer, fault, reached):
    prefer("resend")
    simulator.faults(**{fault: 1})
    message = enqueue()
    sender.drain()
    row = read(message)
    assert (row.state, row.attempts) == ("retry", 1)
    assert row.first_ambiguous_at is not None
    assert len(simulator.accepted()) == reached

    simulator.faults()
    send_again()

    (mail,) = simulator.accepted()
    assert (read(message).state, delivery_of(message).esp_message_id) == ("sent", mail["id"])


@FAULTS
def test_drain_never_repeats_a_doubtful_request_without_a_key(db, simulator, prefer, fault, reached):
    prefer("postmark")
    simulator.faults(**{fault: 1})
    message = enqueue()

    sender.drain()
    simulator.faults()
    sweeping.sweep()
    send_again()

    assert (read(message).state, delivery_of(message).status) == ("unknown", "unknown")
    assert Attempt.objects.get().outcome == "ambiguous"
    assert len(simulator.accepted()) == reached


@pytest.mark.parametrize(("provider", "state"), [("resend", "retry"), ("postmark", "unknown")])
def test_drain_is_in_doubt_after_a_read_timeout(db, simulator, prefer, monkeypatch, provider, state):
    prefer(provider)
    monkeypatch.setattr(couriers, "READ", 0.1)
    simulator.faults(latency_ms=1500)
    message = enqueue()

    sender.drain()

    assert (read(message).state, read(message).error_class) == (state, "SocketTimeoutError")
    assert read(message).first_ambiguous_at is not None


def test_drain_is_in_doubt_while_its_key_is_in_use(db, answering):
    answering("resend", 409, b'{"name": "concurrent_idempotent_requests"}')
    message = enqueue()

    sender.drain()

    assert (read(message).state, Attempt.objects.get().outcome) == ("retry", "ambiguous")


def test_drain_does_not_repeat_once_the_keys_life_is_over(db, simulator, prefer):
    prefer("resend")
    message = enqueue()
    change(message, state="retry", provider="resend", first_ambiguous_at=Now() - timedelta(hours=23, minutes=1))

    sender.drain()

    assert (read(message).state, read(message).error_class) == ("unknown", "key_expired")
    assert simulator.accepted() == []


# --- Not sent -------------------------------------------------------------------------------------------


@BOTH
def test_drain_retries_where_nobody_listens(db, prefer, provider):
    prefer(provider, f"http://127.0.0.1:{free_port()}")
    message = enqueue()

    sender.drain()

    row = read(message)
    assert (row.state, row.attempts, row.first_ambiguous_at) == ("retry", 1, None)
    assert Attempt.objects.get().outcome == "not_sent"


@BOTH
def test_drain_retries_where_the_host_has_no_address(db, prefer, provider):
    prefer(provider, "http://nobody.invalid")
    message = enqueue()

    sender.drain()

    assert (read(message).state, Attempt.objects.get().outcome) == ("retry", "not_sent")


@BOTH
def test_drain_sends_nothing_to_a_server_it_cannot_trust(db, prefer, tmp_path, provider):
    certificate = tmp_path / "certificate.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    with tiny.serving(lambda: (200, {}, b"{}"), certificate) as server:
        prefer(provider, server.url)
        message = enqueue()

        sender.drain()

    assert (read(message).state, Attempt.objects.get().outcome) == ("retry", "not_sent")
    assert server.connections
    assert server.requests == []


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


class signal_receiver:  # noqa: N801  # reads as the statement it is
    """Connect a receiver to a signal for the length of a block."""

    def __init__(self, signal, receiver):
        self.signal, self.receiver = signal, receiver

    def __enter__(self):
        self.signal.connect(self.receiver)

    def __exit__(self, *_):
        self.signal.disconnect(self.receiver)
