"""Many messages in one request: when, and that each keeps an outcome of its own."""

from collections import Counter
from datetime import timedelta

import pytest
from anymail.exceptions import AnymailNotSupportedWarning
from anymail.message import AnymailMessage
from anymail.utils import parse_address_list
from django.core.mail import get_connection
from django.db.models.functions import Now

from mailer import doubts, letters, outbox, sender, sweeping
from mailer.models import Attempt, DeliveryStatus, Message, ProviderState
from mailer.packing import ENOUGH, SMALL
from mailer.routing import FAILURES
from tests.mailer.conftest import change, delivery_of, enqueue, intend_one, make_due, open_delivery, read, run

ALL = pytest.mark.parametrize("provider", ["postmark", "mailjet", "resend"])
# A subject that is refused.
REFUSED = {"postmark": "s" * 2001, "mailjet": "s" * 2001, "resend": ""}


pytestmark = pytest.mark.usefixtures("fresh_courier")


@pytest.fixture
def through(simulator, settings):
    """Send through one provider of the simulator."""

    def through(provider):
        settings.MAIL_PROVIDERS = [provider]
        letters.backend_at.cache_clear()
        return simulator

    return through


def several(count: int, **fields) -> list[Message]:
    return [enqueue(f"user-{number}@example.com", **fields) for number in range(count)]


def sizes(simulator) -> list[int]:
    """Return how many messages each request held, the largest first."""
    return sorted(Counter(row["request"] for row in simulator.requests()).values(), reverse=True)


def states() -> dict[str, int]:
    return dict(Counter(Message.objects.values_list("state", flat=True)))


# --- When -----------------------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize(("count", "requests"), [(ENOUGH - 1, [1] * (ENOUGH - 1)), (ENOUGH, [ENOUGH]), (50, [50])])
def test_enough_travel_together_and_fewer_alone(db, through, provider, count, requests):
    simulator = through(provider)
    messages = several(count)

    sender.drain()

    assert sizes(simulator) == requests
    ids = {mail["metadata"]["message_id"]: mail["id"] for mail in simulator.accepted()}
    assert ids == {str(each.pk): delivery_of(each).esp_message_id for each in messages}
    assert states() == {"sent": count}
    assert set(Attempt.objects.values_list("outcome", flat=True)) == {"accepted"}


@pytest.mark.filterwarnings(f"ignore::{AnymailNotSupportedWarning.__module__}.AnymailNotSupportedWarning")
def test_a_provider_without_batches_gets_each_alone(db, through):
    simulator = through("sendgrid")
    several(20)

    sender.drain()

    assert sizes(simulator) == [1] * 20


@pytest.mark.parametrize(("size", "largest"), [(1, 1), (ENOUGH - 1, 1), (12, 12)])
def test_no_more_travel_together_than_the_setting_says(db, through, settings, size, largest):
    settings.MAIL_BATCH_SIZE = size
    simulator = through("postmark")
    several(60)

    sender.drain()

    assert sizes(simulator)[0] == largest
    assert states() == {"sent": 60}


def test_lanes_do_not_mix(db, through):
    simulator = through("postmark")
    urgent, bulk = several(10, kind="account_exists"), several(10)

    sender.drain()

    of = {row["message_id"]: row["request"] for row in simulator.requests()}
    assert sizes(simulator) == [10, 10]
    assert {of[str(each.pk)] for each in urgent}.isdisjoint(of[str(each.pk)] for each in bulk)


def test_providers_do_not_mix(db, through, settings):
    simulator = through("postmark")
    settings.MAIL_PROVIDERS = ["postmark", "mailjet"]
    settings.MAIL_ROUTES = {"test": ["mailjet"]}
    several(10)
    several(10, kind="test", priority=20)

    sender.drain()

    assert sizes(simulator) == [10, 10]
    assert sorted(Counter((row["provider"], row["request"]) for row in simulator.requests()).values()) == [10, 10]


def handed_over(count: int, **fields) -> None:
    """Have other code send so many mails through Django."""
    mails = [AnymailMessage("s", "t", "me@example.org", [f"user-{n}@example.com"], **fields) for n in range(count)]
    get_connection("mailer.backends.OutboxBackend").send_messages(mails)


@ALL
def test_plain_mails_of_other_code_travel_together(db, through, provider):
    simulator = through(provider)
    handed_over(12)

    sender.drain()

    assert sizes(simulator) == [12]


@pytest.mark.parametrize(
    ("provider", "fields"),
    [
        ("postmark", {"attachments": [("a.txt", "a" * SMALL, "text/plain")]}),
        ("postmark", {"merge_metadata": {"user-0@example.com": {"number": "1"}}}),
        ("mailjet", {"attachments": [("a.txt", "a" * SMALL, "text/plain")]}),
        ("mailjet", {"merge_metadata": {"user-0@example.com": {"number": "1"}}}),
        ("mailjet", {"merge_data": {"user-0@example.com": {"name": "Ada"}}}),
        ("resend", {"attachments": [("a.txt", "a", "text/plain")]}),
        ("resend", {"merge_metadata": {"user-0@example.com": {"number": "1"}}}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_what_is_large_or_makes_many_mails_itself_goes_alone(db, through, provider, fields):
    simulator = through(provider)
    handed_over(12, **fields)

    sender.drain()

    assert sizes(simulator) == [1] * 12
    assert states() == {"sent": 12}


def test_what_does_not_fit_leaves_the_others_together(db, through):
    simulator = through("postmark")
    several(10)
    handed_over(3, attachments=[("a.txt", "a" * SMALL, "text/plain")])

    sender.drain()

    assert sizes(simulator) == [10, 1, 1, 1]


# --- Outcomes -------------------------------------------------------------------------------------------


@ALL
def test_one_that_is_refused_does_not_stop_the_others(db, through, provider):
    simulator = through(provider)
    sound = several(11)
    content = {"subject": REFUSED[provider], "text": "t", "html": "h", "from_email": "me@example.org"}
    refused = enqueue("eve@example.com", content=content)

    sender.drain()

    assert sizes(simulator) == [12]
    assert (read(refused).state, delivery_of(refused).status) == ("dead", "failed")
    assert {(read(each).state, delivery_of(each).status) for each in sound} == {("sent", "sent")}
    assert len(simulator.accepted()) == 11
    assert Attempt.objects.get(message=refused).outcome == "permanent"
    assert not ProviderState.objects.exclude(reason="").exists()


def test_a_recipient_that_is_rejected_is_told_so_alone(db, through):
    through("postmark")
    sound, rejected = several(11), enqueue("reject@example.com")

    sender.drain()

    assert (read(rejected).state, delivery_of(rejected).status) == ("dead", "rejected")
    assert {delivery_of(each).status for each in sound} == {"sent"}


def test_what_is_refused_as_a_whole_goes_alone_and_holds_nobody_up(db, through):
    simulator = through("mailjet")
    for message in several(20):
        for number in range(2):  # a request may have 50 recipients
            open_delivery(message, f"also-{number}-{message.pk}@example.com")

    sender.drain()

    assert (sizes(simulator), states()) == ([20], {"retry": 20})
    assert set(Message.objects.values_list("error_class", "first_ambiguous_at")) == {("batch_refused", None)}
    # It answers, and has told that it is not it that fails.
    assert not ProviderState.objects.exclude(reason="").exists()
    make_due()
    sender.drain()
    assert sizes(simulator) == [20] + [1] * 20
    assert states() == {"sent": 20}


@ALL
def test_what_is_throttled_travels_together_again(db, through, provider):
    simulator = through(provider)
    simulator.faults(rate_429=1)
    several(12)
    sender.drain()
    assert states() == {"retry": 12}
    assert set(Message.objects.values_list("attempts", flat=True)) == {0}

    simulator.faults()
    ProviderState.objects.all().delete()
    make_due()
    sender.drain()

    assert sizes(simulator) == [12, 12]
    assert states() == {"sent": 12}


@ALL
@pytest.mark.parametrize("fault", ["rate_5xx_before", "rate_reset_before"])
def test_a_request_that_fails_is_one_failure_however_many_it_carries(db, through, provider, fault):
    simulator = through(provider)
    simulator.faults(**{fault: 1})
    several(2 * FAILURES)

    sender.drain()

    assert sizes(simulator) == [2 * FAILURES]
    state = ProviderState.objects.get(name=provider)
    assert (state.failures, state.reason, state.blocked_until) == (1, "", None)


@pytest.mark.parametrize("provider", ["postmark", "mailjet"])
def test_an_answer_that_cannot_be_read_is_an_acceptance_of_all(db, through, provider):
    simulator = through(provider)
    simulator.faults(rate_unreadable=1)
    several(12)

    sender.drain()
    make_due()
    sender.drain()

    assert states() == {"sent": 12}
    assert len(simulator.accepted()) == 12
    assert set(Attempt.objects.values_list("error_class", flat=True)) == {"unreadable_answer"}


# --- In doubt -------------------------------------------------------------------------------------------

FAULTS = pytest.mark.parametrize(
    ("fault", "accepted"),
    [("rate_reset_after", 12), ("rate_5xx_after", 12), ("rate_reset_before", 0), ("rate_5xx_before", 0)],
)


def resolve_all() -> None:
    """Let a minute have passed, and with it the grace of every doubt; look into them."""
    run("UPDATE mailer_attempt SET started_at = started_at - interval '1 minute'")
    run("UPDATE mailer_message SET inquire_at = now() WHERE state = 'unknown'")
    assert doubts.resolve() == 12


@FAULTS
def test_a_search_tells_of_each_what_became_of_it(db, through, settings, fault, accepted):
    settings.MAIL_SEARCH_SECONDS = 0.0
    simulator = through("postmark")
    simulator.faults(**{fault: 1})
    messages = several(12)
    sender.drain()
    assert (sizes(simulator), states()) == ([12], {"unknown": 12})

    simulator.faults()
    ProviderState.objects.all().delete()
    resolve_all()
    sender.drain()

    assert sizes(simulator) == ([12] if accepted else [12] + [1] * 12)
    assert states() == {"sent": 12}
    ids = {mail["metadata"]["message_id"]: mail["id"] for mail in simulator.accepted()}
    assert ids == {str(each.pk): delivery_of(each).esp_message_id for each in messages}
    assert len(simulator.accepted()) == 12


@FAULTS
def test_without_evidence_each_goes_by_its_kind_and_alone(db, through, fault, accepted):
    simulator = through("mailjet")
    simulator.faults(**{fault: 1})
    once = several(6)
    again = several(6, kind="account_exists", priority=20)
    sender.drain()
    assert (sizes(simulator), states()) == ([12], {"unknown": 12})

    simulator.faults()
    ProviderState.objects.all().delete()
    resolve_all()
    sender.drain()

    assert sizes(simulator) == [12] + [1] * 6
    assert {read(each).state for each in once} == {"unknown"}
    assert {read(each).state for each in again} == {"sent"}
    assert len(simulator.accepted()) == accepted + 6
    assert set(DeliveryStatus.objects.values_list("status", flat=True)) == {"unknown", "sent"}


def test_what_a_crash_left_in_doubt_is_repeated_alone(db, through):
    simulator = through("mailjet")
    messages = several(12, kind="account_exists")
    for message in messages:
        intend_one(message, "mailjet")
        change(message, content=None)
        Message.objects.filter(state="leased").update(state="pending")
        change(message, lease_until=Now() - timedelta(seconds=1))
    assert sweeping.sweep() == {"unknown": 12}
    resolve_all()

    sender.drain()

    assert sizes(simulator) == [1] * 12
    assert states() == {"sent": 12}


def test_what_killed_a_worker_before_it_was_sent_goes_alone(db, through):
    simulator = through("mailjet")
    several(12)
    outbox.claim("killed", 100)
    Message.objects.update(lease_until=Now() - timedelta(seconds=1))
    assert sweeping.sweep() == {"retry": 12}

    sender.drain()

    assert sizes(simulator) == [1] * 12


def test_an_address_is_parsed_once():
    [first], [second] = parse_address_list(["Ada <ada@example.com>"]), parse_address_list(["Ada <ada@example.com>"])

    assert first is second
    assert (first.display_name, first.addr_spec) == ("Ada", "ada@example.com")
