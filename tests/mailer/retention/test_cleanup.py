"""What is forgotten by age, and what never is."""

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from mailer import ledger, outbox, retention
from mailer.models import Attempt, DeliveryEvent, DeliveryStatus, Message
from tests.conftest import in_threads
from tests.mailer.conftest import change, delivery_of, fact, read
from tests.mailer.retention.conftest import BODY, DAY, aged, cleanup
from users import challenges
from users.models import EmailChallenge

State = Message.State
UNSENT = sorted({*State} - {*retention.ENDED} - {State.UNKNOWN})


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
