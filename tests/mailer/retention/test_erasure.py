"""What is forgotten by address."""

from typing import Any

import pytest
from django.db import connection
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
from tests.mailer.retention.conftest import BODY, DAY, aged

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
