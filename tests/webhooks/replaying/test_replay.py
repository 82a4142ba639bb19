"""Reading receipts again: what is new is recorded, what is known changes nothing."""

import itertools

import pytest
from django.db import OperationalError

from mailer.models import DeliveryEvent, DeliveryStatus, Suppression
from mailer.status import Status
from tests.webhooks import payloads
from tests.webhooks.conftest import delivery_of
from tests.webhooks.replaying.conftest import broken, replay, rows, stored
from webhooks import inbox, later
from webhooks.models import WebhookReceipt
from webhooks.providers import WEBHOOKS
from webhooks.providers.base import Meaning
from webhooks.replaying import Change

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("state", ["poison", "retry", "processed"])
def test_replay_records_what_an_older_release_could_not_read(lost, state):
    delivered, bounced = lost(state)

    done = replay(states=[state])

    assert (done.receipts, done.new_events, done.failures) == (2, 2, {})
    assert [delivery_of(message).status for message in (delivered, bounced)] == ["delivered", "bounced"]
    assert done.changes == [
        Change("postmark", delivery_of(delivered).pk, "sent", "delivered"),
        Change("postmark", delivery_of(bounced).pk, "sent", "bounced"),
    ]
    assert Suppression.objects.get().address == "bob@example.com"
    for receipt in WebhookReceipt.objects.all():
        outcome = (receipt.state, receipt.error, receipt.events, receipt.new_events, receipt.run_at)
        assert outcome == ("processed", "", 1, 1, None)


@pytest.mark.parametrize("record_type", payloads.POSTMARK)
def test_replay_of_what_is_known_changes_nothing(post_postmark, sent, record_type):
    post_postmark(payloads.postmark(record_type, sent("postmark")))
    before = stored()

    done = replay(states=["processed"])

    assert (done.receipts, done.new_events, done.differing, done.changes) == (1, 0, 0, [])
    assert stored() == before


def test_replay_of_what_is_known_locks_nothing(post_postmark, sent, django_assert_max_num_queries):
    post_postmark(payloads.postmark("Delivery", sent("postmark")))

    with django_assert_max_num_queries(6) as asked:
        replay(states=["processed"])

    assert not [sql for query in asked for sql in [query["sql"]] if "FOR NO KEY" in sql or not sql.startswith("SELECT")]


def test_replay_of_all_in_any_order_gives_the_same(post_postmark, sent):
    message = sent("postmark")
    for kind in ("SpamComplaint", "Open", "Delivery", "Bounce"):
        post_postmark(payloads.postmark(kind, message))
    before = stored()

    for order in itertools.permutations(WebhookReceipt.objects.values_list("pk", flat=True)):
        for pk in order:
            replay(ids=[pk])

    assert stored() == before


def test_replay_restores_statuses_whose_events_were_lost(post_postmark, sent):
    message = sent("postmark")
    post_postmark(payloads.postmark("Delivery", message))
    kept = delivery_of(message)
    DeliveryEvent.objects.filter(source="webhook").delete()
    own = DeliveryEvent.objects.get(event_type="sent")
    DeliveryStatus.objects.update(
        status="sent",
        status_rank=own.rank,
        status_at=own.occurred_at,
        status_key=own.dedupe_key,
        delivered_at=None,
    )

    replay(providers=["postmark"])

    restored = delivery_of(message)
    for name in ("status", "status_rank", "status_at", "status_key", "delivered_at"):
        assert getattr(restored, name) == getattr(kept, name)
    assert WebhookReceipt.objects.get().new_events == 2


class TestReadOtherwise:
    def test_another_type_is_another_event_beside_the_old(self, post_postmark, sent, judged):
        message, judge = sent("postmark"), WEBHOOKS["postmark"].judge
        judged(lambda _: Meaning("unknown", None))
        post_postmark(payloads.postmark("Delivery", message))
        judged(judge)

        done = replay(states=["processed"])

        assert (done.new_events, done.differing) == (1, 0)
        assert delivery_of(message).status == "delivered"
        assert sorted(DeliveryEvent.objects.filter(source="webhook").values_list("event_type", flat=True)) == [
            "delivered",
            "unknown",
        ]

    def test_the_same_type_keeps_its_reading_and_is_counted(self, post_postmark, sent, judged):
        message, judge = sent("postmark"), WEBHOOKS["postmark"].judge
        judged(lambda _: Meaning("bounced", Status.SOFT_BOUNCED, category="other"))
        post_postmark(payloads.postmark("Bounce", message))
        judged(judge)
        before = stored()

        would, done = replay(dry_run=True, states=["processed"]), replay(states=["processed"])

        assert (would.new_events, would.differing) == (0, 1)
        assert (done.new_events, done.differing) == (0, 1)
        assert stored() == before
        assert delivery_of(message).status == "soft_bounced"


class TestFailures:
    @pytest.mark.parametrize("state", ["poison", "retry", "processed"])
    def test_receipt_that_fails_again_is_as_it_was_and_harms_no_other(self, lost, judged, state, caplog):
        delivered, bounced = lost(state)
        judge = WEBHOOKS["postmark"].judge
        judged(lambda event: broken(event) if event.event_type == "bounced" else judge(event))
        before = rows(WebhookReceipt)

        done = replay(states=[state])

        assert list(done.failures.values()) == ["AssertionError"]
        [failed] = done.failures
        assert next(row for row in before if row["id"] == failed) in rows(WebhookReceipt)
        assert [delivery_of(message).status for message in (delivered, bounced)] == ["delivered", "sent"]
        assert "ada@example.com" not in caplog.text

    def test_body_that_cannot_be_read_stays_poison(self, post_postmark):
        post_postmark(b"{")
        before = stored()

        done = replay(states=["poison"])

        assert list(done.failures.values()) == ["Unreadable"]
        assert stored() == before

    def test_provider_that_is_known_no_more_is_a_failure(self, lost):
        lost()
        WebhookReceipt.objects.update(provider="pigeon")

        assert set(replay(providers=["pigeon"]).failures.values()) == {"KeyError"}
        assert set(replay(dry_run=True, providers=["pigeon"]).failures.values()) == {"KeyError"}

    def test_what_one_receipt_cannot_record_harms_no_other_in_a_dry_run(self, lost, judged):
        delivered, _ = lost()
        judge = WEBHOOKS["postmark"].judge
        long = Meaning("a type that is longer than the thirty-two characters of its column", None)
        judged(lambda event: long if event.event_type == "bounced" else judge(event))

        done = replay(dry_run=True, states=["poison"])

        assert list(done.failures.values()) == ["DataError"]
        assert [change.delivery_id for change in done.changes] == [delivery_of(delivered).pk]

    @pytest.mark.parametrize("dry_run", [True, False])
    def test_database_that_is_away_ends_it(self, lost, monkeypatch, dry_run):
        lost()

        def gone(_):
            raise OperationalError

        monkeypatch.setattr(inbox.ledger, "record", gone)
        with pytest.raises(OperationalError):
            replay(dry_run=dry_run, states=["poison"])

    def test_receipt_that_is_deleted_meanwhile_is_passed_over(self, lost, monkeypatch):
        lost()
        first = WebhookReceipt.objects.order_by("pk")[0]
        again = later.replay

        def delete(identifier):
            WebhookReceipt.objects.exclude(pk=first.pk).delete()
            return again(identifier)

        monkeypatch.setattr(later, "replay", delete)

        assert replay(states=["poison"]).new_events == 1
