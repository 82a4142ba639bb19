"""The tasks, called as a worker calls them."""

from datetime import timedelta

import pytest
from celery import current_app
from celery.schedules import maybe_schedule
from celery.signals import worker_ready
from django.conf import settings
from django.db.models.functions import Now

from mailer import doorbell, tasks
from mailer.models import Message
from tests.mailer.conftest import change, claim_one, enqueue, read


@pytest.fixture
def rung(monkeypatch) -> list[bool]:
    """The rings of the tasks."""
    rung: list[bool] = []
    monkeypatch.setattr(doorbell, "ring", lambda: rung.append(True))
    return rung


def test_deliver_sends_what_is_due(db, simulator, rung):
    messages = [enqueue() for _ in range(7)]

    assert tasks.deliver.apply(throw=True).get() == 7

    assert {read(message).state for message in messages} == {"sent"}
    assert rung == []


def test_deliver_twice_sends_once(db, simulator):
    enqueue()

    assert [tasks.deliver.apply(throw=True).get() for _ in range(2)] == [1, 0]

    assert len(simulator.accepted()) == 1


def test_deliver_stops_after_its_shift_and_rings_for_the_rest(db, simulator, monkeypatch, rung):
    monkeypatch.setattr(tasks, "SHIFT", 0.0)
    enqueue()

    assert tasks.deliver.apply(throw=True).get() == 0

    assert rung == [True]


def test_sweep_finds_what_a_dead_worker_left_and_rings(db, rung):
    message = enqueue()
    claim_one(message)
    change(message, lease_until=Now() - timedelta(hours=1))

    assert tasks.sweep.apply(throw=True).get() == {"retry": 1}

    assert read(message).state == "retry"
    assert rung == [True]


def test_sweep_rings_for_what_no_hint_told_of(db, rung):
    enqueue()

    assert tasks.sweep.apply(throw=True).get() == {}

    assert rung == [True]


def test_sweep_with_nothing_due_rings_for_nobody(db, rung):
    assert tasks.sweep.apply(throw=True).get() == {}

    assert rung == []


def test_cleanup_forgets_what_is_kept_no_longer(db, settings):
    message = enqueue()
    change(message, state="sent", finished_at=Now() - timedelta(days=settings.MAIL_HISTORY_DAYS + 1))

    assert tasks.cleanup.apply(throw=True).get()["messages"] == 1

    assert not Message.objects.exists()


def test_cleanup_stops_when_its_time_is_over(db, settings, monkeypatch):
    monkeypatch.setattr(tasks, "CLEANUP", 0.0)
    message = enqueue()
    change(message, state="sent", finished_at=Now() - timedelta(days=settings.MAIL_HISTORY_DAYS + 1))

    assert set(tasks.cleanup.apply(throw=True).get().values()) == {0}

    assert Message.objects.exists()


def test_the_doorbell_rings_for_a_task_there_is():
    assert doorbell.DELIVER in current_app.tasks
    assert current_app.tasks[doorbell.DELIVER].name == tasks.deliver.name


@pytest.mark.parametrize("entry", settings.CELERY_BEAT_SCHEDULE.values(), ids=settings.CELERY_BEAT_SCHEDULE.keys())
def test_beat_schedules_a_task_there_is(entry):
    current_app.loader.import_default_modules()  # as a worker does when it starts

    assert entry["task"] in current_app.tasks
    assert maybe_schedule(entry["schedule"]).remaining_estimate(current_app.now()) <= timedelta(days=1)


@pytest.mark.parametrize("task", ["mailer.tasks.sweep", "mailer.tasks.cleanup", "webhooks.tasks.cleanup"])
def test_beat_sweeps_and_cleans_up(task):
    assert task in {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()}


def test_a_worker_that_starts_asks_for_a_sweep(monkeypatch):
    asked = []
    monkeypatch.setattr(tasks.sweep, "delay", lambda: asked.append(True))

    worker_ready.send(sender=None)

    assert asked == [True]
