"""Through which provider a drain sends: within the limits, around those in trouble, never elsewhere when in doubt.

In a test's transaction the database's clock stands still: time passes by SQL.
"""

import pytest

from mailer import couriers, doubts, operators, routing, sender
from mailer.models import Attempt, Message, ProviderState
from tests.conftest import free_port, in_threads
from tests.mailer import tiny
from tests.mailer.conftest import ask, change, enqueue, looks, make_due, pass_time, read, run

pytestmark = pytest.mark.usefixtures("fresh_courier")


@pytest.fixture
def both(simulator, settings):
    """Send through Resend, or else through Postmark, one message at a time."""
    settings.MAIL_PROVIDERS, settings.MAIL_CONCURRENCY = ["resend", "postmark"], 1
    return simulator


def test_drain_sends_no_faster_than_the_rate(both, db, settings):
    run("INSERT INTO mailer_providerstate (name, refilled_at, failures, reason) VALUES ('resend', now(), 0, '')")
    settings.MAIL_PROVIDERS, settings.MAIL_CONCURRENCY, settings.MAIL_RATES = ["resend"], 32, {"resend": 2.0}
    for _ in range(5):
        enqueue(kind="account_exists")

    assert sender.drain(looks(8)) == 2

    assert len(both.accepted()) == 2
    pass_time("resend", 1)
    assert sender.drain(looks(8)) == 2
    assert len(both.accepted()) == 4


def test_drain_goes_by_the_route_of_the_kind(db, both, settings):
    settings.MAIL_ROUTES = {"welcome": ["postmark"]}
    routed, other = enqueue(), enqueue(kind="account_exists")

    sender.drain()

    assert [mail["provider"] for mail in both.accepted(routed.pk)] == ["postmark"]
    assert [mail["provider"] for mail in both.accepted(other.pk)] == ["resend"]


def test_drain_goes_by_what_can_carry_the_mail(db, both):
    message = enqueue(context={"providers": ["postmark"]})

    sender.drain()

    assert [mail["provider"] for mail in both.accepted(message.pk)] == ["postmark"]


def test_drain_leaves_a_failing_provider_alone_probes_and_returns(db, both, settings):
    settings.MAIL_PROVIDERS = ["resend"]
    both.faults(rate_5xx_before=1)
    for _ in range(15):
        enqueue()

    sender.drain()
    assert len(both.requests()) == routing.FAILURES

    sender.drain()
    assert len(both.requests()) == routing.FAILURES

    pass_time("resend", routing.FIRST)
    sender.drain()
    assert len(both.requests()) == routing.FAILURES + 1

    both.faults()
    pass_time("resend", 2 * routing.FIRST)
    sender.drain()
    assert len(both.accepted()) == 4


@pytest.mark.django_db(transaction=True)
def test_a_provider_that_asks_to_wait_is_left_alone_by_everybody(settings):
    settings.MAIL_PROVIDERS = ["resend"]
    with tiny.serving(lambda: (429, {"Retry-After": "70"}, b"{}")) as server:
        settings.ANYMAIL = {**settings.ANYMAIL, "RESEND_API_URL": f"{server.url}/"}
        settings.MAIL_CONCURRENCY = 1
        for _ in range(3):
            enqueue()
        sender.drain()

        (other,) = in_threads(1, lambda _: routing.reserve({"resend": 5}))
        in_threads(1, lambda _: sender.drain())
        couriers.close()

    assert (other.grants, len(server.requests)) == ({"resend": 0}, 1)
    assert 30 < other.waits["resend"] <= 70
    assert sorted(Message.objects.values_list("state", flat=True)) == ["pending", "pending", "retry"]


def test_drain_asks_a_provider_that_does_not_know_us_once_and_goes_to_the_next(db, both, settings):
    settings.ANYMAIL = {**settings.ANYMAIL, "RESEND_API_KEY": "wrong"}
    for _ in range(4):
        enqueue()

    sender.drain()

    assert [done["done"] for done in both.requests() if done["provider"] == "resend"] == ["refused_403"]
    assert [mail["provider"] for mail in both.accepted()] == ["postmark"] * 3
    make_due()
    sender.drain()
    assert [mail["provider"] for mail in both.accepted()] == ["postmark"] * 4


# --- Failover -------------------------------------------------------------------------------------------


def test_drain_fails_over_where_nothing_was_sent(db, both, settings):
    settings.ANYMAIL = {**settings.ANYMAIL, "RESEND_API_URL": f"http://127.0.0.1:{free_port()}/"}
    message = enqueue()
    sender.drain()
    assert (read(message).state, read(message).provider) == ("retry", "")

    routing.failed("resend", routing.FAILURES)
    make_due()
    sender.drain()

    assert [mail["provider"] for mail in both.accepted(message.pk)] == ["postmark"]
    assert list(Attempt.objects.order_by("token").values_list("provider", flat=True)) == ["resend", "postmark"]


def test_drain_fails_over_where_the_provider_throttles(db, both):
    both.faults(rate_429=1)
    message = enqueue()
    sender.drain(looks(1))
    both.faults()
    make_due()

    sender.drain()

    assert [mail["provider"] for mail in both.accepted(message.pk)] == ["postmark"]


@pytest.mark.parametrize("fault", ["rate_5xx_before", "rate_5xx_after", "rate_reset_before", "rate_reset_after"])
def test_what_may_have_been_accepted_waits_for_its_provider(db, both, fault):
    both.faults(**{fault: 1})
    message = enqueue()
    sender.drain()
    both.faults()
    routing.throttled("resend", 300)
    make_due()

    sender.drain()

    row = read(message)
    assert (row.state, row.provider) == ("retry", "resend")
    assert ask("SELECT extract(epoch FROM run_at - now()) FROM mailer_message") == pytest.approx(300.5, abs=0.5)
    assert {done["provider"] for done in both.requests()} == {"resend"}
    pass_time("resend", 301)
    make_due()
    sender.drain()
    assert [mail["provider"] for mail in both.accepted(message.pk)] == ["resend"]


@pytest.mark.parametrize(("fault", "last"), [("rate_429", "throttled"), ("rate_reset_before", "ambiguous")])
def test_a_doubt_outlives_later_attempts(db, both, fault, last):
    both.faults(rate_5xx_after=1)
    message = enqueue()
    sender.drain()
    doubted = read(message).first_ambiguous_at
    both.faults(**{fault: 1})
    make_due()

    sender.drain(looks(1))

    row = read(message)
    assert (row.state, row.provider, row.first_ambiguous_at) == ("retry", "resend", doubted)
    assert Attempt.objects.get(token=2).outcome == last


def test_what_is_repeated_at_a_risk_stays_with_its_provider(db, both, settings):
    settings.MAIL_PROVIDERS = ["mailjet", "resend"]
    both.faults(rate_5xx_before=1)
    message = enqueue(kind="account_exists")
    sender.drain()
    both.faults()
    run("UPDATE mailer_message SET inquire_at = now()")
    assert doubts.resolve() == 1
    assert (read(message).state, read(message).repeats) == ("retry", 1)
    routing.refused("mailjet")

    sender.drain()

    assert (read(message).provider, both.accepted()) == ("mailjet", [])


def test_what_an_operator_sends_through_one_provider_waits_for_it(db, both):
    message = enqueue(kind="test")
    operators.pin(message.pk, "resend")
    routing.throttled("resend", 300)

    for _ in range(2):
        sender.drain()
        make_due()

    assert both.accepted() == []
    change(message, state="retry")
    ProviderState.objects.all().delete()
    sender.drain()
    assert [mail["provider"] for mail in both.accepted()] == ["resend"]
