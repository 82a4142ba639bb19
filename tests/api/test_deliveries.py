"""What became of each mail: for its owner, and for operators."""

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from mailer.models import Attempt, DeliveryStatus
from mailer.status import Status
from tests.api.conftest import client_of, deliver, happen, make_user, places, problem_of

OWN = "/api/v1/accounts/me/deliveries"
ALL = "/api/v1/deliveries"

OWN_FIELDS = ["id", "kind", "recipient", "status", "status_at", "created_at", "updated_at", "sent_at", "delivered_at"]
ALL_FIELDS = [
    *OWN_FIELDS,
    *("message_id", "provider", "esp_message_id", "opened_at", "open_count", "clicked_at", "click_count"),
]
EVENT_FIELDS = ["event_type", "status", "effect", "occurred_at", "recorded_at", "source"]
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")
NOBODYS = "0190a6c4-7b3e-7c1a-9d3b-0f1e2d3c4b5a"
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def ids(response):
    assert response.status_code == 200, response.content
    return [UUID(row["id"]) for row in response.json()["results"]]


class TestOwnList:
    def test_shows_ones_own_newest_first(self, owner, ada):
        older, newer = deliver(user=ada, kind="verification"), deliver(user=ada)

        response = owner.get(OWN)

        assert [*response.json()] == ["next", "previous", "results"]
        assert ids(response) == [newer.pk, older.pk]
        assert [*response.json()["results"][0]] == OWN_FIELDS
        assert response.json()["results"][0]["recipient"] == "ada@example.com"

    def test_never_shows_others(self, owner, ada):
        grace = make_user("grace@example.com")
        others = [deliver(user=grace), deliver("ada@example.com", user=grace), deliver("ada@example.com")]

        assert ids(owner.get(OWN)) == []
        for other in others:
            problem_of(owner.get(f"{OWN}/{other.pk}"), 404, "not_found")

    def test_of_an_operator_shows_the_operators_own(self, supervisor, ada):
        other = deliver(user=ada)

        assert ids(supervisor.get(OWN)) == []
        problem_of(supervisor.get(f"{OWN}/{other.pk}"), 404, "not_found")

    def test_can_be_narrowed_by_status_and_kind(self, owner, ada):
        welcome = deliver(user=ada)
        verification = deliver(user=ada, kind="verification", events=["delivered"])

        assert ids(owner.get(OWN, {"kind": "welcome"})) == [welcome.pk]
        assert ids(owner.get(OWN, {"status": "delivered"})) == [verification.pk]
        assert ids(owner.get(OWN, {"status": ["delivered", "queued"]})) == [verification.pk, welcome.pk]

    @pytest.mark.parametrize("name", ["recipient", "provider", "q", "created_after", "user"])
    def test_has_no_operators_filters(self, owner, name):
        assert places(problem_of(owner.get(OWN, {name: "x"}), 400, "invalid")) == [(name, "unknown")]

    def test_takes_as_many_queries_for_many_as_for_one(self, owner, ada, django_assert_num_queries):
        deliver(user=ada)
        with django_assert_num_queries(3) as first:
            owner.get(OWN)
        for _ in range(19):
            deliver(user=ada, events=["sent", "delivered"])

        with django_assert_num_queries(len(first.captured_queries)):
            assert len(ids(owner.get(OWN))) == 20


class TestOwnDetail:
    def test_shows_its_events_oldest_first_and_nothing_raw(self, owner, ada):
        delivery = deliver(
            user=ada,
            events=["sent", "bounced"],
            provider="postmark",
            esp_message_id="esp-1",
            detail="smtp;550 go away",
            reject_reason="bounced",
        )

        body = owner.get(f"{OWN}/{delivery.pk}").json()

        assert [*body] == [*OWN_FIELDS, "events"]
        assert [event["event_type"] for event in body["events"]] == ["queued", "sent", "bounced"]
        assert all([*event] == EVENT_FIELDS for event in body["events"])
        assert (body["status"], body["events"][-1]["effect"]) == ("bounced", "changed")
        assert "go away" not in str(body)
        assert "esp-1" not in str(body)

    def test_orders_by_when_it_happened_not_by_when_we_heard(self, owner, ada):
        delivery = deliver(user=ada)
        queued = delivery.status_at
        for event_type, seconds in (("delivered", 20), ("sent", 10)):
            happen(delivery, event_type, occurred_at=queued + timedelta(seconds=seconds))

        events = owner.get(f"{OWN}/{delivery.pk}").json()["events"]

        assert [(event["event_type"], event["effect"]) for event in events] == [
            ("queued", "changed"),
            ("sent", "outranked"),
            ("delivered", "changed"),
        ]

    def test_times_are_utc_with_a_z(self, owner, ada):
        delivery = deliver(user=ada, events=["sent", "delivered"])

        body = owner.get(f"{OWN}/{delivery.pk}").json()

        times = [body[name] for name in OWN_FIELDS if name.endswith("_at")]
        times += [event[name] for event in body["events"] for name in ("occurred_at", "recorded_at")]
        assert len(times) == 11
        assert all(TIME.fullmatch(time) for time in times)

    @pytest.mark.parametrize("name", [NOBODYS, "nonsense", "1", "0" * 32])
    def test_of_what_is_not_there_is_404(self, owner, name):
        problem_of(owner.get(f"{OWN}/{name}"), 404, "not_found")


class TestList:
    def test_shows_everybodys_newest_first(self, operator, ada):
        older, newer = deliver("grace@example.com"), deliver(user=ada)

        response = operator.get(ALL)

        assert ids(response) == [newer.pk, older.pk]
        assert [*response.json()["results"][0]] == ALL_FIELDS

    @pytest.mark.parametrize("permissions", [(), ("view_recipient",), ("view_message",)])
    @pytest.mark.parametrize("path", [ALL, f"{ALL}/{NOBODYS}"])
    def test_is_for_those_who_may_see_deliveries(self, db, permissions, path):
        client = client_of(make_user("grace@example.com", *permissions))

        problem_of(client.get(path), 403, "permission_denied")

    def test_is_open_to_a_superuser(self, db):
        client = client_of(make_user("root@example.com", is_superuser=True))
        deliver()

        assert [row["recipient"] for row in client.get(ALL).json()["results"]] == ["ada@example.com"]

    @pytest.mark.parametrize(
        ("address", "masked"),
        [
            ("ada@example.com", "a***@example.com"),
            ("a@example.com", "a***@example.com"),
            ('"ada@home"@example.com', '"***@example.com'),
        ],
    )
    def test_masks_the_recipient(self, operator, supervisor, address, masked):
        deliver(address)

        assert operator.get(ALL).json()["results"][0]["recipient"] == masked
        assert supervisor.get(ALL).json()["results"][0]["recipient"] == address

    @pytest.mark.parametrize("who", ["operator", "supervisor"])
    def test_takes_as_many_queries_for_many_as_for_one(self, who, request, django_assert_num_queries):
        client = request.getfixturevalue(who)
        deliver()
        with django_assert_num_queries(5) as first:  # token, its siblings, two of permissions, the list
            client.get(ALL)
        for number in range(19):
            deliver(f"{number}@example.com", user=make_user(f"user-{number}@example.com"), events=["sent", "delivered"])

        with django_assert_num_queries(len(first.captured_queries)):
            assert len(ids(client.get(ALL))) == 20


class TestFilters:
    @pytest.fixture
    def rows(self, db):
        return {
            "queued": deliver("ada@example.com", kind="verification"),
            "sent": deliver("grace@example.com", events=["sent"], provider="postmark", esp_message_id="esp-1"),
            "delivered": deliver("ada@example.com", events=["delivered"], provider="resend", esp_message_id="esp-2"),
            "bounced": deliver("alan@example.com", events=["bounced"], provider="resend", esp_message_id="esp-1"),
        }

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ({}, ["bounced", "delivered", "sent", "queued"]),
            ({"status": "sent"}, ["sent"]),
            ({"status": ["sent", "bounced"]}, ["bounced", "sent"]),
            ({"status": ["sent", "sent"]}, ["sent"]),
            ({"status": "complained"}, []),
            ({"kind": "verification"}, ["queued"]),
            ({"kind": "account_exists"}, []),
            ({"provider": "resend"}, ["bounced", "delivered"]),
            ({"provider": "resend", "status": "delivered"}, ["delivered"]),
            ({"q": "esp-2"}, ["delivered"]),
            ({"q": "esp-1"}, ["bounced", "sent"]),
            ({"q": "esp"}, []),
        ],
        ids=str,
    )
    def test_operator_finds(self, operator, rows, query, found):
        assert ids(operator.get(ALL, query)) == [rows[name].pk for name in found]

    @pytest.mark.parametrize("name", ["recipient", "q"])
    @pytest.mark.parametrize(
        ("address", "found"),
        [
            ("ada@example.com", ["delivered", "queued"]),
            ("ADA@EXAMPLE.COM", ["delivered", "queued"]),
            (" ada@ｅxample.com ", ["delivered", "queued"]),
            ("da@example.com", []),
            ("@", []),
        ],
    )
    def test_supervisor_finds_by_any_spelling_of_the_whole_address(self, supervisor, rows, name, address, found):
        assert ids(supervisor.get(ALL, {name: address})) == [rows[one].pk for one in found]

    def test_every_status_can_be_asked_for(self, operator, rows):
        assert len(ids(operator.get(ALL, {"status": [*Status]}))) == len(rows)

    @pytest.mark.parametrize(
        "write", [str, lambda identifier: identifier.hex, lambda identifier: str(identifier).upper()]
    )
    def test_q_finds_a_delivery_and_a_message_by_id(self, operator, rows, write):
        wanted = rows["sent"]

        assert ids(operator.get(ALL, {"q": write(wanted.pk)})) == [wanted.pk]
        assert ids(operator.get(ALL, {"q": write(wanted.message_id)})) == [wanted.pk]
        assert ids(operator.get(ALL, {"q": str(uuid4())})) == []

    def test_q_finds_the_providers_id_where_that_is_a_uuid(self, operator, db):
        identifier = str(uuid4())
        delivery = deliver(events=["sent"], provider="postmark", esp_message_id=identifier)

        assert ids(operator.get(ALL, {"q": identifier})) == [delivery.pk]

    def test_the_time_of_creation_is_from_and_up_to(self, operator, rows):
        for number, delivery in enumerate(rows.values()):
            DeliveryStatus.objects.filter(pk=delivery.pk).update(created_at=NOON + timedelta(hours=number))
        one, two = NOON + timedelta(hours=1), NOON + timedelta(hours=2)

        found = ids(operator.get(ALL, {"created_after": one.isoformat(), "created_before": two.isoformat()}))

        assert found == [rows["sent"].pk]
        assert ids(operator.get(ALL, {"created_after": "2026-11-21T14:00:00Z"})) == [
            rows["bounced"].pk,
            rows["delivered"].pk,
        ]
        assert ids(operator.get(ALL, {"created_before": "2026-11-21T13:00:00+01:00"})) == []

    @pytest.mark.parametrize("name", ["recipient", "q"])
    @pytest.mark.parametrize("address", ["ada@example.com", "nobody@example.com"])
    def test_who_sees_no_addresses_may_not_try_them(self, operator, rows, name, address):
        problem = problem_of(operator.get(ALL, {name: address}), 403, "permission_denied")

        assert "example.com" not in str(problem)

    @pytest.mark.parametrize(
        ("query", "wrong"),
        [
            ({"status": "lost"}, [("status", "invalid_choice")]),
            ({"status": ["sent", "lost"]}, [("status", "invalid_choice")]),
            ({"status": ""}, [("status", "blank")]),
            ({"status": ["sent", ""]}, [("status", "blank")]),
            ({"created_after": ""}, [("created_after", "blank")]),
            ({"q": " ", "kind": ""}, [("kind", "blank"), ("q", "blank")]),
            ({"kind": "spam"}, [("kind", "invalid_choice")]),
            ({"provider": "pigeon"}, [("provider", "invalid_choice")]),
            ({"created_after": "yesterday"}, [("created_after", "invalid")]),
            ({"created_before": "2026-13-01T00:00:00Z"}, [("created_before", "invalid")]),
            ({"q": "a\x00b"}, [("q", "null_characters_not_allowed")]),
            ({"recipient": "a\x00@b.example"}, [("recipient", "null_characters_not_allowed")]),
            ({"state": "sent"}, [("state", "unknown")]),
            ({"status[]": "sent"}, [("status[]", "unknown")]),
            ({"tag": "a", "format": "json"}, [("format", "unknown"), ("tag", "unknown")]),
            ({"status": "lost", "kind": "spam"}, [("status", "invalid_choice"), ("kind", "invalid_choice")]),
        ],
        ids=str,
    )
    def test_what_is_wrong_is_named(self, supervisor, query, wrong):
        assert places(problem_of(supervisor.get(ALL, query), 400, "invalid")) == wrong

    @pytest.mark.parametrize("name", ["status", "kind", "provider", "created_after", "cursor", "page_size"])
    def test_no_error_repeats_what_was_sent(self, operator, name):
        response = operator.get(ALL, {name: "grace@example.com"})

        problem_of(response, 400, "invalid")
        assert "grace" not in response.content.decode()

    @pytest.mark.parametrize("name", ["created_after", "created_before"])
    @pytest.mark.parametrize(
        "time",
        [
            *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "0001-01-01", "9999-12-31T23:59:59Z"),
            *("2026-11-21T12:00:00+15:59", "2026-11-21T12:00:00+16:00", "2026-11-21T12:00:00-23:59"),
        ],
    )
    def test_the_ends_of_time_are_no_error_of_ours(self, operator, name, time):
        assert operator.get(ALL, {name: time}).status_code in {200, 400}

    def test_a_status_costs_no_sort_to_tell_rows_apart(self, operator, rows, django_assert_max_num_queries):
        with django_assert_max_num_queries(5) as queries:
            operator.get(ALL, {"status": ["sent", "bounced"]})

        assert not [query for query in queries.captured_queries if "DISTINCT" in query["sql"]]


class TestDetail:
    def test_shows_what_happened_and_what_was_tried(self, operator):
        receipt = uuid4()
        delivery = deliver()
        happen(
            delivery,
            "bounced",
            provider="postmark",
            esp_message_id="esp-1",
            esp_event_id="event-1",
            reject_reason="bounced",
            detail="smtp;550 no such user",
            receipt_id=receipt,
        )
        Attempt.objects.create(
            message_id=delivery.message_id, token=1, provider="postmark", outcome="accepted", http_status=200
        )

        body = operator.get(f"{ALL}/{delivery.pk}").json()

        assert [*body] == [*ALL_FIELDS, "correlation_id", "events", "attempts"]
        assert body["message_id"] == str(delivery.message_id)
        assert (body["provider"], body["esp_message_id"]) == ("postmark", "esp-1")
        assert body["correlation_id"] == delivery.message.correlation_id
        event = body["events"][-1]
        assert [*event] == [
            *EVENT_FIELDS,
            *("provider", "esp_message_id", "esp_event_id", "reject_reason", "detail", "receipt_id"),
        ]
        assert (event["esp_event_id"], event["reject_reason"], event["detail"]) == (
            "event-1",
            "bounced",
            "smtp;550 no such user",
        )
        assert event["receipt_id"] == str(receipt)
        attempt = body["attempts"][0]
        assert [*attempt] == ["provider", "started_at", "finished_at", "outcome", "http_status", "error_class"]
        assert (attempt["outcome"], attempt["http_status"], attempt["finished_at"]) == ("accepted", 200, None)

    def test_carries_the_id_of_the_request_that_caused_it(self, anyone, operator):
        anyone.post("/api/v1/accounts/register", {"email": "ada@example.com", "password": "correct horse battery"})
        delivery = DeliveryStatus.objects.get()

        correlation_id = operator.get(f"{ALL}/{delivery.pk}").json()["correlation_id"]

        assert UUID(correlation_id)

    def test_attempts_come_in_the_order_they_were_made(self, operator):
        delivery = deliver()
        for token in (3, 1, 2):
            Attempt.objects.create(
                message_id=delivery.message_id, token=token, provider="resend", http_status=500 + token
            )

        attempts = operator.get(f"{ALL}/{delivery.pk}").json()["attempts"]

        assert [attempt["http_status"] for attempt in attempts] == [501, 502, 503]

    @pytest.mark.parametrize(
        ("detail", "masked"),
        [
            ("smtp;550 5.1.1 <ada@example.com>: unknown", "smtp;550 5.1.1 <a***@example.com>: unknown"),
            ("ada@example.com and grace@example.net", "a***@example.com and g***@example.net"),
            ('to "ada lovelace"@example.com', 'to "***@example.com'),
            ("rfc822;ada@example.com", "r***@example.com"),
            ("ada@home@example.com", "a***@h***@example.com"),
            ("grüße@bücher.example", "g***@bücher.example"),
            ("5.0.0 mailbox full", "5.0.0 mailbox full"),
            ("@ alone", "@ alone"),
        ],
    )
    def test_masks_addresses_in_what_providers_say(self, operator, supervisor, detail, masked):
        delivery = deliver(events=["bounced"], detail=detail)

        seen = [client.get(f"{ALL}/{delivery.pk}").json()["events"][-1]["detail"] for client in (operator, supervisor)]

        assert seen == [masked, detail]

    def test_has_nothing_of_the_mail_itself(self, supervisor):
        delivery = deliver()
        message = delivery.message
        message.content = {"subject": "the subject", "text": "the text", "html": "the html", "from_email": "the sender"}
        message.context = {"challenge_id": "the challenge"}
        message.save()

        body = supervisor.get(f"{ALL}/{delivery.pk}").content.decode()

        assert not [word for word in ("subject", "text", "html", "challenge") if f"the {word}" in body]

    @pytest.mark.parametrize("who", ["operator", "supervisor"])
    def test_takes_as_many_queries_for_many_events_as_for_one(self, who, request, django_assert_num_queries):
        client = request.getfixturevalue(who)
        delivery = deliver()
        with django_assert_num_queries(7) as first:
            client.get(f"{ALL}/{delivery.pk}")
        for token in range(20):
            happen(delivery, "opened", detail="ada@example.com")
            Attempt.objects.create(message_id=delivery.message_id, token=token, provider="resend")

        with django_assert_num_queries(len(first.captured_queries)):
            assert len(client.get(f"{ALL}/{delivery.pk}").json()["events"]) == 21

    @pytest.mark.parametrize("name", [NOBODYS, "nonsense", "1"])
    def test_of_what_is_not_there_is_404(self, operator, name):
        problem_of(operator.get(f"{ALL}/{name}"), 404, "not_found")

    @pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
    def test_nobody_writes_a_delivery(self, supervisor, method):
        path = f"{ALL}/{deliver().pk}"

        problem_of(getattr(supervisor, method)(path, {"status": "delivered"}), 405, "method_not_allowed")
