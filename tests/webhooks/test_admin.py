"""Receipts, as the admin shows them."""

from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse

from tests.webhooks import payloads
from users.models import User
from webhooks import replaying
from webhooks.models import WebhookReceipt

pytestmark = pytest.mark.django_db


class TestAdmin:
    def test_receipts_are_shown_and_not_changed(self, admin_client, post_postmark):
        post_postmark(payloads.postmark("Delivery"))
        receipt = WebhookReceipt.objects.get()
        place = "admin:webhooks_webhookreceipt"

        answers = {
            "list": admin_client.get(reverse(f"{place}_changelist"), {"q": str(receipt.pk)}),
            "detail": admin_client.get(reverse(f"{place}_change", args=[receipt.pk])),
            "add": admin_client.get(reverse(f"{place}_add")),
            "delete": admin_client.post(reverse(f"{place}_delete", args=[receipt.pk]), {"post": "yes"}),
        }

        assert {name: answer.status_code for name, answer in answers.items()} == {
            "list": 200,
            "detail": 200,
            "add": 403,
            "delete": 403,
        }
        assert payloads.POSTMARK_ID in answers["detail"].content.decode()

    def test_those_that_wait_for_a_worker_are_found(self, post_postmark, admin_client, settings):
        post_postmark(payloads.postmark("Open"))
        settings.WEBHOOK_AT_ONCE = 0
        post_postmark(payloads.postmark("Delivery"))
        done, waiting = WebhookReceipt.objects.order_by("pk")

        listed = admin_client.get(reverse("admin:webhooks_webhookreceipt_changelist"), {"state": "waiting"})

        assert str(waiting.pk) in listed.content.decode()
        assert str(done.pk) not in listed.content.decode()


@pytest.mark.django_db
@pytest.mark.parametrize("sign", ["@", "%40", r"\u0040"])
def test_receipt_is_masked_for_those_who_may_not_see_addresses(client, sign):
    local, domain = payloads.RECIPIENT.split("@")
    WebhookReceipt.objects.create(provider="postmark", body=f'"{local}{sign}{domain}"'.encode(), state="processed")
    staff = User.objects.create_user("staff@example.com", is_staff=True)
    staff.user_permissions.add(Permission.objects.get(codename="view_webhookreceipt"))
    client.force_login(staff)

    page = client.get(reverse("admin:webhooks_webhookreceipt_change", args=[WebhookReceipt.objects.get().pk]))

    assert page.status_code == 200
    assert f"{local[0]}***{sign}example.com" in page.content.decode()
    assert local not in page.content.decode()


class TestReplaying:
    @staticmethod
    def replay(client, ids):
        """Choose the action for receipts, and return the page that says what came of it."""
        chosen = {"action": "replay", "_selected_action": [str(identifier) for identifier in ids]}
        return client.post(reverse("admin:webhooks_webhookreceipt_changelist"), chosen, follow=True).content.decode()

    def test_nothing_is_replayed_where_the_chosen_are_gone(self, post_postmark, admin_client):
        post_postmark(payloads.postmark("Delivery"))

        assert not replaying.Selection(ids=[]).receipts().exists()
        assert "These receipts are kept no longer." in (page := self.replay(admin_client, [uuid4()]))
        assert "replayed:" not in page

    def test_what_takes_long_is_left_and_told(self, post_postmark, admin_client, monkeypatch):
        monkeypatch.setattr(replaying, "SECONDS", 0.0)
        monkeypatch.setattr(replaying, "STEP", 1)
        for kind in ("Delivery", "Open", "Click"):
            post_postmark(payloads.postmark(kind))
        ids = list(WebhookReceipt.objects.order_by("pk").values_list("pk", flat=True))

        page = self.replay(admin_client, ids)

        assert "1 of 3 receipts replayed: 0 new events, 0 statuses changed." in page
        assert f"2 were left, since this took long; the first of them is {ids[1]}." in page
        assert "were left" not in self.replay(admin_client, ids[2:])
