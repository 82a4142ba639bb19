"""Which provider a message goes through, how much may go there, and when one is left alone.

In a test's transaction the database's clock stands still: what depends on it is exact, and time passes by SQL.
"""

import pytest

from mailer import routing
from mailer.models import Message, ProviderState
from mailer.routing import Budget, NoneFree
from tests.conftest import in_threads
from tests.mailer.conftest import ask, pass_time, run


def blocked_for(name: str) -> float:
    """Return the seconds for which a provider is still left alone."""
    return ask("SELECT extract(epoch FROM blocked_until - now()) FROM mailer_providerstate WHERE name = %s", name)


def granted(name: str, count: int = 100) -> int:
    return routing.reserve({name: count}).grants[name]


# --- The rate limit -------------------------------------------------------------------------------------


@pytest.fixture
def limited(db, settings):
    settings.MAIL_RATES = {"resend": 10.0}
    # Else its time is the statement's, a moment later than that of the transaction, which stands still.
    run("INSERT INTO mailer_providerstate (name, refilled_at, failures, reason) VALUES ('resend', now(), 0, '')")


def test_reserve_grants_all_where_there_is_no_limit(db):
    assert routing.reserve({"resend": 7, "postmark": 9}).grants == {"resend": 7, "postmark": 9}
    assert not ProviderState.objects.exists()


def test_reserve_grants_a_seconds_worth_and_then_nothing(limited):
    assert granted("resend", 4) == 4
    assert granted("resend") == 6

    budget = routing.reserve({"resend": 100, "postmark": 5})

    assert budget.grants == {"resend": 0, "postmark": 5}
    assert budget.waits == {"resend": pytest.approx(0.1)}


@pytest.mark.parametrize(("seconds", "tokens"), [(0.09, 0), (0.1, 1), (0.55, 5), (3600, 10)])
def test_reserve_refills_by_the_databases_clock(limited, seconds, tokens):
    granted("resend")

    pass_time("resend", seconds)

    assert granted("resend") == tokens


def test_reserve_keeps_parts_of_a_token(limited):
    granted("resend")
    pass_time("resend", 0.16)
    assert granted("resend") == 1

    pass_time("resend", 0.05)

    assert granted("resend") == 1


def test_reserve_lets_one_go_at_a_time_where_the_rate_is_below_one_a_second(limited, settings):
    settings.MAIL_RATES = {"resend": 0.5}
    assert granted("resend") == 1

    assert routing.reserve({"resend": 1}).waits == {"resend": pytest.approx(2)}
    pass_time("resend", 2)

    assert granted("resend") == 1


def take_for_bulk(name: str) -> int:
    """Have the bulk lane take what it may."""
    budget = routing.reserve({name: 100})
    taken = budget.bulk[name]
    for _ in range(taken):
        budget.route(Message(provider=name), is_bulk=True)
    budget.give_back()
    return taken


def test_reserve_leaves_half_of_a_seconds_worth_to_what_is_urgent(limited):
    assert take_for_bulk("resend") == 5

    budget = routing.reserve({"resend": 100})

    assert (budget.grants["resend"], budget.bulk["resend"]) == (5, 0)
    assert budget.waits == {"resend": pytest.approx(0.1)}
    with pytest.raises(NoneFree):
        budget.route(Message(provider="resend"), is_bulk=True)
    assert budget.route(Message(provider="resend")).name == "resend"


def test_reserve_leaves_the_whole_rate_to_bulk_in_time(limited):
    taken = []
    for _ in range(4):
        taken.append(take_for_bulk("resend"))
        pass_time("resend", 0.31)

    assert taken == [5, 3, 3, 3]


def test_give_back_returns_what_was_not_used(limited):
    budget = routing.reserve({"resend": 8})
    for _ in range(3):
        budget.route(Message(kind="welcome"))

    budget.give_back()

    assert granted("resend") == 7


def test_give_back_never_makes_more_than_a_seconds_worth(limited):
    budget = routing.reserve({"resend": 8})
    pass_time("resend", 3600)
    assert granted("resend", 1) == 1

    budget.give_back()

    assert granted("resend") == 10


@pytest.mark.django_db(transaction=True)
def test_reserve_by_many_at_once_never_exceeds_the_rate(settings):
    settings.MAIL_RATES = {"resend": 40.0}
    since = ask("SELECT extract(epoch FROM clock_timestamp())")

    def take(_: int) -> list[int]:
        return [granted("resend", 1 + number % 3) for number in range(60)]

    taken = [grant for grants in in_threads(8, take) for grant in grants]

    seconds = ask("SELECT extract(epoch FROM clock_timestamp())") - since
    assert min(taken) == 0
    assert 40 <= sum(taken) <= 40 + 40 * seconds


# --- Routes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "context", "provider", "names"),
    [
        ("custom", {}, "", ["resend", "postmark", "mailjet"]),
        ("welcome", {}, "", ["mailjet", "resend"]),
        ("custom", {"providers": ["mailjet", "postmark"]}, "", ["postmark", "mailjet"]),
        ("welcome", {"providers": ["postmark", "resend"]}, "", ["resend"]),
        # A rule of the kind's that no carrier fits yields: better by another way than not at all.
        ("welcome", {"providers": ["postmark"]}, "", ["postmark"]),
        ("welcome", {"providers": ["mailjet"]}, "sendgrid", ["sendgrid"]),
    ],
)
def test_candidates(settings, kind, context, provider, names):
    settings.MAIL_PROVIDERS = ["resend", "postmark", "mailjet"]
    settings.MAIL_ROUTES = {"welcome": ["mailjet", "resend"]}

    found = routing.candidates(Message(kind=kind, context=context, provider=provider))

    if "providers" in context and not provider:
        found, names = sorted(found), sorted(names)
    assert found == names


def test_route_has_those_who_find_no_place_wait_for_each_other(settings):
    settings.MAIL_RATES = {"resend": 4.0}
    budget = Budget({"resend": 0}, {"resend": 0.25})
    waits = []

    for _ in range(3):
        with pytest.raises(NoneFree) as none:
            budget.route(Message(kind="welcome", provider="resend"))
        waits.append(none.value.wait)

    assert waits == [0.25, 0.5, 0.75]


def test_route_says_how_long_to_wait_for_the_first_that_is_free():
    budget = Budget({"resend": 0, "postmark": 0}, {"resend": 30.0, "postmark": 7.0})

    with pytest.raises(NoneFree) as none:
        budget.route(Message(kind="welcome"))

    assert none.value.wait == 7.0


# --- The breaker ----------------------------------------------------------------------------------------


def test_failures_in_a_row_open_the_breaker(db):
    routing.failed("resend", routing.FAILURES - 1)
    assert granted("resend") == 100

    routing.failed("resend", 1)

    budget = routing.reserve({"resend": 100})
    assert (budget.grants, budget.waits) == ({"resend": 0}, {"resend": pytest.approx(routing.FIRST)})
    assert ProviderState.objects.get().reason == "failing"
    assert granted("postmark") == 100


def test_a_success_in_between_is_a_new_beginning(db):
    routing.failed("resend", routing.FAILURES - 1)
    routing.succeeded("resend")

    routing.failed("resend", routing.FAILURES - 1)

    assert granted("resend") == 100


def test_what_was_under_way_when_the_breaker_opened_counts_no_more(db):
    routing.failed("resend", routing.FAILURES)
    routing.failed("resend", 30)

    assert ProviderState.objects.get().failures == routing.FAILURES
    assert blocked_for("resend") == pytest.approx(routing.FIRST)


def test_one_probe_goes_once_the_block_is_over(db):
    routing.failed("resend", routing.FAILURES)
    pass_time("resend", routing.FIRST)

    assert [granted("resend") for _ in range(3)] == [1, 0, 0]

    assert ProviderState.objects.get().reason == "probing"


@pytest.mark.django_db(transaction=True)
def test_one_probe_goes_however_many_ask():
    routing.failed("resend", routing.FAILURES)
    pass_time("resend", routing.FIRST)

    assert sorted(in_threads(6, lambda _: granted("resend"))) == [0, 0, 0, 0, 0, 1]


def test_a_probe_that_succeeds_closes_the_breaker(db):
    routing.failed("resend", routing.FAILURES)
    pass_time("resend", routing.FIRST)
    granted("resend")

    routing.succeeded("resend")

    state = ProviderState.objects.get()
    assert (granted("resend"), state.failures, state.reason) == (100, 0, "")


def test_probes_that_fail_open_it_for_longer_up_to_a_minute(db):
    routing.failed("resend", routing.FAILURES)
    waits = [blocked_for("resend")]

    for _ in range(6):
        pass_time("resend", waits[-1])
        assert granted("resend") == 1
        routing.failed("resend", 1)
        waits.append(blocked_for("resend"))

    assert waits == pytest.approx([5, 10, 20, 40, 60, 60, 60])


def test_a_probe_that_is_never_heard_of_is_replaced(db):
    routing.failed("resend", routing.FAILURES)
    pass_time("resend", routing.FIRST)
    assert granted("resend") == 1

    pass_time("resend", routing.PROBE)

    assert granted("resend") == 1


def test_a_probe_for_which_there_was_no_message_is_anothers(db):
    routing.failed("resend", routing.FAILURES)
    pass_time("resend", routing.FIRST)

    routing.reserve({"resend": 100}).give_back()

    assert [granted("resend"), granted("resend")] == [1, 0]


def test_is_open_while_any_provider_is(db, settings):
    settings.MAIL_PROVIDERS = ["resend", "postmark"]
    routing.throttled("resend", 70)
    assert routing.is_open()

    routing.refused("postmark")

    assert not routing.is_open()


# --- What a provider asks for ---------------------------------------------------------------------------


def test_a_shorter_wait_does_not_end_a_longer_one(db):
    routing.throttled("resend", 70)
    routing.throttled("resend", 1)

    assert blocked_for("resend") == pytest.approx(70)


def test_a_provider_that_had_asked_to_wait_is_not_probed(db):
    routing.throttled("resend", 70)
    pass_time("resend", 70)

    assert granted("resend") == 100


def test_a_provider_that_does_not_know_us_is_left_alone_and_then_probed(db):
    routing.refused("resend")
    assert (granted("resend"), blocked_for("resend")) == (0, pytest.approx(routing.REFUSED))

    pass_time("resend", routing.REFUSED)

    assert [granted("resend"), granted("resend")] == [1, 0]
