"""The action of the admin that reads receipts again."""

import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse

from tests.webhooks.conftest import delivery_of
from users.models import User
from webhooks.models import WebhookReceipt

pytestmark = pytest.mark.django_db


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
