"""Whom webhooks' events suppress, and whom not."""

import itertools
from dataclasses import replace

import pytest

from mailer import suppressions
from mailer.models import Suppression
from mailer.status import Status
from tests.conftest import in_threads
from tests.webhooks import payloads
from tests.webhooks.conftest import encoded
from webhooks import inbox
from webhooks.providers import WEBHOOKS, Incoming
from webhooks.providers.base import CATEGORIES, Meaning, listed

pytestmark = pytest.mark.django_db
ADA = "ada@example.com"
_numbers = itertools.count()


@pytest.fixture
def told(monkeypatch):
    """Have Postmark's bounces mean what each says in `Type` and `Category`, and come in lists."""
    webhook = WEBHOOKS["postmark"]

    def judge(event):
        raw = event.esp_event
        if "Category" not in raw:
            return webhook.judge(event)
        return Meaning("bounced", Status(raw["Type"]), category=raw["Category"])

    monkeypatch.setitem(WEBHOOKS, "postmark", replace(webhook, judge=judge, parts=listed))


def bounce(recipient=ADA, status="bounced", category="", **changes):
    number = next(_numbers)
    fields = {"Email": recipient, "Type": status, "Category": category, "ID": number, "MessageID": f"pm-{number}"}
    return payloads.postmark("Bounce", **{**fields, **changes})


def post(*events):
    return inbox.process("postmark", Incoming({}, encoded(list(events))))


def standing():
    return set(Suppression.objects.filter(released_at=None).values_list("address", "reason", "source"))


@pytest.mark.usefixtures("told")
class TestBounces:
    @pytest.mark.parametrize("category", ["", *CATEGORIES])
    def test_hard_bounce_suppresses_unless_the_address_is_blameless(self, category):
        post(bounce(category=category))

        blamed = category in {"", "no_mailbox", "mailbox_full", "other"}
        assert standing() == ({(ADA, "hard_bounce", "postmark")} if blamed else set())

    def test_address_is_the_one_we_mail(self, sent):
        sent("postmark", "forwarded", "Ada@Example.com")

        post(bounce("elsewhere@example.com", MessageID="forwarded"))

        assert standing() == {(ADA, "hard_bounce", "postmark")}

    def test_event_without_an_address_suppresses_nobody(self):
        post(bounce(None))

        assert standing() == set()

    def test_complaint_suppresses(self):
        post(payloads.postmark("SpamComplaint", Email=ADA))

        assert standing() == {(ADA, "complaint", "postmark")}

    @pytest.mark.parametrize("record_type", ["Delivery", "Open", "Click"])
    def test_other_events_suppress_nobody(self, record_type):
        post(payloads.postmark(record_type))

        assert standing() == set()

    def test_repeat_suppresses_nobody_who_was_released(self):
        event = bounce()
        post(event)
        suppressions.release(ADA, by="an operator")

        post(event)

        assert standing() == set()

    def test_next_bounce_suppresses_who_was_released(self):
        post(bounce())
        suppressions.release(ADA, by="an operator")

        post(bounce())

        assert standing() == {(ADA, "hard_bounce", "postmark")}

    def test_many_in_one_request(self, settings):
        settings.WEBHOOK_AT_ONCE = 301
        receipt = post(*(bounce(f"{number}@example.com") for number in range(300)), bounce("0@example.com"))

        assert receipt.new_events == 301
        assert len(standing()) == 300

    def test_one_that_ran_out_is_history(self):
        suppressions.suppress(ADA, "hard_bounce", source="an operator")
        Suppression.objects.update(expires_at="2026-01-01T00:00:00Z")

        post(bounce())

        assert standing() == {(ADA, "hard_bounce", "postmark")}
        assert set(Suppression.objects.values_list("released_by", flat=True)) == {"expiry", ""}


@pytest.mark.usefixtures("told")
class TestSoftBounces:
    @pytest.fixture
    def mails(self, sent):
        """Return the provider's ids of so many mails to an address."""

        def mails(count, recipient=ADA):
            identifiers = [f"pm-soft-{next(_numbers)}" for _ in range(count)]
            for identifier in identifiers:
                sent("postmark", identifier, recipient)
            return identifiers

        return mails

    @staticmethod
    def soft(identifier, minute=0, recipient=ADA):
        return bounce(recipient, "soft_bounced", MessageID=identifier, BouncedAt=f"2026-11-20T10:{minute:02}:00Z")

    def test_five_in_a_row_suppress_and_four_do_not(self, mails):
        first, second, third, fourth, fifth = mails(5)
        post(self.soft(first), self.soft(second))
        post(self.soft(third), self.soft(fourth))
        assert standing() == set()

        post(self.soft(fifth))

        assert standing() == {(ADA, "soft_bounces", "postmark")}

    def test_one_mail_counts_once(self, mails):
        [one] = mails(1)

        post(*(self.soft(one, minute) for minute in range(10)))

        assert standing() == set()

    def test_delivery_between_begins_the_count_anew(self, mails):
        identifiers = mails(6)
        post(*(self.soft(each, minute) for minute, each in enumerate(identifiers[:2])))
        post(payloads.postmark("Delivery", MessageID=identifiers[2], Recipient=ADA, DeliveredAt="2026-11-20T10:30:00Z"))

        post(*(self.soft(each, 31 + minute) for minute, each in enumerate(identifiers[3:])))

        assert standing() == set()

    def test_mails_to_others_do_not_count(self, mails):
        post(*(self.soft(each) for each in mails(3)))
        post(*(self.soft(each, recipient="bob@example.com") for each in mails(4, "bob@example.com")))

        assert standing() == set()

    def test_number_is_a_setting(self, mails, settings):
        settings.MAIL_SOFT_BOUNCES = 2

        post(*(self.soft(each) for each in mails(2)))

        assert standing() == {(ADA, "soft_bounces", "postmark")}

    def test_release_begins_the_count_anew(self, mails, settings):
        settings.MAIL_SOFT_BOUNCES = 2
        first, second, third = mails(3)
        post(self.soft(first), self.soft(second))
        suppressions.release(ADA, by="an operator")

        post(self.soft(third, 30))

        assert standing() == set()


@pytest.mark.usefixtures("told")
@pytest.mark.django_db(transaction=True)
def test_many_who_suppress_the_same_wait_for_each_other_in_no_circle(settings):
    settings.WEBHOOK_AT_ONCE = 100
    addresses = [f"{number}@example.com" for number in range(100)]

    def suppress(number):
        order = addresses[number * 10 :] + addresses[: number * 10]
        return [post(*(bounce(address) for address in order[::step])).state for step in (1, -1, 3)]

    assert set(itertools.chain(*in_threads(6, suppress))) == {"processed"}
    assert {address for address, _, _ in standing()} == set(addresses)
