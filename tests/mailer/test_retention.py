"""What is forgotten by age and by address, and what never is."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from mailer import backends, ledger, operators, outbox, retention, sender, sweeping
from mailer.ledger import own_fact
from mailer.models import Attempt, DeliveryEvent, DeliveryStatus, Message, Suppression
from tests.conftest import in_threads
from tests.mailer.conftest import (
    change,
    claim_one,
    delivery_of,
    draft,
    enqueue,
    fact,
    intend_one,
    new_delivery,
    open_delivery,
    read,
)
from users import challenges
from users.models import EmailChallenge

State = Message.State
DAY = timedelta(days=1)
BODY = {"subject": "Dear Ada", "text": "t", "html": "h", "from_email": "f"}
UNSENT = sorted({*State} - {*retention.ENDED} - {State.UNKNOWN})


@pytest.fixture
def ages(settings) -> None:
    settings.MAIL_BODY_DAYS, settings.MAIL_HISTORY_DAYS = 30, 400


pytestmark = pytest.mark.usefixtures("ages")


def aged(state: str, days: float, **fields: Any) -> Message:
    """Write a message with a body that ended, or was written, so many days ago."""
    message = enqueue(context={"name": "Ada"}, content=BODY)
    ended = {"finished_at": Now() - days * DAY} if state in retention.ENDED else {}
    change(message, state=state, created_at=Now() - days * DAY, **{**ended, **fields})
    return read(message)


def cleanup(**chosen: Any) -> dict[str, int]:
    """Clean up; return what was taken, without the zeros."""
    taken = retention.cleanup(retention.rules(**chosen))
    return {name: count for name, count in taken.items() if count}


# --- By age -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", sorted(retention.ENDED))
def test_a_body_goes_some_days_after_the_end(db, state):
    young, old = aged(state, 29), aged(state, 31)

    assert cleanup() == {"bodies": 1}

    assert (read(young).content, read(young).context) == (BODY, {"name": "Ada"})
    assert (read(old).content, read(old).context) == (None, {})
    assert read(old).state == state
    assert cleanup() == {}


def test_what_a_body_was_made_of_goes_also_where_it_was_never_made(db):
    message = aged("expired", 31, content=None)

    assert cleanup() == {"bodies": 1}

    assert read(message).context == {}
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM mailer_message WHERE content IS NULL")
        assert cursor.fetchone() == (1,)


@pytest.mark.parametrize("state", sorted(retention.ENDED))
def test_a_history_goes_some_days_after_the_end(db, state):
    young, old = aged(state, 399), aged(state, 401)
    kept = aged("sent", 1)
    Attempt.objects.create(message=old, token=1, provider="resend")

    assert cleanup() == {"bodies": 2, "messages": 1}

    assert set(Message.objects.all()) == {young, kept}
    assert {delivery.message_id for delivery in DeliveryStatus.objects.all()} == {young.pk, kept.pk}
    assert {event.delivery.message_id for event in DeliveryEvent.objects.all()} == {young.pk, kept.pk}
    assert not Attempt.objects.exists()


@pytest.mark.parametrize("state", UNSENT)
def test_mail_that_may_still_be_sent_is_never_touched(db, state):
    message = aged(state, 4000)
    before = Message.objects.filter(pk=message.pk).values().get()

    assert cleanup(body_days=0, history_days=0) == {}

    assert Message.objects.filter(pk=message.pk).values().get() == before
    assert delivery_of(message).events.count() == 1


def test_mail_in_doubt_ages_from_its_beginning(db):
    young, old, oldest = aged("unknown", 29), aged("unknown", 31), aged("unknown", 401)

    assert cleanup() == {"bodies in doubt": 2, "messages in doubt": 1}

    assert read(young).content == BODY
    assert read(old).content is None
    assert not Message.objects.filter(pk=oldest.pk).exists()


def test_a_secret_in_doubt_goes_once_its_link_is_dead(db):
    alive = aged("unknown", 1, secret=True, expires_at=Now() + DAY)
    dead = aged("unknown", 1, secret=True, expires_at=Now() - DAY)
    no_secret = aged("unknown", 1, expires_at=Now() - DAY)

    assert cleanup() == {"secrets": 1}

    assert [read(message).content for message in (alive, dead, no_secret)] == [BODY, None, BODY]


def test_cleanup_of_some_states_and_other_days(db):
    sent, dead = aged("sent", 10), aged("dead", 10)

    assert cleanup(states=["dead"], body_days=5, history_days=5) == {"bodies": 1, "messages": 1}

    assert read(sent).content == BODY
    assert not Message.objects.filter(pk=dead.pk).exists()


def test_what_was_withheld_goes_after_two_days(db):
    def withheld(days: float) -> Message:
        message = outbox.enqueue("password_reset", "", dedupe_key=f"withheld:{days}", withheld=True)
        assert message is not None
        change(message, finished_at=Now() - days * DAY)
        return message

    young, old, cancelled = withheld(1), withheld(3), aged("cancelled", 3)

    assert cleanup() == {"withheld": 1}
    assert [*Message.objects.order_by("pk")] == [young, cancelled]
    assert not Message.objects.filter(pk=old.pk).exists()


def test_challenges_go_two_days_after_they_and_what_renews_them_are_over(db):
    def over(days: float, renews: EmailChallenge | None = None) -> EmailChallenge:
        challenge = challenges.issue(None, EmailChallenge.Purpose.VERIFY_EMAIL, email="a@example.com", renews=renews)
        EmailChallenge.objects.filter(pk=challenge.pk).update(expires_at=Now() - days * DAY)
        return challenge

    young, old, renewed = over(1), over(3), over(3)
    kept = over(1, renews=renewed)

    assert cleanup(states=["dead"]) == {}
    assert cleanup() == {"challenges": 1}
    assert {*EmailChallenge.objects.all()} == {young, renewed, kept}
    assert not EmailChallenge.objects.filter(pk=old.pk).exists()
    EmailChallenge.objects.update(expires_at=Now() - 3 * DAY)
    assert cleanup() == {"challenges": 3}


def test_count_tells_states_apart_and_changes_nothing(db):
    aged("sent", 31), aged("sent", 31), aged("dead", 401)

    counts = {rule.name: rule.count() for rule in retention.rules()}

    assert counts["bodies"] == {"sent": 2, "dead": 1}
    assert counts["messages"] == {"dead": 1}
    assert Message.objects.exclude(content=None).count() == 3


def test_cleanup_goes_batch_by_batch_and_stops_when_told_to(db, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 2)
    for _ in range(5):
        aged("sent", 31)
    seen: list[int] = []

    taken = retention.cleanup(retention.rules(), keep_on=lambda: len(seen) < 2, seen=seen.append)

    assert (taken["bodies"], seen) == (4, [2, 2])
    assert cleanup() == {"bodies": 1}


@pytest.mark.django_db(transaction=True)
def test_cleanup_by_many_at_once_takes_each_row_once(monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 3)
    for _ in range(30):
        aged("sent", 401)

    taken = in_threads(4, lambda _: cleanup())

    assert sum(each.get("messages", 0) for each in taken) == 30
    assert not Message.objects.exists()
    assert not DeliveryStatus.objects.exists()
    assert not DeliveryEvent.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_cleanup_leaves_what_somebody_holds_for_the_next_time():
    held, free = aged("sent", 401), aged("sent", 401)

    with transaction.atomic():
        Message.objects.select_for_update().get(pk=held.pk)
        in_threads(1, lambda _: cleanup())
        assert list(Message.objects.all()) == [held]
    assert cleanup()["messages"] == 1
    assert not Message.objects.filter(pk=free.pk).exists()


@pytest.mark.parametrize("state", ["sent", "unknown"])
@pytest.mark.parametrize("source", retention.REPORTED)
def test_a_message_stays_while_what_was_reported_of_it_may_come_again(db, settings, state, source):
    settings.WEBHOOK_KEY_DAYS = 37
    quiet, told_late = aged(state, 4000), aged(state, 4000)
    for message, days in ((quiet, 38), (told_late, 36)):
        report = fact("opened", message, source=source, delivery_id=delivery_of(message).pk)
        ledger.record([report])
        DeliveryEvent.objects.filter(dedupe_key=report.dedupe_key).update(recorded_at=Now() - days * DAY)

    cleanup()

    assert set(Message.objects.all()) == {told_late}
    assert delivery_of(told_late).open_count == 1


def test_our_own_words_keep_no_message(db):
    message = aged("sent", 401)
    ledger.record([fact("opened", message, source=ledger.Source.SENDER, delivery_id=delivery_of(message).pk)])

    assert cleanup()["messages"] == 1


@pytest.mark.django_db(transaction=True)
def test_reports_that_come_as_a_message_goes_keep_it_or_are_parked():
    """No key of a report is lost, and nothing deadlocks."""
    messages = [aged("sent", 401, content=None, context={}) for _ in range(40)]
    names = [
        {"message_id": message.pk, "recipient_canonical": "ada@example.com", "esp_message_id": str(message.pk)}
        for message in messages
    ]

    def work(number: int) -> int:
        if not number:
            return cleanup().get("messages", 0)
        reports = [fact("opened", f"{number} {name['message_id']}", provider="resend", **name) for name in names]
        return sum(len(ledger.record(reports[start : start + 5])) for start in range(0, 40, 5))

    _, *recorded = in_threads(3, work)

    assert recorded == [40, 40]
    reports = DeliveryEvent.objects.filter(event_type="opened")
    assert reports.count() == 80
    kept = set(Message.objects.values_list("pk", flat=True))
    assert {event.delivery.message_id for event in reports.exclude(delivery=None)} == kept
    assert cleanup() == {}


# --- By address ---------------------------------------------------------------------------------------

ADA, BOB = "ada@example.com", "bob@example.com"
ADAS_NAME = r"\mada\M"  # as a word: identifiers in hex may hold these letters


def shared(**fields: Any) -> Message:
    """Write a message to two people."""
    message = enqueue(ADA, content=BODY)
    open_delivery(message, BOB)
    if fields:
        change(message, **fields)
    return read(message)


def to(message: Message, recipient: str) -> DeliveryStatus:
    return message.deliveries.get(recipient=recipient)


def written_anywhere(pattern: str) -> set[str]:
    """Return the tables of `mailer` where any column of any row matches a regular expression of PostgreSQL's."""
    tables = [model._meta.db_table for model in (Message, Attempt, DeliveryStatus, DeliveryEvent, Suppression)]
    found = set()
    with connection.cursor() as cursor:
        for table in tables:
            cursor.execute(f"SELECT count(*) FROM {table} t WHERE t::text ~* %s", [pattern])
            if cursor.fetchone() != (0,):
                found.add(table)
    return found


def test_erase_leaves_no_trace_and_the_statistics(db):
    sent = aged("sent", 1, provider="resend")
    delivery = delivery_of(sent)
    refusal = "550 <ada@example.com>: no such user"
    ledger.record(
        [
            fact("sent", delivery_id=delivery.pk, recipient_canonical=ADA),
            fact("bounced", delivery_id=delivery.pk, recipient_canonical=ADA, detail=refusal, reject_reason="bounced"),
            fact("opened", provider="resend", esp_message_id="parked", recipient_canonical=ADA),
        ]
    )
    Suppression.objects.create(address=ADA, reason="hard_bounce", source="resend", detail=refusal)
    kept = enqueue(BOB)

    erased = retention.erase(" Ada@EXAMPLE.com ")

    assert written_anywhere(ADAS_NAME) == set()
    assert erased == retention.Erased(deliveries=1, events=3, bodies=1, suppressions=1)
    row = DeliveryStatus.objects.get(pk=delivery.pk)
    assert (row.status, row.kind, row.provider, row.recipient) == ("bounced", "welcome", "", "")
    assert row.events.get(event_type="bounced").reject_reason == "bounced"
    assert read(sent).state == "sent"
    assert delivery_of(kept).recipient == BOB
    assert retention.erase(ADA) == retention.Erased()


@pytest.mark.parametrize(
    ("state", "status"), [("pending", "cancelled"), ("retry", "cancelled"), ("unknown", "unknown")]
)
def test_erase_cancels_what_may_still_be_sent(db, simulator, state, status):
    message = enqueue(ADA, content=BODY)
    change(message, state=state)

    assert retention.erase(ADA).cancelled == 1

    assert (read(message).state, read(message).content) == ("cancelled", None)
    assert delivery_of(message).status == status
    assert sender.drain() == 0
    assert operators.retry([message.pk]) == []
    assert simulator.accepted() == []


def test_erase_leaves_what_a_worker_has_and_says_so(db, simulator):
    leased, sending = enqueue(ADA), enqueue(ADA)
    claim_one(leased)
    change(sending, state="pending")
    intend_one(sending)

    assert retention.erase(ADA) == retention.Erased(under_way=2)

    assert {read(message).state for message in (leased, sending)} == {"leased", "sending"}
    Message.objects.update(lease_until=Now() - DAY)
    sweeping.sweep()
    sender.drain()
    erased = retention.erase(ADA)
    assert (erased.deliveries, erased.bodies, erased.under_way) == (2, 2, 0)
    assert written_anywhere(ADAS_NAME) == set()


@pytest.mark.parametrize(("doubted", "status"), [({}, "cancelled"), ({"first_ambiguous_at": Now()}, "unknown")])
def test_erase_lets_a_message_go_to_the_others(db, simulator, doubted, status):
    message = shared(state="retry", **doubted)
    own = to(message, ADA)

    assert retention.erase(ADA) == retention.Erased(deliveries=1)

    own.refresh_from_db()
    assert (own.recipient, own.status) == ("", status)
    assert read(message).content == BODY
    (claimed,) = outbox.claim("worker", 10)
    assert [recipient.address for recipient in claimed.recipients] == [BOB]


def test_erase_takes_a_person_from_the_recipients_of_a_mail_that_waits(db, simulator):
    backends.queue(draft(f"Ada <{ADA}>", BOB, cc=["ADA@example.com"], subject="For both"))

    assert retention.erase(ADA).deliveries == 1
    assert written_anywhere(ADAS_NAME) == set()
    sender.drain()

    (mail,) = simulator.accepted()
    assert (mail["to"], mail["subject"]) == ([BOB], "For both")


def test_erase_the_last_recipient_cancels_the_message(db):
    message = shared()

    assert retention.erase(ADA).cancelled == 0
    assert retention.erase(BOB).cancelled == 1

    assert (read(message).state, read(message).content) == ("cancelled", None)


def test_erase_takes_the_body_of_what_was_sent_to_several(db):
    message = shared(state="sent", finished_at=Now())

    assert retention.erase(ADA) == retention.Erased(deliveries=1, bodies=1)

    assert read(message).content is None
    assert to(message, BOB).recipient_canonical == BOB


def test_erase_goes_batch_by_batch(db, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 2)
    for _ in range(5):
        aged("sent", 1)
    ledger.record([fact("opened", recipient_canonical=ADA) for _ in range(3)])
    seen: list[int] = []

    assert retention.erase(ADA, seen=seen.append) == retention.Erased(deliveries=5, events=3, bodies=5)

    assert seen == [2, 2, 1]


def test_erase_what_is_no_address_as_a_provider_reported_it(db):
    ledger.record([fact("bounced", recipient_canonical="not an address@")])

    assert retention.holdings("Not an Address@") == {"deliveries": 0, "parked events": 1, "suppressions": 0}
    assert retention.erase("Not an Address@").events == 1


def test_an_address_that_is_erased_holds_back_nobody_twice(db):
    for address in (ADA, BOB):
        Suppression.objects.create(address=address, reason="complaint", source="resend")
    released = Suppression.objects.create(address=ADA, reason="complaint", source="r", released_at=Now() - DAY)

    assert [retention.erase(address).suppressions for address in (ADA, BOB)] == [2, 1]

    assert set(Suppression.objects.values_list("address", flat=True)) == {""}
    assert not Suppression.objects.filter(released_at=None).exists()
    assert Suppression.objects.filter(pk=released.pk, released_at__lt=Now() - DAY / 2).exists()


@pytest.mark.django_db(transaction=True)
def test_erase_beside_a_claim_sends_nothing_to_nobody():
    messages = [enqueue(ADA) for _ in range(20)]

    def work(number: int) -> Any:
        return retention.erase(ADA) if number else [outbox.claim("worker", 1) for _ in range(20)]

    claims, erased = in_threads(2, work)

    claimed = [claim for batch in claims for claim in batch]
    assert all(claim.recipients for claim in claimed)
    assert len(claimed) + erased.cancelled == len(messages)
    assert erased.under_way == len(claimed)


@pytest.mark.django_db(transaction=True)
def test_erase_beside_reports_and_the_erasure_of_another_does_not_deadlock():
    messages = [shared() for _ in range(30)]
    deliveries = list(DeliveryStatus.objects.order_by("-id").values_list("pk", flat=True))

    def work(number: int) -> Any:
        if number < 2:
            return retention.erase((ADA, BOB)[number])
        return ledger.record([fact("delivered", f"{number} {pk}", delivery_id=pk) for pk in deliveries])

    in_threads(4, work)
    for address in (ADA, BOB):
        retention.erase(address)  # what the other one held at the time

    assert written_anywhere("@example[.]com") == set()
    assert {read(message).state for message in messages} == {"cancelled"}
    assert set(DeliveryStatus.objects.values_list("status", flat=True)) == {"delivered"}


def test_own_words_about_an_erasure_are_recorded_once(db):
    message = shared(state="pending")
    own = to(message, ADA)
    retention.erase(ADA)

    assert ledger.record([own_fact("cancelled", own.pk, "erased")]) == []


def test_erase_an_empty_address_is_refused(db):
    new_delivery(recipient="")

    with pytest.raises(ValueError, match="address"):
        retention.erase(" ")
