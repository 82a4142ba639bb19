"""The OpenAPI document: complete, and consistent with itself."""

import re
from html.parser import HTMLParser

import pytest
from django.conf import settings
from jsonschema import ValidationError

from api import throttles
from api.document import LINKS, DocumentView
from api.schema import PROBLEMS, how_often
from mailer.status import CHOICES
from tests.api.openapi import check, fields, invalid_examples, operations, problem_examples
from tests.conftest import in_threads
from users.challenges import MAILS_A_DAY, RESEND_AFTER

OPERATIONS = {
    ("post", "/api/v1/accounts/register"): "register",
    ("get", "/api/v1/accounts/registrations/{id}"): "registration",
    ("post", "/api/v1/accounts/verify-email"): "verify_email",
    ("post", "/api/v1/accounts/verify-email/resend"): "resend_verification",
    ("get", "/api/v1/accounts/me"): "account",
    ("patch", "/api/v1/accounts/me"): "change_account",
    ("delete", "/api/v1/accounts/me"): "delete_account",
    ("post", "/api/v1/accounts/me/email"): "change_email",
    ("delete", "/api/v1/accounts/me/email"): "cancel_email_change",
    ("post", "/api/v1/accounts/me/password"): "change_password",
    ("post", "/api/v1/accounts/email-change/confirm"): "confirm_email_change",
    ("post", "/api/v1/accounts/password-reset"): "request_password_reset",
    ("post", "/api/v1/accounts/password-reset/confirm"): "reset_password",
    ("get", "/api/v1/accounts/me/deliveries"): "list_own_deliveries",
    ("get", "/api/v1/accounts/me/deliveries/{id}"): "own_delivery",
    ("get", "/api/v1/auth/tokens"): "list_tokens",
    ("post", "/api/v1/auth/tokens"): "create_token",
    ("delete", "/api/v1/auth/tokens/{token_key}"): "revoke_token",
    ("get", "/api/v1/audit"): "list_audit",
    ("get", "/api/v1/deliveries"): "list_deliveries",
    ("get", "/api/v1/deliveries/{id}"): "delivery",
    ("get", "/api/v1/webhook-receipts"): "list_webhook_receipts",
    ("get", "/api/v1/webhook-receipts/{id}"): "webhook_receipt",
    ("post", "/api/v1/webhook-receipts/replay"): "replay_webhook_receipts",
    ("post", "/api/v1/webhook-receipts/{id}/replay"): "replay_webhook_receipt",
}
PUBLIC = {
    *("register", "verify_email", "resend_verification", "create_token"),
    *("confirm_email_change", "request_password_reset", "reset_password"),
}


class TestLimits:
    def test_are_told_as_they_are_set(self, settings):
        settings.THROTTLES = {"register_ip": ((10, 3600.0),), "user": ((5, 300.0), (20, 86_400.0))}

        assert how_often([throttles.Registering()]) == "At most 10 times an hour for one client."
        assert how_often([throttles.PerUser()]) == (
            "At most 5 times in 300 seconds for one user, 20 times a day for one user."
        )
        assert how_often([throttles.Verifying()]) == ""

    def test_of_an_account_are_told_with_those_of_a_client(self, settings):
        settings.THROTTLES = {"login_ip": ((10, 60.0),), "login_account": ((5, 300.0),)}

        assert how_often([throttles.LoggingIn()]) == (
            "At most 10 times a minute for one client, 5 times in 300 seconds for one account."
        )

    @pytest.mark.parametrize("operation", ["resend_verification", "request_password_reset"])
    def test_of_an_address_are_told_where_mail_is_asked_for(self, document, operation):
        [described] = [
            each["description"]
            for methods in document["paths"].values()
            for each in methods.values()
            if each["operationId"] == operation
        ]

        assert f"once in {RESEND_AFTER.seconds} seconds and {MAILS_A_DAY} times a day" in described


class TestDocument:
    def test_names_every_operation(self, document):
        named = {
            (method, path): operation["operationId"]
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if path.startswith("/api/v1/")
        }

        assert named == OPERATIONS

    def test_has_nothing_but_the_api(self, document):
        assert [path for path in document["paths"] if not path.startswith("/api/v1/")] == []

    def test_every_operation_has_one_tag_and_says_what_it_does(self, document):
        assert {name for name, operation in operations(document).items() if len(operation["tags"]) != 1} == set()
        assert {name for name, operation in operations(document).items() if not operation.get("description")} == set()

    def test_every_operation_has_a_summary_of_its_own(self, document):
        summaries = [operation["summary"] for operation in operations(document).values()]

        assert len({*summaries}) == len(summaries)
        assert {tag["name"] for tag in document["tags"]} == {
            tag for operation in operations(document).values() for tag in operation["tags"]
        }

    def test_every_operation_says_who_may(self, document):
        said = {
            name: operation["description"].rpartition("For ")[2] for name, operation in operations(document).items()
        }

        assert {name for name, words in said.items() if words == "anyone."} == PUBLIC
        assert said["registration"] == "who registered, with the `status_token` as Bearer."
        assert said["account"] == "users, with a token."
        assert said["delivery"] == "operators: needs `mailer.view_deliverystatus`."
        assert {words.split()[0] for words in said.values()} == {"anyone.", "who", "users,", "operators:"}

    def test_links_lead_to_what_is_there(self, document):
        linked = operations(document)
        links = [
            link
            for operation in linked.values()
            for response in operation["responses"].values()
            for link in response.get("links", {}).values()
        ]

        assert len(links) == sum(map(len, LINKS.values()))
        for link in links:
            named = {one["name"] for one in linked[link["operationId"]].get("parameters", [])}
            assert {*link["parameters"]} <= named

    def test_a_token_is_needed_where_it_is(self, document):
        free = {name for name, operation in operations(document).items() if operation["security"] == []}

        assert free == PUBLIC
        assert document["components"]["securitySchemes"]["token"]["name"] == "Authorization"
        assert operations(document)["registration"]["security"] == [{"status_token": []}]

    def test_every_body_has_an_example(self, document):
        bodies = {
            f"{name} {status}": content
            for name, operation in operations(document).items()
            for status, part in [("request", operation.get("requestBody")), *operation["responses"].items()]
            for content in (part or {}).get("content", {}).values()
        }

        assert {name for name, content in bodies.items() if not content.get("examples")} == set()
        assert len([name for name in bodies if name.endswith("request")]) == 13

    def test_every_example_is_what_its_schema_says(self, document):
        for operation in operations(document).values():
            for part in [operation.get("requestBody", {}), *operation["responses"].values()]:
                for content in part.get("content", {}).values():
                    for example in content["examples"].values():
                        check(document, content["schema"], example["value"])

    def test_errors_in_examples_are_about_what_the_operation_takes(self, document):
        for name, operation in operations(document).items():
            for example in invalid_examples(operation):
                [error] = example["errors"]
                if "pointer" in error:
                    assert error["pointer"].removeprefix("#/") in fields(document, operation), name
                else:
                    assert error["parameter"] in {one["name"] for one in operation["parameters"]}, name

    def test_problems_in_examples_happened_where_they_are_shown(self, document):
        for path, methods in document["paths"].items():
            for operation in methods.values():
                shown = {example["instance"] for example in problem_examples(operation)}
                assert [re.sub(r"/[0-9a-f-]{36}", "/{id}", one) for one in shown] == [path]

    def test_new_passwords_are_as_long_as_the_validators_want(self, document):
        schemas = document["components"]["schemas"]

        assert schemas["RegistrationRequest"]["properties"]["password"]["minLength"] == 12
        assert schemas["ChangePasswordRequest"]["properties"]["new_password"]["minLength"] == 12
        assert schemas["ChangePasswordRequest"]["properties"]["password"]["minLength"] == 1

    def test_receipts_are_named_in_one_of_two_ways(self, document):
        schema = document["components"]["schemas"]["SelectionRequest"]

        check(document, schema, {"state": "poison", "provider": "postmark"})
        for wrong in ({}, {"limit": 1}, {"ids": ["0190a6c4-7b3e-7c1a-9d3b-0f1e2d3c4b5a"], "state": "poison"}):
            with pytest.raises(ValidationError):
                check(document, schema, wrong)

    def test_every_status_but_the_good_ones_is_a_problem(self, document):
        for operation in operations(document).values():
            bad = {status: part for status, part in operation["responses"].items() if status >= "400"}
            assert {"406", "429", "500", "503"} <= {*bad}
            for status, part in bad.items():
                assert [*part["content"]] == ["application/problem+json"]
                examples = part["content"]["application/problem+json"]["examples"].values()
                assert {PROBLEMS[example["value"]["code"]][0] for example in examples} == {int(status)}

    def test_every_code_has_an_example(self, document):
        shown = {
            example["value"]["code"]
            for operation in operations(document).values()
            for status, part in operation["responses"].items()
            if status >= "400"
            for example in part["content"]["application/problem+json"]["examples"].values()
        }

        # A method that is not there is no operation to document it at.
        assert shown == {*PROBLEMS} - {"bad_request", "method_not_allowed"}

    def test_what_is_to_be_tried_again_says_when(self, document):
        for operation in operations(document).values():
            told = {
                status for status, part in operation["responses"].items() if "Retry-After" in part.get("headers", {})
            }
            assert told == {"429", "503"}

    def test_lists_name_their_parameters(self, document):
        def named(operation):
            return {one["name"]: one["schema"] for one in operations(document)[operation]["parameters"]}

        assert {*named("list_own_deliveries")} == {"cursor", "page_size", "status", "kind"}
        assert {*named("list_deliveries")} == {
            *("cursor", "page_size", "status", "kind", "provider", "recipient", "q"),
            *("created_after", "created_before"),
        }
        assert {*named("list_deliveries")["status"]["items"]["enum"]} == {value for value, _ in CHOICES}
        assert named("list_deliveries")["page_size"] == {"type": "integer", "minimum": 1, "maximum": 100, "default": 25}

    def test_no_secret_is_ever_read(self, document):
        answers = {name: part for name, part in document["components"]["schemas"].items() if "Request" not in name}

        secret = {(name, field) for name, part in answers.items() for field in part.get("properties", {})}
        assert {pair for pair in secret if pair[1] in {"password", "token", "digest"}} == {("NewToken", "token")}


class Assets(HTMLParser):
    """Collects what a page loads."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attributes):
        if tag in {"script", "link", "img", "iframe"}:
            self.addresses += [value for name, value in attributes if name in {"src", "href"} and value]


@pytest.mark.django_db
class TestDocs:
    @pytest.mark.parametrize("accept", ["*/*", "application/json", "application/vnd.oai.openapi"])
    def test_the_document_is_served_to_anyone(self, client, accept):
        response = client.get("/api/schema/", headers={"Accept": accept})

        assert response.status_code == 200
        assert b"list_deliveries" in response.content

    def test_the_document_is_written_once_for_many_who_ask_at_once(self, client, monkeypatch):
        monkeypatch.setattr(DocumentView, "_written", {})
        written, write = [], DocumentView._write
        monkeypatch.setattr(DocumentView, "_write", lambda *args: written.append(write(*args)) or written[-1])

        answers = in_threads(4, lambda _: client.get("/api/schema/").content)

        assert len(written) == 1
        assert answers == written * 4

    def test_the_document_is_in_one_language(self, client, monkeypatch):
        monkeypatch.setattr(DocumentView, "_written", {})
        german = client.get("/api/schema/?lang=de", headers={"Accept-Language": "de"}).content
        monkeypatch.setattr(DocumentView, "_written", {})

        assert client.get("/api/schema/").content == german

    def test_the_page_is_served_to_anyone_and_names_the_document(self, client):
        response = client.get("/api/docs/")

        assert response.status_code == 200
        assert '"/api/schema/"' in response.content.decode()

    def test_the_page_loads_nothing_from_elsewhere(self, client):
        page = client.get("/api/docs/").content.decode()
        assets = Assets()
        assets.feed(page)

        assert len(assets.addresses) >= 4
        assert [address for address in assets.addresses if not address.startswith(settings.STATIC_URL)] == []
        assert re.findall(r"https?://", page) == []

    def test_all_that_the_page_loads_is_here(self, client):
        assets = Assets()
        assets.feed(client.get("/api/docs/").content.decode())

        for address in assets.addresses:
            response = client.get(address)
            assert response.status_code == 200, address
            assert len(b"".join(response.streaming_content)) > 500
            response.close()
