"""What providers have posted: to look at, and to have it read again."""

from datetime import timedelta
from uuid import UUID

import pytest
from django.utils import timezone

from mailer.models import DeliveryEvent, DeliveryStatus
from tests.api.conftest import client_of, deliver, make_user, places, post, problem_of
from webhooks.models import WebhookReceipt

pytestmark = pytest.mark.django_db

ALL = "/api/v1/webhook-receipts"
NOBODYS = "0190a6c4-7b3e-7c1a-9d3b-0f1e2d3c4b5a"
FIELDS = [
    *("id", "provider", "received_at", "request_id", "state", "error"),
    *("events", "unreadable", "new_events", "attempts", "run_at"),
]


def ids(response):
    assert response.status_code == 200, response.content
    return [UUID(row["id"]) for row in response.json()["results"]]


def lose(delivery):
    """Let a webhook have come in that nobody could read then."""
    receipt = post(delivery)
    DeliveryEvent.objects.filter(receipt_id=receipt.pk).delete()
    first = DeliveryEvent.objects.get(delivery=delivery)
    DeliveryStatus.objects.filter(pk=delivery.pk).update(
        status=first.status, status_rank=first.rank, status_at=first.occurred_at, status_key=first.dedupe_key
    )
    WebhookReceipt.objects.filter(pk=receipt.pk).update(state="poison", error="KeyError", new_events=0)
    return receipt


class TestList:
    def test_shows_receipts_newest_first_without_what_was_posted(self, repairer):
        older, newer = post(deliver()), post(deliver(), b"{")

        response = repairer.get(ALL)

        assert ids(response) == [newer.pk, older.pk]
        assert [*response.json()["results"][0]] == FIELDS
        assert "example.com" not in response.content.decode()

    def test_never_reads_bodies(self, repairer, django_assert_num_queries):
        for _ in range(3):
            post(deliver())

        with django_assert_num_queries(5) as asked:
            assert len(ids(repairer.get(ALL))) == 3
        assert not any('"body"' in query["sql"] for query in asked.captured_queries)

    def test_shows_one_that_waits_for_a_worker(self, repairer, settings):
        settings.WEBHOOK_AT_ONCE = 0
        waiting = post(deliver())

        [row] = repairer.get(ALL, {"state": "waiting"}).json()["results"]

        assert (row["id"], row["events"], row["new_events"]) == (str(waiting.pk), 1, 0)
        assert row["run_at"]

    def test_can_be_narrowed(self, repairer):
        read, poison = post(deliver()), post(deliver(), b"{")
        now = timezone.now()

        assert ids(repairer.get(ALL, {"state": "poison"})) == [poison.pk]
        assert ids(repairer.get(ALL, {"provider": "resend"})) == []
        assert ids(repairer.get(ALL, {"provider": "postmark"})) == [poison.pk, read.pk]
        assert ids(repairer.get(ALL, {"received_before": (now - timedelta(hours=1)).isoformat()})) == []
        assert len(ids(repairer.get(ALL, {"received_after": (now - timedelta(hours=1)).isoformat()}))) == 2

    @pytest.mark.parametrize(
        ("query", "code"),
        [("state", "invalid_choice"), ("provider", "invalid_choice"), ("recipient", "unknown"), ("body", "unknown")],
    )
    def test_refuses_what_does_not_exist(self, repairer, query, code):
        assert places(problem_of(repairer.get(ALL, {query: "x"}), 400, "invalid")) == [(query, code)]


class TestDetail:
    @pytest.mark.parametrize(
        "body", [b"email=grace%40example.com&x=1", rb'{"to": "grace\u0040example.com"}', b"x=%22grace%2540example.com"]
    )
    def test_masks_addresses_that_are_escaped(self, repairer, body):
        receipt = WebhookReceipt.objects.create(provider="mandrill", body=body, state="processed")

        shown = repairer.get(f"{ALL}/{receipt.pk}").json()["body"]

        assert "g***" in shown
        assert "race" not in shown

    def test_shows_what_was_posted_its_addresses_masked(self, repairer):
        receipt = post(deliver("grace@example.com"))

        body = repairer.get(f"{ALL}/{receipt.pk}").json()

        assert [*body] == [*FIELDS, "headers", "body"]
        assert '"MessageID": "esp-1"' in body["body"]
        assert "***@example.com" in body["body"]
        assert "grace" not in body["body"]

    @pytest.mark.parametrize("posted", [b"recipient=grace%40example.com", rb'{"to": "grace\u0040example.com"}'])
    def test_masks_addresses_however_the_provider_spells_them(self, repairer, posted):
        receipt = post(deliver(), posted)

        shown = repairer.get(f"{ALL}/{receipt.pk}").json()["body"]

        assert "g***" in shown
        assert "race" not in shown

    def test_shows_whole_addresses_to_those_who_may_see_them(self):
        seeing = client_of(make_user("eve@example.net", "view_webhookreceipt", "view_recipient"))
        receipt = post(deliver("grace@example.com"))

        assert "grace@example.com" in seeing.get(f"{ALL}/{receipt.pk}").json()["body"]

    def test_shows_bytes_that_are_no_text(self, repairer):
        assert repairer.get(f"{ALL}/{post(deliver(), bytes([255, 0, 65])).pk}").json()["body"] == "\ufffd\0A"

    def test_of_one_that_does_not_exist_is_not_found(self, repairer):
        problem_of(repairer.get(f"{ALL}/{NOBODYS}"), 404, "not_found")


class TestReplay:
    def test_records_what_was_not_read_and_says_what_changed(self, repairer):
        delivery = deliver()
        receipt = lose(delivery)

        answer = repairer.post(f"{ALL}/{receipt.pk}/replay")

        assert (answer.status_code, answer.json()) == (
            200,
            {
                "new_events": 1,
                "parked": 0,
                "differing": 0,
                "error": "",
                "changes": [{"delivery_id": str(delivery.pk), "old_status": "queued", "new_status": "delivered"}],
            },
        )
        delivery.refresh_from_db()
        assert delivery.status == "delivered"
        assert repairer.get(f"{ALL}/{receipt.pk}").json()["state"] == "processed"

    def test_dry_run_says_the_same_and_changes_nothing(self, repairer):
        delivery = deliver()
        receipt = lose(delivery)

        answer = repairer.post(f"{ALL}/{receipt.pk}/replay", {"dry_run": True}).json()

        assert (answer["new_events"], answer["changes"][0]["new_status"]) == (1, "delivered")
        delivery.refresh_from_db()
        assert delivery.status == "queued"
        assert WebhookReceipt.objects.get().state == "poison"

    def test_of_what_is_known_changes_nothing(self, repairer):
        receipt = post(deliver())

        answers = [repairer.post(f"{ALL}/{receipt.pk}/replay").json() for _ in range(2)]

        assert [(answer["new_events"], answer["changes"], answer["error"]) for answer in answers] == [(0, [], "")] * 2

    def test_of_what_cannot_be_read_names_the_error(self, repairer):
        receipt = post(deliver(), b"{")

        assert repairer.post(f"{ALL}/{receipt.pk}/replay").json()["error"] == "Unreadable"

    def test_of_one_that_does_not_exist_is_not_found(self, repairer):
        problem_of(repairer.post(f"{ALL}/{NOBODYS}/replay"), 404, "not_found")

    def test_refuses_what_is_no_answer_to_dry_run(self, repairer):
        receipt = post(deliver())

        assert places(problem_of(repairer.post(f"{ALL}/{receipt.pk}/replay", {"dry_run": "x"}), 400, "invalid")) == [
            ("#/dry_run", "invalid")
        ]


class TestPermissions:
    @pytest.mark.parametrize("who", ["owner", "operator", "supervisor"])
    def test_others_may_neither_see_nor_replay(self, request, who):
        client, receipt = request.getfixturevalue(who), post(deliver())

        for answer in (
            client.get(ALL),
            client.get(f"{ALL}/{receipt.pk}"),
            client.post(f"{ALL}/{receipt.pk}/replay"),
        ):
            problem_of(answer, 403, "permission_denied")

    def test_who_may_only_see_may_not_replay(self):
        seeing = client_of(make_user("eve@example.net", "view_webhookreceipt"))
        receipt = post(deliver())

        assert seeing.get(f"{ALL}/{receipt.pk}").status_code == 200
        problem_of(seeing.post(f"{ALL}/{receipt.pk}/replay"), 403, "permission_denied")

    def test_without_a_token_is_401(self, anyone):
        receipt = post(deliver())

        for answer in (anyone.get(ALL), anyone.get(f"{ALL}/{receipt.pk}"), anyone.post(f"{ALL}/{receipt.pk}/replay")):
            problem_of(answer, 401, "not_authenticated")
