"""Receipts to read again."""

from dataclasses import replace

import pytest

from mailer.models import DeliveryEvent, DeliveryStatus, Suppression
from tests.webhooks import payloads
from webhooks import replaying
from webhooks.models import WebhookReceipt
from webhooks.providers import WEBHOOKS
from webhooks.replaying import Selection


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
