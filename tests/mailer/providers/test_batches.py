"""Many messages in one request: what Anymail builds for each, joined; the answers of the providers' pages, split."""

import json

import pytest
import requests
from django.core.mail import get_connection

from mailer.providers import PROVIDERS
from mailer.verdicts import Verdict
from tests.mailer.providers.conftest import email_to

RECIPIENTS = ["receiver1@example.com", "receiver2@example.com"]

# The second of two messages is refused: name -> (the status and body of the answer, who got which id and status).
BATCHES = {
    "postmark": (
        200,
        [
            {
                "ErrorCode": 0,
                "Message": "OK",
                "MessageID": "b7bc2f4a-e38e-4336-af7d-e6c392c2f817",
                "SubmittedAt": "2010-11-26T12:01:05.1794748-05:00",
                "To": "receiver1@example.com",
            },
            {
                "ErrorCode": 406,
                "Message": "You tried to send to a recipient that has been marked as inactive. Found inactive"
                " addresses: receiver2@example.com. Inactive recipients are ones that have generated a hard"
                " bounce, a spam complaint, or a manual suppression.",
            },
        ],
        [("b7bc2f4a-e38e-4336-af7d-e6c392c2f817", "sent"), (None, "rejected")],
    ),
    "mailjet": (
        400,
        {
            "Messages": [
                {
                    "Status": "success",
                    "CustomID": "",
                    "To": [
                        {
                            "Email": "receiver1@example.com",
                            "MessageUUID": "123",
                            "MessageID": 456,
                            "MessageHref": "https://api.mailjet.com/v3/message/456",
                        }
                    ],
                    "Cc": [],
                    "Bcc": [],
                },
                {
                    "Status": "error",
                    "Errors": [
                        {
                            "ErrorIdentifier": "f987008f-251a-4dff-8ffc-40f1583ad7bc",
                            "ErrorCode": "mj-0013",
                            "StatusCode": 400,
                            "ErrorMessage": '"receiver2" is an invalid email address.',
                            "ErrorRelatedTo": ["To[0].Email"],
                        }
                    ],
                },
            ]
        },
        [("456", "sent"), (None, "failed")],
    ),
    "mailtrap": (
        200,
        {
            "success": True,
            "responses": [
                {"success": True, "message_ids": ["53f764a0-4dca-11f0-0000-f185d7639148"]},
                {"success": False, "errors": ["'to' address is invalid"]},
            ],
        },
        [("53f764a0-4dca-11f0-0000-f185d7639148", "queued"), None],
    ),
    "resend": (
        200,
        {
            "data": [{"id": "ae2014de-c168-4c61-8267-70d2662a1ce1"}],
            "errors": [{"index": 1, "message": "The `to` field is missing."}],
        },
        [("ae2014de-c168-4c61-8267-70d2662a1ce1", "queued"), None],
    ),
}

# What the request for two carries for the second.
SECOND = {
    "postmark": lambda body: body[1]["To"],
    "mailjet": lambda body: body["Messages"][1]["To"][0]["Email"],
    "mailtrap": lambda body: body["requests"][1]["to"][0]["email"],
    "resend": lambda body: body[1]["to"][0],
}


def answered(status, body):
    response = requests.Response()
    response.status_code = status
    response.headers["Content-Type"] = "application/json"
    response._content = json.dumps(body).encode()
    return response


class TestBatch:
    def test_all_batches_are_joined_here(self):
        assert {provider.name for provider in PROVIDERS.values() if provider.batch} == {*BATCHES} == {*SECOND}

    @pytest.mark.parametrize("name", BATCHES)
    def test_joined_request_carries_each_message_whole(self, name, build):
        batch = PROVIDERS[name].batch
        built = [build(PROVIDERS[name], recipient) for recipient in RECIPIENTS]

        assert all(batch.fits(payload) for *_, payload in built)
        joined = json.loads(batch.join([payload.serialize_data() for *_, payload in built]))

        assert SECOND[name](joined) == RECIPIENTS[1]
        assert all(
            json.dumps(joined).count(str(message.pk)) == (2 if name == "mailjet" else 1) for message, *_ in built
        )
        assert json.dumps(joined).count("<p>h</p>") == 2

    def test_mailjet_message_keeps_what_anymail_gives_to_all(self, build):
        _, _, _, payload = build(PROVIDERS["mailjet"])

        [message] = json.loads(PROVIDERS["mailjet"].batch.join([payload.serialize_data()]))["Messages"]

        assert message == {**payload.data["Globals"], "To": [{"Email": "ada@example.com"}]}

    @pytest.mark.parametrize("name", BATCHES)
    def test_split_answer_reads_as_each_message_s_own(self, name, build):
        provider, (_, answer, outcomes) = PROVIDERS[name], BATCHES[name]

        split = provider.batch.split(answer)

        assert [provider.verdict(*item) for item in split] == [Verdict.ACCEPTED, Verdict.PERMANENT]
        for recipient, (status, body), outcome in zip(RECIPIENTS, split, outcomes, strict=True):
            _, email, backend, payload = build(provider, recipient)
            if outcome:
                [said] = backend.parse_recipient_status(answered(status, body), payload, email).items()
                assert (said[0], (said[1].message_id, said[1].status)) == (recipient, outcome)

    @pytest.mark.parametrize(
        ("name", "answer"),
        [
            ("postmark", {"ErrorCode": 10, "Message": "No Account or Server API tokens were supplied."}),
            (
                "mailjet",
                {"ErrorIdentifier": "x", "ErrorCode": "mj-0002", "StatusCode": 400, "ErrorMessage": "Malformed"},
            ),
            ("mailtrap", {"success": False, "errors": ["Unauthorized"]}),
            ("mailtrap", "<html>"),
            ("resend", {"statusCode": 422, "name": "validation_error", "message": "Batch is too large."}),
            ("resend", {"data": None}),
            ("resend", {"data": [{"id": "1"}], "errors": {}}),
            ("resend", {"data": [{"id": "1"}], "errors": [{"message": "no index"}]}),
            ("resend", {"data": [{"id": "1"}], "errors": [{"index": 2, "message": "beyond the end"}]}),
            ("resend", {"data": [{"id": "1"}], "errors": [{"index": 0}, {"index": 0}]}),
            ("resend", {"data": [{"id": "1"}], "errors": [{"index": [0]}]}),
            ("resend", "<html>"),
        ],
    )
    def test_answer_about_the_whole_request_is_not_split(self, name, answer):
        assert PROVIDERS[name].batch.split(answer) is None

    def test_postmark_without_a_code_was_accepted(self):
        answer = [
            {"Message": "Message accepted, but delivery may be delayed.", "MessageID": "1", "To": "a@example.com"}
        ]

        assert PROVIDERS["postmark"].batch.split(answer) == [(200, answer[0])]

    @pytest.mark.parametrize(
        ("message", "status"),
        [
            ({"Status": "error", "Errors": [{"StatusCode": 403, "ErrorCode": "send-0008"}]}, 403),
            ({"Status": "error", "Errors": []}, 500),
            ({}, 500),
        ],
    )
    def test_mailjet_refusal_has_a_status_of_its_own(self, message, status):
        assert PROVIDERS["mailjet"].batch.split({"Messages": [message]}) == [(status, {"Messages": [message]})]

    def test_message_in_mailtrap_s_sandbox_goes_alone(self, configure):
        provider = PROVIDERS["mailtrap"]
        configure(provider)["MAILTRAP_SANDBOX_ID"] = "7"
        backend = get_connection(provider.backend)

        payload = backend.build_message_payload(email_to(provider)[1], backend.send_defaults)

        assert not provider.batch.fits(payload)

    def test_resend_names_what_was_refused_by_its_place(self):
        answer = {"data": [{"id": "1"}, {"id": "3"}], "errors": [{"index": 0, "message": "a"}, {"index": 2}]}

        split = PROVIDERS["resend"].batch.split(answer)

        assert split == [
            (422, {"index": 0, "message": "a"}),
            (200, {"id": "1"}),
            (422, {"index": 2}),
            (200, {"id": "3"}),
        ]

    def test_one_key_holds_for_the_whole_of_resend_s(self, configure):
        configure(PROVIDERS["resend"])

        headers = PROVIDERS["resend"].batch.keyed(get_connection(PROVIDERS["resend"].backend), "the-key")

        assert headers["Idempotency-Key"] == "the-key"
        assert headers["x-batch-validation"] == "permissive"
        assert headers["Authorization"].startswith("Bearer ")

    @pytest.mark.parametrize("name", BATCHES)
    def test_message_that_makes_many_mails_goes_alone(self, name, configure):
        configure(PROVIDERS[name])
        backend = get_connection(PROVIDERS[name].backend)
        _, email = email_to(PROVIDERS[name])
        email.to, email.merge_metadata = RECIPIENTS, {RECIPIENTS[0]: {"a": "1"}}

        payload = backend.build_message_payload(email, backend.send_defaults)

        assert not PROVIDERS[name].batch.fits(payload)
