"""Having many receipts read again: which, how many at a time, and where it goes on."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from api import replays
from mailer.models import DeliveryEvent, DeliveryStatus
from tests.api.conftest import client_of, deliver, make_user, places, post, problem_of
from tests.api.test_receipts import lose
from webhooks import replaying
from webhooks.models import WebhookReceipt

pytestmark = pytest.mark.django_db

REPLAY = "/api/v1/webhook-receipts/replay"


def answered(response):
    assert response.status_code == 200, response.content
    return response.json()


def lost(count):
    """Let webhooks have come in that nobody could read then; return receipts and deliveries, oldest first."""
    deliveries = [deliver(f"{number}@example.com") for number in range(count)]
    return [lose(delivery) for delivery in deliveries], deliveries


def statuses(deliveries):
    found = dict(DeliveryStatus.objects.values_list("pk", "status"))
    return [found[delivery.pk] for delivery in deliveries]


class TestWhich:
    def test_those_in_a_state(self, repairer):
        _, deliveries = lost(2)
        post(deliver())

        answer = answered(repairer.post(REPLAY, {"state": "poison"}))

        assert answer == {
            "receipts": 2,
            "new_events": 2,
            "parked": 0,
            "differing": 0,
            "changes": [
                {"delivery_id": str(delivery.pk), "old_status": "queued", "new_status": "delivered"}
                for delivery in deliveries
            ],
            "failures": [],
            "next": None,
        }
        assert statuses(deliveries) == ["delivered"] * 2

    def test_those_with_some_ids(self, repairer):
        receipts, deliveries = lost(3)

        answer = answered(repairer.post(REPLAY, {"ids": [str(receipts[0].pk), str(receipts[2].pk), str(uuid4())]}))

        assert (answer["receipts"], answer["next"]) == (2, None)
        assert statuses(deliveries) == ["delivered", "queued", "delivered"]

    def test_those_of_a_provider_and_a_time(self, repairer):
        receipts, deliveries = lost(3)
        now = timezone.now()
        WebhookReceipt.objects.filter(pk=receipts[0].pk).update(provider="resend")
        WebhookReceipt.objects.filter(pk=receipts[1].pk).update(received_at=now - timedelta(minutes=30))
        since = (now - timedelta(minutes=5)).isoformat()

        answer = answered(repairer.post(REPLAY, {"provider": "postmark", "received_after": since}))
        assert (answer["receipts"], statuses(deliveries)) == (1, ["queued", "queued", "delivered"])
        answer = answered(repairer.post(REPLAY, {"provider": "postmark", "received_before": since}))
        assert (answer["receipts"], statuses(deliveries)) == (1, ["queued", "delivered", "delivered"])

    def test_dry_run_says_what_would_change_and_changes_nothing(self, repairer):
        _, deliveries = lost(2)

        answer = answered(repairer.post(REPLAY, {"state": "poison", "dry_run": True}))

        assert (answer["receipts"], answer["new_events"], len(answer["changes"])) == (2, 2, 2)
        assert statuses(deliveries) == ["queued"] * 2
        assert DeliveryEvent.objects.filter(source="webhook").count() == 0
        assert WebhookReceipt.objects.filter(state="poison").count() == 2

    def test_what_fails_is_named_and_harms_no_other(self, repairer):
        bad = post(deliver(), b"{")
        _, deliveries = lost(1)

        answer = answered(repairer.post(REPLAY, {"state": "poison"}))

        assert answer["failures"] == [{"receipt_id": str(bad.pk), "error": "Unreadable"}]
        assert statuses(deliveries) == ["delivered"]


class TestSomeAtATime:
    @pytest.mark.parametrize("dry_run", [False, True])
    def test_goes_on_where_it_stopped(self, repairer, dry_run):
        _, deliveries = lost(5)
        asked = {"provider": "postmark", "limit": 2, "dry_run": dry_run}

        answers = [answered(repairer.post(REPLAY, asked))]
        while answers[-1]["next"]:
            answers.append(answered(repairer.post(REPLAY, {**asked, "cursor": answers[-1]["next"]})))

        assert [answer["receipts"] for answer in answers] == [2, 2, 1]
        changed = [change["delivery_id"] for answer in answers for change in answer["changes"]]
        assert changed == [str(delivery.pk) for delivery in deliveries]
        assert statuses(deliveries) == ["queued" if dry_run else "delivered"] * 5

    def test_ids_go_on_too(self, repairer):
        receipts, deliveries = lost(3)
        asked = {"ids": [str(receipt.pk) for receipt in receipts], "limit": 2}

        first = answered(repairer.post(REPLAY, asked))
        second = answered(repairer.post(REPLAY, {**asked, "cursor": first["next"]}))

        assert (first["receipts"], second["receipts"], second["next"]) == (2, 1, None)
        assert statuses(deliveries) == ["delivered"] * 3

    def test_what_comes_in_meanwhile_is_left_out(self, repairer):
        lost(2)
        asked = {"provider": "postmark", "limit": 1}
        first = answered(repairer.post(REPLAY, asked))

        lost(2)
        second = answered(repairer.post(REPLAY, {**asked, "limit": 100, "cursor": first["next"]}))

        assert (second["receipts"], second["next"]) == (1, None)

    def test_one_request_looks_among_so_many_only(self, repairer, monkeypatch):
        monkeypatch.setattr(replays, "AMONG", 3)
        for _ in range(7):
            post(deliver())
        _, [delivery] = lost(1)

        answers = [answered(repairer.post(REPLAY, {"state": "poison"}))]
        while answers[-1]["next"]:
            answers.append(answered(repairer.post(REPLAY, {"state": "poison", "cursor": answers[-1]["next"]})))

        assert [answer["receipts"] for answer in answers] == [0, 0, 1]
        assert statuses([delivery]) == ["delivered"]

    def test_what_takes_long_ends_early(self, repairer, monkeypatch):
        monkeypatch.setattr(replaying, "SECONDS", 0.0)
        monkeypatch.setattr(replaying, "STEP", 1)
        lost(3)

        answer = answered(repairer.post(REPLAY, {"state": "poison"}))

        assert answer["receipts"] == 1
        assert answer["next"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "place"),
        [
            ({}, ("#/ids", "invalid")),
            ({"dry_run": True}, ("#/ids", "invalid")),
            ({"ids": [str(uuid4())], "state": "poison"}, ("#/ids", "invalid")),
            ({"ids": []}, ("#/ids", "empty")),
            ({"ids": ["x"]}, ("#/ids/0", "invalid")),
            ({"ids": [False]}, ("#/ids/0", "invalid")),
            ({"ids": [1]}, ("#/ids/0", "invalid")),
            ({"ids": ["0190a6c47b4e7c1a9d3b0f1e2d3c4b5b"]}, ("#/ids/0", "invalid")),
            ({"state": "poison", "dry_run": "no"}, ("#/dry_run", "invalid")),
            ({"state": "poison", "dry_run": 0}, ("#/dry_run", "invalid")),
            ({"state": "poison", "limit": "1"}, ("#/limit", "invalid")),
            ({"state": "poison", "limit": True}, ("#/limit", "invalid")),
            ({"state": "poison", "limit": 1.5}, ("#/limit", "invalid")),
            ({"state": "poison", "cursor": 5}, ("#/cursor", "invalid")),
            ({"provider": "nobody"}, ("#/provider", "invalid_choice")),
            ({"state": "lost"}, ("#/state", "invalid_choice")),
            ({"received_after": "yesterday"}, ("#/received_after", "invalid")),
            ({"state": "poison", "limit": 0}, ("#/limit", "min_value")),
            ({"state": "poison", "limit": 1001}, ("#/limit", "max_value")),
            ({"state": "poison", "cursor": "x"}, ("#/cursor", "invalid")),
            ({"state": "poison", "cursor": "\u00e4" * 43}, ("#/cursor", "invalid")),
            ({"state": "poison", "cursor": "AAAA"}, ("#/cursor", "invalid")),
        ],
    )
    def test_what_names_no_receipts(self, repairer, body, place):
        assert places(problem_of(repairer.post(REPLAY, body), 400, "invalid")) == [place]

    @pytest.mark.parametrize(
        ("body", "place"),
        [
            (r'{"state": "\ud800"}', ("#/state", "invalid_choice")),
            (r'{"provider": "\udfff"}', ("#/provider", "invalid_choice")),
            (r'{"ids": ["\ud800"]}', ("#/ids/0", "invalid")),
            (r'{"received_after": "\ud800"}', ("#/received_after", "invalid")),
        ],
    )
    def test_half_a_surrogate_pair_is_refused_and_not_repeated(self, repairer, body, place):
        response = repairer.generic("POST", REPLAY, body, content_type="application/json")

        assert places(problem_of(response, 400, "invalid")) == [place]

    @pytest.mark.parametrize("who", ["owner", "operator", "supervisor"])
    def test_others_may_not(self, request, who):
        problem_of(request.getfixturevalue(who).post(REPLAY, {"state": "poison"}), 403, "permission_denied")

    def test_who_may_only_see_may_not(self):
        seeing = client_of(make_user("eve@example.net", "view_webhookreceipt"))

        problem_of(seeing.post(REPLAY, {"state": "poison"}), 403, "permission_denied")

    def test_without_a_token_is_401(self, anyone):
        problem_of(anyone.post(REPLAY, {"state": "poison"}), 401, "not_authenticated")
