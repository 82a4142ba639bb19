"""Requests that were refused are counted, and cost next to nothing."""

import pytest
from django.db import connection

from tests.conftest import in_threads
from tests.webhooks import payloads
from webhooks import refusals
from webhooks.models import RefusalCount

FORGED = "credentials are missing or wrong"


@pytest.fixture(autouse=True)
def tally(monkeypatch):
    """A process that has just started."""
    fresh = refusals.Tally()
    monkeypatch.setattr(refusals, "_tally", fresh)
    return fresh


@pytest.fixture
def patient(monkeypatch):
    """Let no second pass."""
    monkeypatch.setattr(refusals, "PAUSE", 1e9)


@pytest.fixture
def impatient(monkeypatch):
    """Let a second have passed whenever somebody is refused."""
    monkeypatch.setattr(refusals, "PAUSE", 0.0)


def counted():
    return {(row.provider, row.reason, row.code): row.count for row in RefusalCount.objects.all()}


def test_a_forged_webhook_is_counted(db, post_postmark, impatient):
    for _ in range(3):
        assert post_postmark(payloads.postmark("Delivery"), credentials="hook:forged").status_code == 401

    assert counted() == {("postmark", FORGED, 401): 3}


def test_every_reason_has_a_row_that_says_when_last(db, impatient):
    refusals.count("resend", 401, "forged")
    first = RefusalCount.objects.get().last_at
    for code, reason in ((401, "forged"), (413, "too_large")):
        refusals.count("resend", code, reason)

    assert counted() == {("resend", "forged", 401): 2, ("resend", "too_large", 413): 1}
    assert RefusalCount.objects.get(reason="forged").last_at > first


def test_a_genuine_webhook_is_not_counted(post_postmark, sent, impatient):
    sent("postmark")

    assert post_postmark(payloads.postmark("Delivery")).status_code == 200

    assert counted() == {}


def test_a_burst_is_one_write(db, patient, django_assert_num_queries):
    with django_assert_num_queries(1):
        for _ in range(1000):
            refusals.count("resend", 401, "forged")

    assert counted() == {("resend", "forged", 401): 1}


def test_what_was_refused_meanwhile_is_written_with_the_next(db, tally, patient):
    for _ in range(1000):
        refusals.count("resend", 401, "forged")
    tally._next = 0.0

    refusals.count("postmark", 401, "forged")

    assert counted() == {("resend", "forged", 401): 1000, ("postmark", "forged", 401): 1}


def test_without_the_database_the_answer_is_the_same_and_the_count_waits(
    post_postmark, tally, impatient, no_database, caplog
):
    assert post_postmark(payloads.postmark("Delivery"), credentials="hook:forged").status_code == 401

    assert tally._waiting == {("postmark", FORGED, 401): 1}


@pytest.mark.django_db(transaction=True)
def test_many_at_once_lose_no_count(impatient):
    def work(number):
        for step in range(50):
            refusals.count(("resend", "postmark")[(number + step) % 2], 401, "forged")

    in_threads(4, work)
    refusals.count("resend", 401, "forged")
    connection.close()

    assert sum(counted().values()) == 201
