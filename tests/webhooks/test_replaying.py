"""Reading receipts again: what is new is recorded, what is known changes nothing."""

import itertools
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from anymail.signals import tracking
from django.contrib.auth.models import Permission
from django.db import OperationalError
from django.db.models.functions import Now
from django.urls import reverse
from django.utils import timezone

from mailer.models import DeliveryEvent, DeliveryStatus, Suppression
from mailer.signals import delivery_changed
from mailer.status import Status
from tests.conftest import in_threads
from tests.mailer.conftest import signal_receiver
from tests.webhooks import payloads
from tests.webhooks.conftest import delivery_of, encoded
from users.models import User
from webhooks import inbox, later, replaying
from webhooks.models import WebhookReceipt
from webhooks.providers import WEBHOOKS, Incoming
from webhooks.providers.base import Meaning, listed
from webhooks.replaying import Change, Selection

pytestmark = pytest.mark.django_db


@pytest.fixture
def judged(monkeypatch):
    """Have Postmark's events judged by another function, as an older or a newer release does."""

    def judge(function):
        monkeypatch.setitem(WEBHOOKS, "postmark", replace(WEBHOOKS["postmark"], judge=function))

    return judge


def broken(_event):
    raise AssertionError("ada@example.com")


def replay(*, dry_run=False, **chosen):
    """Replay what a selection names; return all rounds as one."""
    total = replaying.Round()
    for done in replaying.replay(Selection(**chosen), dry_run=dry_run):
        total.include(done)
    return total


def rows(model):
    return list(model.objects.order_by("pk").values())


def stored():
    """Return all that a replay could change."""
    return [rows(model) for model in (WebhookReceipt, DeliveryEvent, DeliveryStatus, Suppression)]


@pytest.fixture
def lost(post_postmark, sent, judged):
    """Leave receipts that an older release could not read: one of a delivery, one of a hard bounce."""

    def lost(state="poison"):
        judge = WEBHOOKS["postmark"].judge
        delivered, bounced = sent("postmark", "id-1", "ada@example.com"), sent("postmark", "id-2", "bob@example.com")
        judged(broken)
        post_postmark(payloads.postmark("Delivery", delivered, MessageID="id-1", Recipient="ada@example.com"))
        post_postmark(payloads.postmark("Bounce", bounced, MessageID="id-2", Email="bob@example.com"))
        WebhookReceipt.objects.update(state=state)
        judged(judge)
        return delivered, bounced

    return lost


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


class TestDryRun:
    @pytest.mark.django_db(transaction=True)
    def test_dry_run_says_what_would_change_and_writes_nothing_and_tells_nobody(self, lost):
        delivered, bounced = lost()
        before, heard = stored(), []

        def hear(**_):
            heard.append(1)

        with signal_receiver(delivery_changed, hear), signal_receiver(tracking, hear):
            done = replay(dry_run=True, states=["poison"])

        assert done.changes == [
            Change("postmark", delivery_of(delivered).pk, "sent", "delivered"),
            Change("postmark", delivery_of(bounced).pk, "sent", "bounced"),
        ]
        assert (done.receipts, done.new_events, done.failures) == (2, 2, {})
        assert stored() == before
        assert heard == []

    @pytest.mark.django_db(transaction=True)
    def test_replay_tells_those_who_listen(self, lost):
        lost()
        heard = []

        def hear(sender, **_):
            heard.append(sender.__name__)

        with signal_receiver(delivery_changed, hear), signal_receiver(tracking, hear):
            replay(states=["poison"])
            replay(states=["processed"])

        assert sorted(heard) == ["DeliveryStatus"] * 2 + ["PostmarkTrackingWebhookView"] * 2

    def test_several_receipts_of_one_delivery_are_one_change(self, post_postmark, sent, judged):
        message, judge = sent("postmark"), WEBHOOKS["postmark"].judge
        judged(broken)
        for kind in ("SpamComplaint", "Delivery"):
            post_postmark(payloads.postmark(kind, message))
        judged(judge)

        done = replay(dry_run=True, providers=["postmark"])

        assert done.changes == [Change("postmark", delivery_of(message).pk, "sent", "complained")]

    def test_events_of_nobodys_mail_are_counted(self, post_postmark, judged):
        judge = WEBHOOKS["postmark"].judge
        judged(broken)
        post_postmark(payloads.postmark("Delivery"))
        judged(judge)

        assert replay(dry_run=True, providers=["postmark"]).parked == 1
        assert replay(providers=["postmark"]).parked == 1

    def test_events_of_many_receipts_are_looked_at_in_parts(self, post_postmark, sent, monkeypatch):
        monkeypatch.setitem(WEBHOOKS, "postmark", replace(WEBHOOKS["postmark"], parts=listed))
        monkeypatch.setattr(replaying, "EVENTS", 5)
        sent("postmark")
        for number in range(4):
            post_postmark([payloads.postmark("Open", MessageID=f"{number} {each}") for each in range(3)])
        DeliveryEvent.objects.filter(source="webhook").delete()

        rounds = list(replaying.replay(Selection(providers=["postmark"]), dry_run=True))

        assert [(done.receipts, done.new_events) for done in rounds] == [(2, 6), (2, 6), (0, 0)]


class TestSelection:
    def test_narrows_by_id_provider_state_and_time(self, post_postmark, post_resend):
        post_postmark(payloads.postmark("Delivery"))
        post_postmark(b"{")
        post_resend(payloads.resend("email.sent"))
        postmark, poison, resend = WebhookReceipt.objects.order_by("pk")
        now = timezone.now()

        def found(**chosen):
            return set(Selection(**chosen).receipts())

        assert found(ids=[poison.pk, uuid4()]) == {poison}
        assert found(providers=["postmark"]) == {postmark, poison}
        assert found(states=["processed"]) == {postmark, resend}
        assert found(providers=["postmark"], states=["processed"]) == {postmark}
        assert found(since=resend.received_at) == {
            one for one in (postmark, poison, resend) if one.received_at >= resend.received_at
        }
        assert found(until=postmark.received_at) == set()
        assert found(since=now - timedelta(days=1), until=now + timedelta(days=1)) == {postmark, poison, resend}
        assert found(since=now + timedelta(days=1)) == set()
        assert Selection(states=["poison", "processed"]).counts() == {
            "postmark poison": 1,
            "postmark processed": 1,
            "resend processed": 1,
        }

    def test_what_comes_in_meanwhile_is_left_out(self, post_postmark):
        selection = Selection(providers=["postmark"])
        post_postmark(payloads.postmark("Delivery"))

        assert list(replaying.replay(selection)) == []

    def test_receipt_of_a_clock_that_is_ahead_is_found_by_its_id(self, post_postmark):
        post_postmark(payloads.postmark("Delivery"))
        ahead = replaying._first_id(timezone.now() + timedelta(seconds=5))
        WebhookReceipt.objects.update(id=ahead)

        assert replay(ids=[ahead]).receipts == 1

    def test_rounds_are_bounded_and_in_order(self, post_postmark, monkeypatch, django_assert_max_num_queries):
        monkeypatch.setattr(replaying, "BATCH", 2)
        for number in range(5):
            post_postmark(payloads.postmark("Delivery", MessageID=str(number)))

        with django_assert_max_num_queries(60):
            rounds = list(replaying.replay(Selection(providers=["postmark"])))

        assert [done.receipts for done in rounds] == [2, 2, 1]

    def test_time_is_found_by_the_key_that_rounds_walk_along(self, post_postmark):
        post_postmark(payloads.postmark("Delivery"))
        first = replaying._first_id(timezone.now() - timedelta(seconds=60))
        last = replaying._first_id(timezone.now() + timedelta(seconds=60))

        assert first < WebhookReceipt.objects.get().pk < last


@pytest.mark.django_db(transaction=True)
def test_two_replays_at_once_record_once(lost):
    delivered, bounced = lost()

    done = in_threads(4, lambda _: replay(states=["poison", "processed"]))

    assert sum(each.new_events for each in done) == 2
    assert [delivery_of(message).status for message in (delivered, bounced)] == ["delivered", "bounced"]
    assert list(WebhookReceipt.objects.values_list("new_events", flat=True)) == [1, 1]


@pytest.mark.django_db(transaction=True)
def test_replay_beside_the_sweep_records_once(lost):
    lost("retry")
    WebhookReceipt.objects.update(run_at=Now() - timedelta(seconds=1))

    done = in_threads(4, lambda number: later.read_due() if number % 2 else replay(states=["retry"]).receipts)

    assert sum(done) >= 2
    assert list(WebhookReceipt.objects.values_list("state", "new_events")) == [("processed", 1)] * 2
    assert DeliveryEvent.objects.filter(source="webhook").count() == 2


@pytest.mark.django_db(transaction=True)
def test_dry_runs_and_replays_beside_what_comes_in_wait_in_no_circle(post_postmark, sent, monkeypatch):
    monkeypatch.setitem(WEBHOOKS, "postmark", replace(WEBHOOKS["postmark"], parts=listed))
    numbers = range(60)
    for number in numbers:
        sent("postmark", f"id-{number}", f"{number}@example.com")

    def told(kind, number):
        return payloads.postmark(kind, MessageID=f"id-{number}", Email=f"{number}@example.com", ID=number)

    for number in numbers:
        post_postmark([told("Bounce", each) for each in (number, 59 - number)])
    DeliveryEvent.objects.filter(source="webhook").delete()
    batch = encoded([told("SpamComplaint", number) for number in reversed(numbers)])

    def work(number):
        for _ in range(3):
            match number % 3:
                case 0:
                    replay(dry_run=True, providers=["postmark"])
                case 1:
                    replay(providers=["postmark"])
                case _:
                    inbox.process("postmark", Incoming({}, batch))

    in_threads(6, work)

    assert set(DeliveryStatus.objects.values_list("status", flat=True)) == {"complained"}
    assert not WebhookReceipt.objects.exclude(state="processed").exists()


class TestAdmin:
    URL = "admin:webhooks_webhookreceipt_changelist"

    @staticmethod
    def action(receipts):
        return {"action": "replay", "_selected_action": [str(receipt.pk) for receipt in receipts]}

    def test_action_replays_and_says_so(self, lost, admin_client):
        delivered, _ = lost()

        page = admin_client.post(reverse(self.URL), self.action(WebhookReceipt.objects.all()), follow=True)

        assert "2 receipts replayed: 2 new events, 2 statuses changed." in page.content.decode()
        assert delivery_of(delivered).status == "delivered"

    def test_action_names_what_failed(self, post_postmark, admin_client):
        post_postmark(b"{")
        receipt = WebhookReceipt.objects.get()

        page = admin_client.post(reverse(self.URL), self.action([receipt]), follow=True)

        assert f"Receipt {receipt.pk}: Unreadable" in page.content.decode()

    def test_action_is_for_those_who_may_change_receipts(self, lost, client):
        lost()
        staff = User.objects.create_user("staff@example.com", is_staff=True)
        staff.user_permissions.add(Permission.objects.get(codename="view_webhookreceipt"))
        client.force_login(staff)

        client.post(reverse(self.URL), self.action(WebhookReceipt.objects.all()), follow=True)
        assert not WebhookReceipt.objects.filter(state="processed").exists()

        staff.user_permissions.add(Permission.objects.get(codename="change_webhookreceipt"))
        client.post(reverse(self.URL), self.action(WebhookReceipt.objects.all()), follow=True)
        assert not WebhookReceipt.objects.filter(state="poison").exists()

    def test_action_refuses_more_than_one_page(self, lost, admin_client, monkeypatch):
        lost()
        monkeypatch.setattr("webhooks.admin.MOST", 1)

        page = admin_client.post(reverse(self.URL), self.action(WebhookReceipt.objects.all()), follow=True)

        assert "manage.py replay_webhooks" in page.content.decode()
        assert WebhookReceipt.objects.filter(state="poison").count() == 2
