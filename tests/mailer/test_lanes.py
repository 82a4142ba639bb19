"""Who goes first, and who never waits: priorities, the share of slots that is kept free, flows that take turns."""

from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils import timezone

from mailer import outbox, sender, turns
from mailer.kinds import KINDS, PRIORITY
from mailer.models import Message
from mailer.outbox import Lane
from tests.conftest import in_threads
from tests.mailer.conftest import ask, change, enqueue, looks, read, run
from tests.mailer.held import draining, held

HOUR = timedelta(hours=1)


def backlog(count: int, flow: str = "bulk", priority: int = PRIORITY["low"]) -> None:
    """Let so many messages of one flow have waited for an hour."""
    run(
        "WITH written AS (INSERT INTO mailer_message (id, kind, dedupe_key, correlation_id, locale, state, priority,"
        " flow, run_at, token, lease_owner, attempts, crashes, provider, context, secret, error_class)"
        " SELECT gen_random_uuid(), 'welcome', gen_random_uuid(), '', 'en', 'pending', %s, %s,"
        "  now() - interval '1 hour' + n * interval '1 ms', 0, '', 0, 0, '', '{}', false, ''"
        " FROM generate_series(1, %s) n RETURNING id, run_at)"
        " INSERT INTO mailer_deliverystatus (id, message_id, kind, recipient, recipient_canonical, provider,"
        "  esp_message_id, status, status_rank, status_at, status_key, open_count, click_count)"
        " SELECT id, id, 'welcome', %s || '@example.com', %s || '@example.com', '', '', 'queued', 10, run_at, '', 0, 0"
        " FROM written",
        *(priority, flow, count, flow, flow),
    )


def backlog_of_flows(count: int, due_in: str = "-1 hour", priority: int = PRIORITY["low"]) -> None:
    """Let one message of each of so many flows be due then."""
    run(
        "INSERT INTO mailer_message (id, kind, dedupe_key, correlation_id, locale, state, priority, flow, run_at,"
        " token, lease_owner, attempts, crashes, provider, context, secret, error_class)"
        " SELECT gen_random_uuid(), 'welcome', gen_random_uuid(), '', 'en', 'pending', %s, 'flow ' || n,"
        "  now() + %s::interval + n * interval '1 ms', 0, '', 0, 0, '', '{}', false, '' FROM generate_series(1, %s) n",
        *(priority, due_in, count),
    )


def flows(claims: list[outbox.Claimed]) -> list[str]:
    return [claim.message.flow for claim in claims]


# --- Priorities -----------------------------------------------------------------------------------------


def test_claim_goes_by_priority_then_by_time(db):
    for name in ("low", "now", "medium", "high"):
        backlog(2, name, PRIORITY[name])

    claimed = [flow for _ in range(8) for flow in flows(outbox.claim("worker", 1))]

    assert claimed == ["now", "now", "high", "high", "medium", "medium", "low", "low"]


def test_claim_for_the_urgent_lane_leaves_bulk(db):
    for name in PRIORITY:
        backlog(2, name, PRIORITY[name])

    claims = outbox.claim("worker", 100, Lane.URGENT)

    assert sorted(flows(claims)) == ["high", "high", "now", "now"]
    assert outbox.claim("worker", 100, Lane.URGENT) == []


@pytest.mark.parametrize(
    ("name", "lane"),
    [("now", Lane.URGENT), ("high", Lane.URGENT), ("medium", Lane.BULK), ("low", Lane.BULK)],
)
def test_lane_of_a_priority(name, lane):
    assert Lane.of(PRIORITY[name]) is lane


def test_mails_that_somebody_waits_for_are_urgent():
    urgent = {name for name, kind in KINDS.items() if Lane.of(kind.priority) is Lane.URGENT}

    assert urgent == {*KINDS} - {"welcome", "custom"}


# --- Slots ----------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_half_of_the_slots_stay_free_for_what_is_urgent(settings):
    settings.MAIL_CONCURRENCY = 8
    backlog(40)
    with held(settings, "resend") as provider, draining(provider):
        provider.wait_for(4)
        for number in range(6):
            enqueue(f"urgent-{number}@example.com", kind="account_exists")
        provider.wait_for(4, "urgent")

        assert (provider.count("bulk@"), provider.count()) == (4, 8)

    assert set(Message.objects.values_list("state", flat=True)) == {"sent"}


@pytest.mark.django_db(transaction=True)
def test_what_is_urgent_may_take_every_slot(settings):
    settings.MAIL_CONCURRENCY = 8
    settings.MAIL_BATCH_SIZE = 1
    backlog(20)
    for number in range(20):
        enqueue(f"urgent-{number}@example.com", kind="account_exists")
    with held(settings, "resend") as provider, draining(provider) as drain:
        provider.wait_for(8)
        drain.look()

        assert (provider.count("urgent-"), provider.count()) == (8, 8)


@pytest.mark.django_db(transaction=True)
def test_one_slot_is_for_whoever_comes(settings):
    settings.MAIL_CONCURRENCY = 1
    backlog(3)
    with held(settings, "resend") as provider, draining(provider) as drain:
        provider.wait_for(1)
        drain.look()

        assert provider.count() == 1

    assert ask("SELECT count(*) FROM mailer_message WHERE state = 'sent'") == 3


@pytest.mark.django_db(transaction=True)
def test_several_providers_share_the_slots_and_the_preferred_one_gets_all(settings):
    settings.MAIL_CONCURRENCY = 4
    backlog(20, "urgent", PRIORITY["now"])
    with held(settings, "resend", "postmark") as provider, draining(provider) as drain:
        provider.wait_for(4)
        drain.look()

        assert provider.count() == 4
    assert set(Message.objects.values_list("provider", flat=True)) == {"resend"}


@pytest.mark.django_db(transaction=True)
def test_a_provider_may_have_fewer_slots_of_its_own(settings):
    settings.MAIL_CONCURRENCY, settings.MAIL_CONCURRENCY_BY_PROVIDER = 8, {"resend": 3}
    backlog(20, "urgent", PRIORITY["now"])
    with held(settings, "resend") as provider, draining(provider) as drain:
        provider.wait_for(3)
        drain.look()

        assert provider.count() == 3


@pytest.mark.django_db(transaction=True)
def test_half_of_a_providers_own_slots_stay_free_for_what_is_urgent(settings):
    settings.MAIL_CONCURRENCY, settings.MAIL_CONCURRENCY_BY_PROVIDER = 32, {"resend": 4}
    backlog(40)
    with held(settings, "resend") as provider, draining(provider) as drain:
        provider.wait_for(2)
        drain.look()
        for number in range(3):
            enqueue(f"urgent-{number}@example.com", kind="account_exists")
        provider.wait_for(2, "urgent")
        drain.look()

        assert (provider.count("bulk@"), provider.count()) == (2, 4)

    assert set(Message.objects.values_list("state", flat=True)) == {"sent"}


@pytest.mark.django_db(transaction=True)
def test_what_cannot_travel_together_takes_no_more_than_half(settings):
    settings.MAIL_CONCURRENCY = 16
    backlog(60)
    # A repeat travels alone, also where the provider takes batches.
    Message.objects.update(attempts=1)
    with held(settings, "postmark") as provider, draining(provider) as drain:
        provider.wait_for(8)
        drain.look()
        enqueue("urgent@example.com", kind="account_exists")
        provider.wait_for(1, "urgent")

        assert provider.count("bulk@") == 8


# --- Flows ----------------------------------------------------------------------------------------------


def test_flows_of_one_priority_share_a_claim(db):
    backlog(5000, "newsletter")
    backlog(3, "invoices")

    claimed = flows(outbox.claim("worker", 8))

    assert (claimed.count("invoices"), claimed.count("newsletter")) == (3, 5)


def test_what_a_small_flow_leaves_goes_to_the_large_one(db):
    backlog(100, "newsletter")
    backlog(1, "invoices")

    claimed = flows(outbox.claim("worker", 8))

    assert (claimed.count("invoices"), claimed.count("newsletter")) == (1, 7)


@pytest.mark.parametrize("limit", [1, 7, 100, 101, 250])
def test_a_claim_is_exact_and_takes_nothing_twice(db, limit):
    backlog_of_flows(200)
    backlog(30, "newsletter")
    backlog(20, "urgent", PRIORITY["now"])

    claimed = [claim.message.pk for _ in range(-(-250 // limit)) for claim in outbox.claim("worker", limit)]

    assert len(claimed) == len(set(claimed)) == 250
    assert outbox.claim("worker", limit) == []


def test_more_flows_than_a_claim_looks_at_share_alike(db):
    backlog_of_flows(3 * turns.LEAPS)
    backlog(3000, "newsletter")

    claimed = flows([claim for _ in range(40) for claim in outbox.claim("worker", 5)])

    # Its fair share is less than one; that it had ten is one chance in many millions.
    assert len(claimed) == 200
    assert claimed.count("newsletter") < 10


def test_what_is_due_is_found_among_flows_that_are_not(db):
    backlog_of_flows(3 * turns.LEAPS, due_in="1 hour")
    backlog(3000, "newsletter")
    backlog(1, "invoices")

    claims = [outbox.claim("worker", 5) for _ in range(100)]

    assert {len(claim) for claim in claims} == {5}
    assert flows([one for claim in claims for one in claim]).count("invoices") == 1


def test_what_is_due_alone_is_found_at_once(db):
    backlog_of_flows(3 * turns.LEAPS, due_in="1 hour")
    backlog(1, "invoices")

    assert flows(outbox.claim("worker", 5)) == ["invoices"]


@pytest.mark.parametrize("start", [1 - 2**31, -1, 0, 2**31 - 1])
def test_flows_are_found_from_any_place_on(db, monkeypatch, start):
    monkeypatch.setattr(turns, "drawn", lambda limit: {"limit": limit, "leaps": 60, "start": start})
    backlog_of_flows(60)
    backlog(60, "newsletter")

    claimed = flows(outbox.claim("worker", 60))

    assert len(set(claimed)) == 60


@pytest.mark.django_db(transaction=True)
def test_claimants_at_once_share_what_is_due():
    backlog_of_flows(40)
    backlog(60, "newsletter")

    claimed = in_threads(5, lambda number: [each.message.pk for each in outbox.claim(f"worker-{number}", 20)])

    ids = [one for each in claimed for one in each]
    assert len(ids) == len(set(ids))
    # One may pass over what another has only looked at; that one finds it again.
    assert len(ids) + len(outbox.claim("worker", 100)) == 100


def test_more_flows_than_slots_take_turns(db):
    for number in range(6):
        backlog(50, f"flow-{number}")

    claimed = flows([claim for _ in range(60) for claim in outbox.claim("worker", 2)])

    assert len(claimed) == 120
    assert all(claimed.count(f"flow-{number}") > 0 for number in range(6))


def test_a_flow_does_not_borrow_from_a_greater_priority(db):
    backlog(6, "newsletter", PRIORITY["medium"])
    backlog(3, "invoices", PRIORITY["low"])

    assert set(flows(outbox.claim("worker", 6))) == {"newsletter"}


def test_drain_does_not_starve_three_by_five_thousand(db, simulator, settings):
    settings.MAIL_CONCURRENCY = 4
    backlog(5000, "newsletter")
    backlog(3, "invoices")

    sender.drain(looks(6))

    sent = [mail["to"][0] for mail in simulator.accepted()]
    assert sent.count("invoices@example.com") == 3
    assert sent.count("newsletter@example.com") >= 3


# --- Time -----------------------------------------------------------------------------------------------


def test_what_is_for_later_goes_then_by_the_databases_clock(db, simulator):
    message = enqueue(run_at=timezone.now() + HOUR)
    assert sender.drain() == 0

    run("UPDATE mailer_message SET run_at = now() + interval '1 microsecond'")
    assert sender.drain() == 0
    run("UPDATE mailer_message SET run_at = now()")

    assert sender.drain() == 1
    assert read(message).state == "sent"


def test_what_is_due_later_does_not_hold_up_its_flow(db):
    later = [enqueue(run_at=timezone.now() + HOUR) for _ in range(3)]
    due = enqueue()
    change(later[0], run_at=Now() - HOUR)

    assert {claim.message.pk for claim in outbox.claim("worker", 10)} == {later[0].pk, due.pk}


# --- Behind a backlog -----------------------------------------------------------------------------------


@pytest.fixture
def fresh(db):
    """Tables without the dead rows of other tests, whose number would decide on the plan."""
    run("TRUNCATE mailer_message CASCADE")


def buffers_of_a_claim(limit: int) -> int:
    """Return how many pages a claim touches; it is undone."""
    plans = []

    def explain(execute, sql, params, many, context):
        with context["connection"].connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", params)
            plans.append(cursor.fetchone()[0][0]["Plan"])
        return execute(sql, params, many, context)

    # The first one passes what dead rows of other tests have left in the indexes, and marks it for all that follow.
    for _ in range(2):
        plans.clear()
        with transaction.atomic():
            with connection.execute_wrapper(explain):
                outbox.claim("worker", limit)
            transaction.set_rollback(True)
    (plan,) = plans
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.mark.parametrize("due_in", ["-1 hour", "1 hour"])
def test_a_claim_among_a_hundred_thousand_flows_touches_little_more_than_among_a_thousand(fresh, due_in):
    backlog(100)
    backlog_of_flows(1000, due_in)
    run("ANALYZE mailer_message")
    few = buffers_of_a_claim(8)
    backlog_of_flows(100_000, due_in)
    run("ANALYZE mailer_message")

    assert buffers_of_a_claim(8) < 1.6 * few


def test_a_claim_touches_no_more_where_the_statistics_say_that_nothing_waits(fresh):
    backlog_of_flows(20_000)
    run("UPDATE mailer_message SET state = 'sent'")
    run("ANALYZE mailer_message")
    backlog_of_flows(20_000)
    backlog(20_000)

    # Through all that is due, once for each leap, it would be millions.
    assert buffers_of_a_claim(8) < 5000


def test_a_claim_from_a_hundred_thousand_touches_little_more_than_from_a_thousand(fresh, simulator):
    backlog(1000)
    run("ANALYZE mailer_message, mailer_deliverystatus, mailer_attempt")
    few = buffers_of_a_claim(8)
    backlog(99_000)
    run("ANALYZE mailer_message, mailer_deliverystatus, mailer_attempt")

    many = buffers_of_a_claim(8)

    # Some indexes have grown by a level, which each way through them goes down.
    assert many < 1.6 * few
    fresh = enqueue(kind="account_exists")
    (claim,) = outbox.claim("worker", 1)
    assert claim.message.pk == fresh.pk
