"""Receipts, as the admin shows them."""

import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse

from tests.webhooks import payloads
from users.models import User
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
