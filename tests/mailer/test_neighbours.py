"""What one bad answer, message or setting must not do to all the other mail."""

import itertools
import json
from datetime import timedelta

import pytest
from anymail.exceptions import AnymailCancelSend
from anymail.signals import pre_send
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import DataError
from django.db.models.functions import Now

from mailer import (
    backends,
    couriers,
    decisions,
    doubts,
    kinds,
    letters,
    operators,
    outbox,
    retention,
    sender,
    suppressions,
    sweeping,
    tasks,
)
from mailer.models import DeliveryStatus, Message
from mailer.verdicts import Verdict
from tests.mailer import tiny
from tests.mailer.conftest import (
    change,
    claim_one,
    delivery_of,
    draft,
    enqueue,
    intend_one,
    lapse,
    make_due,
    open_delivery,
    outcome,
    read,
    signal_receiver,
)

HOUR = timedelta(hours=1)


@pytest.fixture
def provider(settings, prefer, fresh_courier):
    """Start a server that gives these answers in turn, the last one for ever, and name it as the only provider."""
    started = []

    def start(name: str, *answers: tuple[int, object]) -> tiny.Tiny:
        turn = itertools.chain(answers, itertools.repeat(answers[-1]))

        def answer():
            status, body = next(turn)
            return status, {}, body if isinstance(body, bytes) else json.dumps(body).encode()

        server = tiny.serving(answer)
        started.append(server)
        it = server.__enter__()
        settings.ANYMAIL = {**settings.ANYMAIL, "MAILJET_API_KEY": "key", "MAILJET_SECRET_KEY": "secret"}
        prefer(name, it.url)
        return it

    yield start
    couriers.close()
    for server in started:
        server.__exit__(None, None, None)


@pytest.fixture
def doubted(db, simulator, prefer, fresh_courier):
    """Leave a message in doubt at Postmark, which never had it, its grace over."""
    prefer("postmark")

    def doubted(**fields) -> Message:
        message = enqueue(**fields)
        claim = claim_one(message)
        claim.message.provider, claim.message.content = "postmark", kinds.render(message)
        outbox.intend([claim])
        change(message, lease_until=Now() - HOUR)
        sweeping.sweep()
        message.tries.update(started_at=Now() - timedelta(minutes=1))
        change(message, inquire_at=Now() - HOUR)
        return message

    return doubted


# --- One bad answer -------------------------------------------------------------------------------------


@pytest.mark.parametrize("identifier", ["x" * 300, "a\0b", "\ud800"])
def test_an_id_that_no_column_takes_is_cut_to_what_it_takes(db, provider, identifier):
    server = provider("resend", (200, {"id": identifier}), (200, {"id": "fine"}))
    for _ in range(5):
        enqueue()

    sender.drain()

    assert len(server.requests) == 5
    assert set(Message.objects.values_list("state", flat=True)) == {"sent"}
    assert DeliveryStatus.objects.filter(esp_message_id="fine").count() == 4


def test_an_outcome_that_no_column_takes_leaves_the_others_of_its_group(db, provider, monkeypatch):
    provider("resend", (200, {"id": "fine"}))
    for _ in range(5):
        enqueue()
    seen = itertools.count()
    monkeypatch.setattr(decisions, "text_of", lambda *_: "x" * 300 if next(seen) == 2 else "")

    with pytest.raises(DataError):
        sender.drain()

    assert sorted(Message.objects.values_list("state", flat=True)) == ["sending", *["sent"] * 4]


def test_a_status_that_is_none_is_trouble_of_the_provider(db, provider):
    provider("mailjet", (400, {"Messages": [{"Status": "error", "Errors": [{"StatusCode": 99999}]}] * 12}))
    for _ in range(12):
        enqueue()

    sender.drain()

    assert set(Message.objects.values_list("state", flat=True)) == {"unknown"}


def test_a_refused_repeat_says_nothing_of_the_attempt_before_it(db, provider):
    provider("resend", (500, {}), (422, {"name": "validation_error"}))
    message = enqueue()
    sender.drain()
    make_due()

    sender.drain()

    assert (read(message).state, delivery_of(message).status) == ("unknown", "unknown")


# --- One bad message ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "answer"),
    [("postmark", (422, {"ErrorCode": 400})), ("resend", (403, {"name": "validation_error"}))],
)
def test_a_sender_that_the_provider_does_not_know_holds_up_nobody(db, provider, name, answer):
    accepted = (200, {"id": "fine", "ErrorCode": 0, "MessageID": "fine", "To": "ada@example.com", "Message": "OK"})
    provider(name, answer, accepted)
    backends.queue(draft("bob@example.com", from_email="somebody@elsewhere.example"))
    stranger = Message.objects.get()
    sender.drain()
    neighbour = enqueue()

    sender.drain()

    row = read(stranger)
    assert (row.state, row.attempts, row.tries.get().outcome) == ("retry", 1, "sender")
    assert read(neighbour).state == "sent"


@pytest.mark.parametrize(("status", "ours"), [(401, False), (403, True)])
def test_a_setting_that_is_wrong_closes_the_provider(db, provider, settings, status, ours):
    server = provider("resend", (status, {}))
    sender_of_it = settings.DEFAULT_FROM_EMAIL if ours else "somebody@elsewhere.example"
    backends.queue(draft("bob@example.com", from_email=sender_of_it))
    sender.drain()
    enqueue()

    sender.drain()

    assert len(server.requests) == 1


@pytest.fixture
def without_its_provider(doubted, settings):
    """A doubt at a provider of which the settings know nothing any more."""
    message = doubted()
    settings.MAIL_PROVIDERS = ["resend"]
    settings.ANYMAIL = {name: value for name, value in settings.ANYMAIL.items() if not name.startswith("POSTMARK")}
    letters.backend_at.cache_clear()
    return message


def test_a_doubt_at_a_provider_that_was_taken_out_stops_nobody(without_its_provider, simulator):
    neighbour = enqueue()

    call_command("relay", once=True)

    assert (read(without_its_provider).state, read(neighbour).state) == ("unknown", "sent")


def test_a_message_pinned_to_a_provider_that_was_taken_out_stops_nobody(without_its_provider, simulator):
    change(without_its_provider, state="retry", run_at=Now() - HOUR)
    neighbour = enqueue()

    sender.drain()

    row = read(without_its_provider)
    assert (row.state, row.provider, row.error_class) == ("retry", "postmark", "AnymailConfigurationError")
    assert read(neighbour).state == "sent"


def test_nobody_to_trust_is_said_and_no_doubt(db, provider, monkeypatch, tmp_path):
    provider("resend", (200, {"id": "fine"}))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "gone.pem"))
    message = enqueue()

    with pytest.raises(ImproperlyConfigured, match="REQUESTS_CA_BUNDLE"):
        sender.drain()

    assert (read(message).state, read(message).first_ambiguous_at) == ("retry", None)


def test_a_directory_of_authorities_is_trusted(monkeypatch, tmp_path):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))

    assert couriers.trusted().verify_mode


# --- One silent search ----------------------------------------------------------------------------------


def test_a_provider_that_does_not_answer_is_asked_once_a_round(doubted, settings, monkeypatch):
    doubts_there = [doubted() for _ in range(3)]
    asked = []

    def ask(_, request):
        asked.append(request)
        raise TimeoutError

    monkeypatch.setattr(couriers.Courier, "ask", ask)

    assert doubts.resolve() == 3

    assert len(asked) == 1
    assert {read(each).state for each in doubts_there} == {"unknown"}


def test_a_search_is_not_repeated_at_once_though_there_is_no_grace(doubted, settings):
    settings.MAIL_GRACE_SECONDS = 0.0
    message = doubted()

    tasks.sweep()

    assert doubts.resolve() == 0
    assert read(message).state == "unknown"


def test_the_time_for_a_search_counts_from_the_last_request(doubted, simulator):
    message = doubted(kind="account_exists")
    change(message, first_ambiguous_at=Now() - 2 * HOUR)

    doubts.resolve()

    assert (read(message).state, read(message).repeats) == ("unknown", 0)


# --- What was in doubt, and is no more ------------------------------------------------------------------


def test_what_its_provider_never_had_stays_with_it(doubted, settings, simulator):
    settings.MAIL_SEARCH_SECONDS = 0.001
    message = doubted()
    settings.MAIL_PROVIDERS = ["resend", "postmark"]

    doubts.resolve()
    sender.drain()

    assert (read(message).state, [mail["provider"] for mail in simulator.accepted()]) == ("sent", ["postmark"])


def test_cleanup_leaves_the_body_of_what_may_have_to_be_sent_again(doubted, settings, simulator):
    settings.MAIL_SEARCH_SECONDS = 0.001
    message = doubted()

    retention.cleanup(retention.rules(body_days=0))
    doubts.resolve()
    sender.drain()

    assert read(message).state == "sent"


def test_days_of_a_doubt_count_from_its_beginning(doubted):
    message = doubted()
    change(message, created_at=Now() - timedelta(days=31), inquire_at=None)

    retention.cleanup(retention.rules(body_days=30))
    assert read(message).content

    change(message, first_ambiguous_at=Now() - timedelta(days=31))
    retention.cleanup(retention.rules(body_days=30))
    assert read(message).content is None


def test_what_an_operator_lets_go_again_has_all_its_time(db, provider):
    provider("resend", (429, {}))
    message = enqueue()
    intend_one(message)
    message.tries.update(started_at=Now() - 48 * HOUR)
    change(message, state="dead", finished_at=Now(), content=None)

    operators.retry([message.pk])
    sender.drain()

    assert read(message).state == "retry"


def test_restarts_before_the_request_do_not_make_a_message_dead(db):
    message = enqueue()
    for _ in range(9):
        change(message, state="pending", run_at=Now() - HOUR)
        claim_one(message)
        change(message, lease_until=Now() - HOUR)
        sweeping.sweep()

    assert (read(message).state, read(message).crashes) == ("retry", 9)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("state", "event_type", "verdict"),
    [("retry", "retried", Verdict.THROTTLED), ("unknown", "ambiguous", Verdict.AMBIGUOUS), ("dead", "failed", None)],
)
def test_of_two_outcomes_that_come_together_the_accepted_one_counts(db, order, state, event_type, verdict):
    message = enqueue()
    frozen = intend_one(message, "resend")
    lapse(message)
    sweeping.sweep()
    again = intend_one(message, "resend")
    accepted = outcome(frozen, "sent", "sent", verdict=Verdict.ACCEPTED)
    outcomes = [accepted, outcome(again, state, event_type, verdict=verdict)]

    outbox.settle(outcomes[::order])

    assert (read(message).state, delivery_of(message).status) == ("sent", "sent")


@pytest.mark.parametrize("trouble", ["it does not render", "a receiver holds it back"])
def test_who_is_suppressed_is_told_so_though_the_mail_dies(db, answering, trouble):
    answering("postmark")
    message = enqueue("ada@example.com", kind="welcome")
    open_delivery(message, "bob@example.com")
    suppressions.suppress("bob@example.com", "hard_bounce", source="test")

    def hold_back(**_):
        raise AnymailCancelSend

    if trouble == "it does not render":
        change(message, kind="unknown")
        sender.drain()
    else:
        with signal_receiver(pre_send, hold_back):
            sender.drain()

    assert read(message).state == "dead"
    assert dict(message.deliveries.values_list("recipient", "status")) == {
        "ada@example.com": "failed",
        "bob@example.com": "suppressed",
    }
