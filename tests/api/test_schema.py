"""The OpenAPI document: complete, and true of what the views answer."""

import io
import json
import re
from datetime import datetime
from html.parser import HTMLParser

import pytest
from django.conf import settings
from django.core.management import call_command
from django.urls import resolve
from jsonschema import Draft202012Validator, FormatChecker

from api.document import DocumentView
from api.schema import PROBLEMS
from mailer.models import Attempt
from mailer.status import CHOICES
from tests.api.conftest import PASSWORD, client_of, deliver, happen, make_user, post
from tests.conftest import in_threads
from users import challenges
from users.models import EmailChallenge, User

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

ADA = {"email": "ada@example.com", "password": PASSWORD}

formats = FormatChecker()


@formats.checks("date-time", raises=ValueError)
def is_time(value):
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


@pytest.fixture(scope="module")
def document():
    written = io.StringIO()
    call_command("spectacular", "--validate", "--fail-on-warn", "--format", "openapi-json", stdout=written)
    return json.loads(written.getvalue())


def operations(document):
    return {operation["operationId"]: operation for path in document["paths"].values() for operation in path.values()}


def strict(schema):
    """Turn an OpenAPI 3.0 schema into a JSON schema that allows no property but those it names."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {name: strict(part) for name, part in schema.items() if name != "nullable"}
    if "properties" in parts:
        parts.setdefault("additionalProperties", False)
    return {"anyOf": [parts, {"type": "null"}]} if schema.get("nullable") is True else parts


def check(document, schema, value):
    """Hold a value to a schema of the document. Raises `jsonschema.ValidationError`."""
    components = {"schemas": strict(document["components"]["schemas"])}
    Draft202012Validator({**strict(schema), "components": components}, format_checker=formats).validate(value)


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

    def test_a_token_is_needed_where_it_is(self, document):
        free = {name for name, operation in operations(document).items() if not any(operation.get("security", [{}]))}

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


@pytest.mark.django_db
class TestAnswers:
    """What the views answer in the main flows, each held to what the document says of it."""

    @pytest.fixture
    def ask(self, document):
        def ask(client, method, path, body=None, *, expect, **headers):
            response = getattr(client, method)(path, body, headers=headers)
            assert response.status_code == expect, response.content
            template = "/" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", resolve(path).route).replace("{pk}", "{id}")
            answers = document["paths"][template][method]["responses"][str(expect)]
            if not response.content:
                assert "content" not in answers
                return None
            content = answers["content"][response["Content-Type"].partition(";")[0]]
            check(document, content["schema"], response.json())
            if expect >= 400:
                assert PROBLEMS[response.json()["code"]][0] == expect
                shown = {example["value"]["code"] for example in content["examples"].values()}
                assert response.json()["code"] in shown
            return response.json()

        return ask

    def test_from_registration_to_revocation(self, ask, anyone):
        answer = ask(anyone, "post", "/api/v1/accounts/register", ADA, expect=202)
        ask(anyone, "post", "/api/v1/accounts/register", ADA, expect=202)
        status = f"/api/v1/accounts/registrations/{answer['registration_id']}"
        bearer = {"Authorization": f"Bearer {answer['status_token']}"}
        ask(anyone, "get", status, expect=200, **bearer)
        ask(anyone, "get", status, expect=401)
        ask(anyone, "get", status, expect=401, Authorization="Bearer nonsense")
        by_code = {"registration_id": answer["registration_id"], "code": "0000 0000"}
        ask(anyone, "post", "/api/v1/accounts/verify-email", {**by_code, "code": ""}, expect=400)
        for status_code in (404, 404, 404, 404, 404, 410):
            ask(anyone, "post", "/api/v1/accounts/verify-email", by_code, expect=status_code)
        ask(anyone, "post", "/api/v1/accounts/register", {"email": "a"}, expect=400)
        ask(anyone, "post", "/api/v1/accounts/verify-email/resend", {"email": ADA["email"]}, expect=202)
        challenge = EmailChallenge.objects.get()
        link = {"token": challenges.link_token(challenge)}
        ask(anyone, "post", "/api/v1/accounts/verify-email", link, expect=200)
        ask(anyone, "post", "/api/v1/accounts/verify-email", link, expect=200)
        ask(anyone, "post", "/api/v1/accounts/verify-email", {"token": "x"}, expect=404)
        ask(anyone, "post", "/api/v1/auth/tokens", {**ADA, "password": "wrong"}, expect=401)
        token = ask(anyone, "post", "/api/v1/auth/tokens", ADA, expect=201)["token"]
        user = {"Authorization": f"Token {token}"}
        ask(anyone, "get", "/api/v1/accounts/me", expect=200, **user)
        ask(anyone, "get", "/api/v1/auth/tokens", expect=200, **user)
        ask(anyone, "get", "/api/v1/deliveries", expect=403, **user)
        ask(anyone, "delete", "/api/v1/auth/tokens/nobodys", expect=404, **user)
        ask(anyone, "delete", "/api/v1/auth/tokens/current", expect=204, **user)
        ask(anyone, "get", "/api/v1/accounts/me", expect=401, **user)
        ask(anyone, "get", "/api/v1/accounts/me", expect=401)
        ask(anyone, "get", "/api/v1/accounts/me", expect=406, Accept="text/html")

    def test_what_a_user_changes(self, ask, anyone, owner, ada):
        me, password = "/api/v1/accounts/me", {"password": PASSWORD}
        ask(owner, "patch", me, {"locale": "de"}, expect=200)
        ask(owner, "patch", me, {"locale": "tlh"}, expect=400)
        ask(owner, "post", f"{me}/email", {**password, "email": "ada@example.net"}, expect=202)
        ask(owner, "get", me, expect=200)
        ask(owner, "post", f"{me}/email", {"password": "wrong", "email": "ada@example.net"}, expect=400)
        ask(owner, "delete", f"{me}/email", expect=204)
        ask(anyone, "delete", f"{me}/email", expect=401)
        link = {
            "token": challenges.link_token(
                challenges.issue(ada, "change_email", email="a@b.example", typed="a@b.example")
            )
        }
        ask(anyone, "post", "/api/v1/accounts/email-change/confirm", link, expect=200)
        ask(anyone, "post", "/api/v1/accounts/email-change/confirm", link, expect=200)
        ask(anyone, "post", "/api/v1/accounts/email-change/confirm", {"token": "x"}, expect=404)
        new = {**password, "new_password": "staple incorrect donkey"}
        token = ask(owner, "post", f"{me}/password", new, expect=200)["token"]
        user = {"Authorization": f"Token {token}"}
        ask(owner, "post", f"{me}/password", new, expect=401)
        ask(anyone, "post", f"{me}/password", new, expect=400, **user)
        ask(anyone, "delete", me, password, expect=400, **user)
        ask(anyone, "delete", me, {"password": "staple incorrect donkey"}, expect=204, **user)

    def test_a_new_password(self, ask, anyone, ada):
        reset, confirm = "/api/v1/accounts/password-reset", "/api/v1/accounts/password-reset/confirm"
        ask(anyone, "post", reset, {"email": ada.email}, expect=202)
        ask(anyone, "post", reset, {"email": "ada"}, expect=400)
        link = {"token": challenges.link_token(EmailChallenge.objects.get()), "password": "staple incorrect donkey"}
        ask(anyone, "post", confirm, {**link, "password": "short"}, expect=400)
        ask(anyone, "post", confirm, link, expect=204)
        ask(anyone, "post", confirm, link, expect=410)
        ask(anyone, "post", confirm, {**link, "token": "x"}, expect=404)

    def test_an_expired_link(self, ask, anyone):
        challenge = User.objects.create_user("ada@example.com").challenges.get()
        challenge.expires_at = challenge.created_at
        challenge.created_at = challenge.expires_at.replace(year=2025)
        EmailChallenge.objects.filter(pk=challenge.pk).update(expires_at=challenge.created_at)
        challenge.refresh_from_db()

        ask(anyone, "post", "/api/v1/accounts/verify-email", {"token": challenges.link_token(challenge)}, expect=410)

    @pytest.mark.parametrize("who", ["owner", "supervisor", "operator"])
    def test_deliveries(self, ask, request, ada, who):
        client = request.getfixturevalue(who)
        base = "/api/v1/accounts/me/deliveries" if who == "owner" else "/api/v1/deliveries"
        for _ in range(3):
            delivery = deliver(user=ada, events=["sent", "delivered", "opened"], provider="postmark")
        happen(delivery, "complained", esp_message_id="esp-1", detail="ada@example.com", reject_reason="spam")
        Attempt.objects.create(message_id=delivery.message_id, token=1, provider="postmark", http_status=200)

        first = ask(client, "get", base, {"page_size": 2}, expect=200)
        second = client.get(first["next"]).json()
        detail = ask(client, "get", f"{base}/{delivery.pk}", expect=200)

        assert (len(first["results"]), len(second["results"]), second["next"]) == (2, 1, None)
        assert second["previous"] is not None
        assert len(detail["events"]) == 5
        ask(client, "get", base, {"state": "x"}, expect=400)
        ask(client, "get", base, {"cursor": "x"}, expect=400)
        ask(client, "get", f"{base}/0190a6c4-7b3e-7c1a-9d3b-0f1e2d3c4b5a", expect=404)

    def test_webhook_receipts(self, ask, repairer):
        receipt = post(deliver(), b"a@b.example {")

        ask(repairer, "get", "/api/v1/webhook-receipts", expect=200)
        ask(repairer, "get", "/api/v1/webhook-receipts", {"x": "y"}, expect=400)
        base = f"/api/v1/webhook-receipts/{receipt.pk}"
        ask(repairer, "get", base, expect=200)
        ask(repairer, "post", f"{base}/replay", {"dry_run": True}, expect=200)
        ask(repairer, "post", f"{base}/replay", {"dry_run": "perhaps"}, expect=400)
        ask(repairer, "post", "/api/v1/webhook-receipts/0190a6c4-7b3e-7c1a-9d3b-0f1e2d3c4b5a/replay", expect=404)

    def test_the_audit(self, ask, anyone):
        auditor = client_of(make_user("auditor@example.net", "view_auditentry"))
        ask(anyone, "post", "/api/v1/accounts/register", ADA, expect=202)
        ask(anyone, "post", "/api/v1/auth/tokens", {**ADA, "password": "a wrong one"}, expect=401)

        assert len(ask(auditor, "get", "/api/v1/audit", expect=200)["results"]) == 2
        ask(auditor, "get", "/api/v1/audit", {"action": "x"}, expect=400)

    def test_a_delivery_of_nobodys_that_nobody_sent(self, ask, operator):
        ask(operator, "get", f"/api/v1/deliveries/{deliver().pk}", expect=200)


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
