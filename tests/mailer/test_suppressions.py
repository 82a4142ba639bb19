"""Addresses we do not mail, and what becomes of the messages to them: a status that everyone can see, never nothing."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from mailer import routing, sender
from mailer.kinds import KINDS
from mailer.models import DeliveryEvent, Message, Suppression
from mailer.suppressions import release, standing, suppress
from tests.conftest import in_threads
from tests.mailer.conftest import delivery_of, enqueue, looks, make_due, open_delivery, read
from users import challenges
from users.models import EmailChallenge, User

Reason = Suppression.Reason
ADA = "ada@example.com"
HOUR = timedelta(hours=1)


def statuses_of(message: Message) -> dict[str, str]:
    return dict(message.deliveries.values_list("recipient", "status"))


# --- Who is suppressed ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("Ada@Example.COM", ADA),
        ("ada@BÜCHER.example", "ada@xn--bcher-kva.example"),
        ("ada@xn--bcher-kva.example", "ada@xn--bcher-kva.example"),
        ("no address at all", "no address at all"),
    ],
)
def test_suppress_knows_an_address_in_any_spelling(db, written, canonical):
    suppress(written, Reason.MANUAL, source="operator")

    assert standing([canonical]) == {canonical: {"manual"}}


def test_suppress_keeps_who_said_so_and_why(db):
    assert suppress(ADA, Reason.HARD_BOUNCE, source="postmark", detail="550 no such user") is True

    row = Suppression.objects.get()
    assert (row.reason, row.source, row.detail, row.released_at) == (
        "hard_bounce",
        "postmark",
        "550 no such user",
        None,
    )


def test_suppress_once_for_each_reason(db):
    assert [suppress(ADA, reason, source="x") for reason in ("complaint", "complaint", "manual")] == [True, False, True]

    assert standing([ADA, "eve@example.com"]) == {ADA: {"complaint", "manual"}}
    assert Suppression.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_suppress_by_many_at_once_is_new_once():
    told = in_threads(6, lambda _: suppress(ADA, Reason.COMPLAINT, source="postmark"))

    assert sorted(told) == [False] * 5 + [True]
    assert Suppression.objects.count() == 1


@pytest.mark.parametrize(
    ("first", "second", "last"),
    [(1, 2, 2), (2, 1, 2), (1, None, None), (None, 1, None), (None, None, None)],
)
def test_suppress_puts_an_end_off_and_never_brings_it_forward(db, first, second, last):
    now = timezone.now()
    ends = {None: None, 1: now + HOUR, 2: now + 2 * HOUR}

    for end in (first, second):
        suppress(ADA, Reason.SOFT_BOUNCES, source="postmark", expires_at=ends[end])

    assert Suppression.objects.get().expires_at == ends[last]


def test_a_suppression_ends_by_itself(db):
    suppress(ADA, Reason.SOFT_BOUNCES, source="postmark", expires_at=timezone.now() + HOUR)
    assert standing([ADA]) == {ADA: {"soft_bounces"}}

    Suppression.objects.update(expires_at=Now() - timedelta(seconds=1))

    assert standing([ADA]) == {}


def test_an_end_of_one_reason_is_not_the_end_of_another(db):
    suppress(ADA, Reason.SOFT_BOUNCES, source="postmark", expires_at=timezone.now() - HOUR)
    suppress(ADA, Reason.COMPLAINT, source="postmark")

    assert standing([ADA]) == {ADA: {"complaint"}}


def test_suppress_again_after_it_had_ended(db):
    suppress(ADA, Reason.SOFT_BOUNCES, source="postmark", expires_at=timezone.now() - HOUR)

    assert suppress(ADA, Reason.SOFT_BOUNCES, source="resend", expires_at=timezone.now() + HOUR)

    assert standing([ADA]) == {ADA: {"soft_bounces"}}
    assert [*Suppression.objects.order_by("created_at").values_list("source", "released_by")] == [
        ("postmark", "expiry"),
        ("resend", ""),
    ]


def test_release_ends_every_reason_and_keeps_the_record(db):
    suppress(ADA, Reason.COMPLAINT, source="postmark")
    suppress(ADA, Reason.MANUAL, source="operator")
    suppress("eve@example.com", Reason.MANUAL, source="operator")

    assert release("ADA@example.com", by="grace") == 2

    assert standing([ADA, "eve@example.com"]) == {"eve@example.com": {"manual"}}
    assert set(Suppression.objects.filter(address=ADA).values_list("released_by", flat=True)) == {"grace"}
    assert release(ADA, by="grace") == 0


def test_release_of_some_reasons_only(db):
    suppress(ADA, Reason.COMPLAINT, source="postmark")
    suppress(ADA, Reason.HARD_BOUNCE, source="postmark")

    assert release(ADA, by="grace", reasons=[Reason.HARD_BOUNCE]) == 1

    assert standing([ADA]) == {ADA: {"complaint"}}


def test_suppress_again_after_a_release_is_new(db):
    suppress(ADA, Reason.MANUAL, source="operator")
    release(ADA, by="grace")

    assert suppress(ADA, Reason.MANUAL, source="operator") is True

    assert Suppression.objects.count() == 2


def test_neither_is_logged_with_the_address(db, caplog):
    suppress(ADA, Reason.MANUAL, source="operator", detail=ADA)
    release(ADA, by="grace")

    events = [record.msg["event"] for record in caplog.records if isinstance(record.msg, dict)]
    assert events == ["address_suppressed", "address_released"]
    assert ADA not in caplog.text


# --- What becomes of a message --------------------------------------------------------------------------


def test_a_message_suppressed_after_it_was_enqueued_is_seen_to_be(db, simulator):
    message = enqueue("Ada@Example.com")
    suppress(ADA, Reason.HARD_BOUNCE, source="postmark")

    sender.drain()

    row, delivery = read(message), delivery_of(message)
    assert (row.state, row.error_class, row.finished_at is None) == ("suppressed", "suppressed", False)
    assert delivery.status == "suppressed"
    event = DeliveryEvent.objects.get(event_type="suppressed")
    assert (event.delivery_id, event.effect, event.detail) == (delivery.pk, "changed", "hard_bounce")
    assert simulator.requests() == []


def test_a_suppressed_message_is_not_claimed_again(db, simulator):
    message = enqueue()
    suppress(ADA, Reason.MANUAL, source="operator")
    sender.drain()

    release(ADA, by="grace")

    assert sender.drain() == 0
    assert read(message).state == "suppressed"


def test_a_suppressed_secret_is_erased(db, simulator):
    message = enqueue(kind="account_exists", secret=True, content={"subject": "s"})
    suppress(ADA, Reason.MANUAL, source="operator")

    sender.drain()

    assert (read(message).state, read(message).content) == ("suppressed", None)


def test_a_suppression_that_has_ended_holds_nothing_back(db, simulator):
    suppress(ADA, Reason.SOFT_BOUNCES, source="postmark", expires_at=timezone.now() - HOUR)
    message = enqueue()

    sender.drain()

    assert read(message).state == "sent"


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("kind", ["verification", "account_exists", "welcome"])
def test_kinds_of_an_accounts_safety_go_despite_what_was_not_wanted(db, simulator, kind, reason):
    challenge = challenges.issue(User.objects.create_user(ADA), EmailChallenge.Purpose.VERIFY_EMAIL)
    Message.objects.all().delete()  # what registration itself has asked for
    suppress(ADA, reason, source="postmark")
    message = enqueue(kind=kind, context={"challenge_id": str(challenge.pk)})
    goes = kind != "welcome" and reason in {Reason.COMPLAINT, Reason.UNSUBSCRIBE}

    sender.drain()

    assert read(message).state == ("sent" if goes else "suppressed")
    assert len(simulator.accepted(message.pk)) == goes


def test_one_reason_that_is_overridden_does_not_override_another(db, simulator):
    suppress(ADA, Reason.COMPLAINT, source="postmark")
    suppress(ADA, Reason.HARD_BOUNCE, source="postmark")
    message = enqueue(kind="account_exists")

    sender.drain()

    assert DeliveryEvent.objects.get(delivery__message=message, event_type="suppressed").detail == "hard_bounce"


def test_a_kind_overrides_reasons_that_exist():
    assert all(kind.despite <= set(Reason.values) for kind in KINDS.values())
    assert not any(Reason.HARD_BOUNCE in kind.despite for kind in KINDS.values())


def test_what_is_not_about_an_accounts_safety_overrides_nothing():
    assert {name for name, kind in KINDS.items() if not kind.despite} == {"welcome", "custom", "test"}


def test_of_two_recipients_the_other_still_gets_it(db, simulator):
    message = enqueue(ADA)
    open_delivery(message, "eve@example.com")
    suppress("EVE@example.com", Reason.UNSUBSCRIBE, source="postmark")

    sender.drain()

    (mail,) = simulator.accepted()
    assert mail["to"] == [ADA]
    assert statuses_of(message) == {ADA: "sent", "eve@example.com": "suppressed"}
    assert read(message).state == "sent"


def test_who_was_left_out_stays_left_out_of_a_retry(db, simulator):
    message = enqueue(ADA)
    open_delivery(message, "eve@example.com")
    suppress("eve@example.com", Reason.UNSUBSCRIBE, source="postmark")
    simulator.faults(rate_5xx_after=1)
    sender.drain()
    simulator.faults()
    release("eve@example.com", by="grace")
    make_due()

    sender.drain()

    assert [mail["to"] for mail in simulator.accepted()] == [[ADA]]
    assert statuses_of(message) == {ADA: "sent", "eve@example.com": "suppressed"}


def test_what_may_have_been_accepted_is_repeated_as_it_was(db, simulator):
    simulator.faults(rate_5xx_after=1)
    message = enqueue()
    sender.drain()
    simulator.faults()
    suppress(ADA, Reason.COMPLAINT, source="resend")
    make_due()

    sender.drain()

    assert (read(message).state, delivery_of(message).status) == ("sent", "sent")
    assert len(simulator.accepted()) == 1


def test_suppressed_between_two_attempts_of_which_none_was_sent(db, simulator):
    simulator.faults(rate_429=1)
    message = enqueue()
    sender.drain(looks(1))
    simulator.faults()
    suppress(ADA, Reason.COMPLAINT, source="resend")
    make_due()

    sender.drain()

    assert (read(message).state, delivery_of(message).status) == ("suppressed", "suppressed")
    assert simulator.accepted() == []


def test_suppressed_is_told_although_its_provider_is_left_alone(db, simulator):
    message = enqueue(context={"providers": ["postmark"]})
    open_delivery(message, "eve@example.com")
    suppress("eve@example.com", Reason.MANUAL, source="operator")
    routing.throttled("postmark", 60)

    sender.drain()

    assert statuses_of(message) == {ADA: "queued", "eve@example.com": "suppressed"}
    assert read(message).state == "retry"
