"""Messages come into the outbox with their cause, once, and those who listen hear of it."""

from contextlib import suppress
from datetime import timedelta
from uuid import UUID

import pytest
import structlog
from django.db import DataError, connection, transaction
from django.utils import timezone

from mailer import outbox
from mailer.models import DeliveryEvent, DeliveryStatus, Message
from tests.conftest import in_threads
from tests.mailer.conftest import change, delivery_of, enqueue, read

HOUR = timedelta(hours=1)


def test_enqueue_writes_a_pending_message(db):
    message = read(enqueue("ada@example.com", kind="verification", context={"challenge_id": "1"}, locale="de"))

    assert (message.state, message.kind, message.priority, message.secret) == ("pending", "verification", 0, True)
    assert (message.context, message.locale, message.token) == ({"challenge_id": "1"}, "de", 0)
    assert message.run_at <= message.created_at
    assert delivery_of(message).status == "queued"


def test_enqueue_gives_a_message_its_kinds_lifetime(db):
    message = read(enqueue(kind="welcome"))

    assert message.expires_at - message.run_at == timedelta(days=3)


def test_enqueue_heeds_a_deadline_of_the_callers(db):
    deadline = timezone.now() + HOUR

    assert read(enqueue(expires_at=deadline)).expires_at == deadline


def test_enqueue_for_later_is_scheduled(db):
    later = timezone.now() + HOUR

    message = read(enqueue(run_at=later))

    assert message.run_at == later
    assert delivery_of(message).status == "scheduled"


def test_enqueue_with_a_taken_key_writes_nothing(db):
    first = enqueue(dedupe_key="taken")

    assert outbox.enqueue("welcome", "eve@example.com", dedupe_key="taken") is None

    assert Message.objects.get() == first
    assert DeliveryStatus.objects.get().recipient == "ada@example.com"


def test_enqueue_an_unknown_kind_raises(db):
    with pytest.raises(KeyError):
        outbox.enqueue("chain_letter", "ada@example.com", dedupe_key="k")


@pytest.mark.django_db(transaction=True)
def test_enqueue_rolled_back_leaves_nothing_and_tells_nobody(monkeypatch, caplog):
    rung = []
    monkeypatch.setattr(outbox, "ring", lambda: rung.append(True))

    with transaction.atomic():
        enqueue()
        transaction.set_rollback(True)

    assert rung == []
    assert "message_enqueued" not in caplog.text
    assert not Message.objects.exists()
    assert not DeliveryStatus.objects.exists()
    assert not DeliveryEvent.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_enqueue_rings_once_it_is_committed(monkeypatch):
    rung = []
    monkeypatch.setattr(outbox, "ring", lambda: rung.append(Message.objects.count()))

    with transaction.atomic():
        enqueue()
        assert rung == []

    assert rung == [1]


@pytest.mark.django_db(transaction=True)
def test_enqueue_survives_a_doorbell_that_fails(monkeypatch, caplog):
    def broken() -> None:
        raise RuntimeError("no bell")

    monkeypatch.setattr(outbox, "ring", broken)

    message = enqueue()

    assert read(message).state == "pending"
    assert "no bell" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_enqueue_of_one_key_by_many_threads_writes_one():
    written = in_threads(8, lambda _: outbox.enqueue("welcome", "ada@example.com", dedupe_key="contested"))

    assert sum(message is not None for message in written) == 1
    assert Message.objects.count() == DeliveryStatus.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_enqueue_that_fails_and_is_caught_leaves_no_commit_that_is_none():
    told: list[str] = []
    with transaction.atomic():
        enqueue(dedupe_key="first")
        transaction.on_commit(lambda: told.append("committed"))
        with suppress(DataError):
            enqueue(dedupe_key="k" * 201)

    assert (told, Message.objects.count()) == ([], 0)


@pytest.mark.django_db(transaction=True)
def test_enqueue_that_fails_within_a_savepoint_undoes_that_alone():
    with transaction.atomic():
        enqueue(dedupe_key="first")
        with suppress(DataError), transaction.atomic():
            enqueue(dedupe_key="k" * 201)

    assert Message.objects.get().dedupe_key == "first"


def test_enqueue_takes_the_requests_id_along(db):
    with structlog.contextvars.bound_contextvars(request_id="request-7"):
        message = enqueue()

    assert read(message).correlation_id == "request-7"


def test_enqueue_prefers_the_correlation_id(db):
    with structlog.contextvars.bound_contextvars(request_id="request-7", correlation_id="story-1"):
        message = enqueue()

    assert read(message).correlation_id == "story-1"


def test_enqueue_outside_of_any_request_makes_an_id(db):
    assert UUID(read(enqueue()).correlation_id)


def test_oldest_due_where_nothing_waits(db):
    enqueue(run_at=timezone.now() + HOUR)
    enqueue(expires_at=timezone.now() - HOUR)
    change(enqueue(), state="sent")

    assert outbox.oldest_due() is None


def test_oldest_due_tells_how_long_the_oldest_has_waited(db):
    enqueue(run_at=timezone.now() - HOUR)
    enqueue(run_at=timezone.now() - 2 * HOUR)

    assert outbox.oldest_due() == pytest.approx(7200, abs=60)


@pytest.mark.django_db(transaction=True)
def test_enqueue_notifies_those_who_listen():
    with connection.cursor() as cursor:
        cursor.execute(f"LISTEN {outbox.CHANNEL}")

    in_threads(1, lambda _: enqueue())

    (heard,) = connection.connection.notifies(timeout=30, stop_after=1)
    assert heard.channel == outbox.CHANNEL
    connection.close()
