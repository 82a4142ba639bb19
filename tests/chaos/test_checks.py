"""Each check can fail: rows and evidence that hold, then one of them corrupted as a bug would."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from django.db import connection
from django.db.models.functions import Now

from mailer import ledger, outbox
from mailer.ledger import own_fact
from mailer.models import Attempt, Batch, DeliveryEvent, DeliveryStatus, Message
from mailer.outbox import Outcome
from mailer.verdicts import Verdict
from tests.chaos import checks, evidence
from tests.chaos.__main__ import Plan, parse, plan_of, summary, verdict
from tests.chaos.checks import CHECKS
from tests.mailer.conftest import enqueue, fact, intend_one, open_delivery
from users.models import User

ADDRESS: Final = "delivered+1@example.org"
MAIL: Final = "mail-1"


@dataclass
class World:
    """One registration whose mail was sent through a provider and delivered, and what the provider knows of it."""

    message: Message
    delivery: DeliveryStatus
    provider: str
    accepted: list[dict[str, Any]] = field(default_factory=list)
    requested: list[dict[str, Any]] = field(default_factory=list)
    hooks: list[dict[str, Any]] = field(default_factory=list)
    promised: list[str] = field(default_factory=list)

    def request(self) -> None:
        self.requested.append(
            {"seq": len(self.requested), "provider": self.provider, "message_id": str(self.message.pk)}
        )

    def accept(self) -> None:
        """Have the provider accept the message, once more."""
        self.accepted.append(
            {
                "id": f"mail-{len(self.accepted) + 1}",
                "provider": self.provider,
                "metadata": {"message_id": str(self.message.pk)},
                "to": [ADDRESS],
            }
        )

    def hook(self, state: str = "delivered") -> None:
        """Have the provider post one more webhook about the mail."""
        body = {"data": {"email_id": MAIL}}
        self.hooks.append({"seq": len(self.hooks), "provider": "resend", "body": body, "state": state})

    def judge(self) -> tuple[set[str], dict[str, int]]:
        """Return the names of the checks that complain, and the figures."""
        connection.ensure_connection()
        sql = connection.connection
        evidence.gather(sql, accepted=self.accepted, requested=self.requested, hooks=self.hooks, promised=self.promised)
        found = checks.violations(sql)
        return {violation.check for violation in found}, checks.figures(sql, found)


def delivered(message: Message, provider: str = "resend") -> World:
    """Send a message and have it delivered, as the engine records it."""
    claim = intend_one(message, provider)
    [recipient] = claim.recipients
    sent = own_fact("sent", recipient.delivery_id, 1, provider=provider, esp_message_id=MAIL)
    outbox.settle([Outcome(message.pk, claim.message.token, "sent", Verdict.ACCEPTED, facts=(sent,))])
    ledger.record([fact("delivered", provider=provider, esp_message_id=MAIL, recipient_canonical=ADDRESS)])
    world = World(message, DeliveryStatus.objects.get(message=message), provider, promised=[ADDRESS])
    world.request()
    world.accept()
    if provider == "resend":
        world.hook()
    return world


@pytest.fixture
def world(db) -> World:
    User(email=ADDRESS, password="!").save()
    return delivered(Message.objects.get())


def second_message(world: World) -> None:
    open_delivery(enqueue(kind="verification", recipient="other@example.org"), ADDRESS)


def failover(world: World) -> None:
    Attempt.objects.update(outcome="ambiguous")
    Attempt.objects.create(message=world.message, token=world.message.token + 2, provider="postmark")


def second_event(world: World) -> None:
    ledger.record([fact("delivered", provider="resend", esp_message_id=MAIL, recipient_canonical=ADDRESS)])


def change(**fields: Any) -> Callable[[World], None]:
    """Return what changes a message's row past the engine."""
    return lambda world: assert_one(Message.objects.filter(pk=world.message.pk).update(**fields))


def assert_one(count: int) -> None:
    assert count == 1


# What a bug would do -> by the name of the check that finds it.
CORRUPTIONS: Final[dict[str, Callable[[World], Any]]] = {
    "answered_has_a_message": lambda world: world.promised.append("lost@example.org"),
    "answered_has_one_message": second_message,
    "user_has_a_message": change(user=None),
    "message_is_accepted": lambda world: world.accepted.clear(),
    "accepted_as_promised": World.accept,
    "sent_was_accepted": lambda world: world.accepted.clear(),
    "status_speaks_of_acceptance": lambda world: world.accepted.clear(),
    "request_has_an_intent": World.request,
    "batch_is_settled": lambda world: Batch.objects.create(
        provider="resend", body="[]", message_ids=[world.message.pk], repeat_at=Now()
    ),
    "acceptance_has_an_intent": lambda _: Attempt.objects.all().delete(),
    "no_failover_after_doubt": failover,
    "event_is_stored": World.hook,
    "event_is_stored_once": second_event,
    "event_is_delivered": lambda world: world.hook("failed"),
    "event_is_matched": lambda _: DeliveryEvent.objects.filter(source="webhook").update(delivery=None),
    "nothing_is_late": change(state="retry"),
    "finished_has_a_time": change(finished_at=None),
    "secret_is_erased": change(content={"text": "a link"}),
    "token_is_an_attempt": change(token=0),
    "status_is_the_fold": lambda world: DeliveryStatus.objects.filter(pk=world.delivery.pk).update(status="sent"),
}


def test_violations_none_where_all_holds(world):
    found, figures = world.judge()

    assert not found
    assert figures == {
        "messages": 1,
        "events": 1,
        "ambiguous": 0,
        "duplicates_unavoidable": 0,
        "lost": 0,
        "duplicates_avoidable": 0,
        "unconverged": 0,
        "broken": 0,
    }


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_violations_names_what_is_corrupted(world, name):
    CORRUPTIONS[name](world)

    found, _ = world.judge()

    assert name in found


def test_every_check_is_seen_to_fail():
    assert {check.name for check in CHECKS} | {"status_is_the_fold"} == CORRUPTIONS.keys()


# What an answer told before its webhook came, that one leaves no second event of; the answer to a search tells of none.
@pytest.mark.parametrize(("event_type", "found"), [("delivered", set()), ("sent", {"event_is_stored"})])
def test_an_event_may_have_been_told_before_its_webhook(world, event_type, found):
    events = DeliveryEvent.objects.filter(source="webhook")
    assert_one(events.update(source="poll", event_type=event_type))

    assert world.judge()[0] == found


def test_violations_counts_what_is_lost(world):
    world.accepted.clear()

    assert world.judge()[1]["lost"] == 1


# What a message's kind and its provider promise where the provider accepted it twice, in doubt once or never.
@pytest.mark.parametrize(
    ("kind", "provider", "doubted", "avoidable"),
    [
        ("account_exists", "sendgrid", True, 0),
        ("account_exists", "sendgrid", False, 1),
        ("welcome", "sendgrid", True, 1),
        ("account_exists", "resend", True, 1),
        ("account_exists", "postmark", True, 1),
    ],
)
def test_a_second_acceptance_is_judged_by_the_promise(db, kind, provider, doubted, avoidable):
    world = delivered(enqueue(ADDRESS, kind=kind), provider)
    world.promised.clear()
    world.request()
    world.accept()
    again = Attempt.objects.create(message=world.message, token=world.message.token + 2, provider=provider)
    Message.objects.update(token=again.token)
    if doubted:
        Attempt.objects.filter(pk=again.pk).update(outcome="ambiguous")
    else:
        Attempt.objects.filter(pk=again.pk).update(outcome="not_sent")

    figures = world.judge()[1]

    assert (figures["duplicates_avoidable"], figures["duplicates_unavoidable"]) == (avoidable, 1 - avoidable)


@pytest.mark.parametrize(
    ("kind", "provider", "lost"),
    [("welcome", "sendgrid", 0), ("account_exists", "sendgrid", 1), ("welcome", "resend", 1)],
)
def test_a_message_left_in_doubt_is_lost_unless_nobody_may_repeat_it(db, kind, provider, lost):
    world = World(enqueue(ADDRESS, kind=kind), DeliveryStatus.objects.get(), provider)
    intend_one(world.message, provider)
    Message.objects.update(state="unknown", lease_until=None, first_ambiguous_at=Now())

    assert world.judge()[1]["lost"] == lost


def test_summary_has_the_fields_of_the_proof():
    storm = {"kills": 3, "registrations": 5, "lost": 1, "recovery_s": 2.5, "violations": ["x"]}

    said = summary(plan(), {"points": {"crash_points": 7, "lost": 1}, "storm": storm, "baseline": {"lost": 4}})

    assert list(said) == [
        *("kills", "crash_points", "registrations", "messages", "events", "lost", "duplicates_avoidable"),
        *("duplicates_unavoidable", "ambiguous", "unconverged", "deadlocks", "recovery_s", "seed", "baseline"),
    ]
    assert (said["lost"], said["crash_points"], said["kills"], said["seed"]) == (2, 7, 3, 1)


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ({"storm": {"violations": ["sent_was_accepted: 1"]}}, "sent_was_accepted"),
        ({"points": {"deadlocks": 1}}, "deadlocks"),
        ({"baseline": {"lost": 0, "duplicates": 0, "stuck": 9}}, "void"),
    ],
)
def test_verdict_speaks_against_a_run(parts, word):
    [text] = verdict(parts)

    assert word in text


def test_verdict_has_nothing_against_a_good_run():
    assert verdict({"points": {}, "storm": {"violations": []}, "baseline": {"lost": 1, "duplicates": 0}}) == []


def plan() -> Plan:
    return plan_of(parse(["--seed", "1"]))
