"""Sending that fails: what is refused, what is in doubt, and what never left."""

import threading
from datetime import timedelta

import psycopg
import pytest
import trustme
from anymail.exceptions import AnymailCancelSend
from anymail.signals import pre_send
from django.db import connection
from django.db.models.functions import Now
from django.utils import timezone

from mailer import couriers, letters, outbox, sender, sweeping, threaded
from mailer.models import Attempt, DeliveryEvent, Message, ProviderState
from mailer.providers import PROVIDERS, Provider
from mailer.verdicts import Answer, Verdict
from tests.conftest import free_port, wait_until
from tests.mailer import tiny
from tests.mailer.conftest import BOTH, change, delivery_of, enqueue, open_delivery, read, send_again, signal_receiver

pytestmark = pytest.mark.usefixtures("fresh_courier")


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

    seconds = letters.retry_after(response)

    assert seconds is None


def test_drain_does_not_wait_for_ever():
    response = type("Response", (), {"headers": {"retry-after": "86400"}})()

    assert letters.retry_after(response) == letters.LONGEST


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
    open_delivery(message, "reject@example.com")

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
    wait_until(lambda: simulator.accepted(message.pk))  # late, and not in another test's time


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
