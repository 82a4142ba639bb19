"""What the views answer in the main flows, each held to what the document says of it."""

import re

import pytest
from django.urls import resolve

from api.schema import PROBLEMS
from mailer.models import Attempt
from tests.api.conftest import PASSWORD, client_of, deliver, happen, make_user, post
from tests.api.openapi import check
from users import challenges
from users.models import EmailChallenge, User

ADA = {"email": "ada@example.com", "password": PASSWORD}


@pytest.mark.django_db
class TestAnswers:
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
