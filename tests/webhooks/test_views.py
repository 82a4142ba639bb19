"""The door: what is answered, and that nothing is stored but what is genuine."""

import gzip
import io
import re
import threading
from dataclasses import replace

import psycopg
import pytest
from django.db import connection
from django.test import Client, RequestFactory

from mailer.models import DeliveryEvent
from tests.webhooks import payloads
from tests.webhooks.conftest import (
    POSTMARK_SECRETS,
    POSTMARK_URL,
    RESEND_SECRETS,
    RESEND_URL,
    basic,
    delivery_of,
    encoded,
    signed,
    state_of,
)
from webhooks.models import WebhookReceipt
from webhooks.providers import WEBHOOKS
from webhooks.views import WebhookView

BODY = encoded(payloads.resend("email.delivered"))
POSTMARK_BODY = encoded(payloads.postmark("Delivery"))
# As long as a header may be at most servers.
GARBAGE = ["\xe9\xff\x80", "v1,\xe9 v1,\xff", "\x01\x02", " ", ",,,, , ,", "v1," * 2000, "=" * 8000]

NAMES = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def logged(caplog, event):
    return [record.msg for record in caplog.records if isinstance(record.msg, dict) and record.msg["event"] == event]


class BrokenOff(io.BytesIO):
    """What a server hands on of a client that is gone."""

    def read(self, *_):
        raise ConnectionResetError


@pytest.mark.django_db
class TestGuard:
    @pytest.mark.parametrize("method", ["get", "head", "put", "patch", "delete"])
    def test_method_other_than_post_is_405(self, client, method):
        response = getattr(client, method)(RESEND_URL)

        assert response.status_code == 405
        assert "POST" in response["Allow"]

    def test_csrf_is_not_asked_of_providers(self):
        response = Client(enforce_csrf_checks=True).post(
            RESEND_URL, BODY, content_type="application/json", headers=signed(BODY)
        )

        assert response.status_code == 200

    def test_unknown_and_unconfigured_provider_are_404_alike(self, client, settings):
        settings.WEBHOOK_SECRETS = {"postmark": ["hook:password"]}

        unknown = client.post("/webhooks/nobody/", BODY, content_type="application/json", headers=signed(BODY))
        unconfigured = client.post(RESEND_URL, BODY, content_type="application/json", headers=signed(BODY))

        assert (unknown.status_code, unconfigured.status_code) == (404, 404)
        assert unknown["Content-Type"] == unconfigured["Content-Type"]
        assert not WebhookReceipt.objects.exists()

    @pytest.mark.parametrize("method", ["get", "head", "post", "put", "options"])
    def test_unknown_and_unconfigured_provider_are_the_404_of_any_other_address(self, client, settings, method):
        settings.WEBHOOK_SECRETS = {"postmark": ["hook:password"]}

        answers = [getattr(client, method)(path) for path in ("/nowhere/", "/webhooks/nobody/", RESEND_URL)]

        # An answer names its request.
        [nowhere, unknown, unconfigured] = [
            (answer.status_code, dict(answer.headers), NAMES.sub(b"", answer.content)) for answer in answers
        ]
        assert nowhere[0] == 404
        assert nowhere == unknown == unconfigured

    @pytest.mark.parametrize(
        ("answers", "statuses"),
        [((), (405, 405)), (("HEAD",), (405, 200)), (("GET",), (200, 405)), (("GET", "HEAD"), (200, 200))],
    )
    def test_address_is_confirmed_to_providers_that_ask(self, client, monkeypatch, answers, statuses):
        monkeypatch.setitem(WEBHOOKS, "resend", replace(WEBHOOKS["resend"], answers=answers))

        responses = client.get(RESEND_URL), client.head(RESEND_URL)

        assert tuple(response.status_code for response in responses) == statuses
        assert {response.content for response in responses} == {b""}
        assert not WebhookReceipt.objects.exists()

    @pytest.mark.parametrize("secrets", [[], None])
    def test_provider_without_a_secret_is_404(self, client, settings, secrets):
        settings.WEBHOOK_SECRETS = {"resend": secrets}

        response = client.post(RESEND_URL, BODY, content_type="application/json", headers=signed(BODY))

        assert response.status_code == 404

    @pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "GZIP", "identity, gzip"])
    def test_encoded_body_is_415(self, client, encoding):
        body = gzip.compress(BODY)

        response = client.post(
            RESEND_URL,
            body,
            content_type="application/json",
            headers={**signed(BODY), "Content-Encoding": encoding},
        )

        assert response.status_code == 415
        assert not WebhookReceipt.objects.exists()

    def test_identity_is_no_encoding(self, client):
        headers = {**signed(BODY), "Content-Encoding": "identity"}

        response = client.post(RESEND_URL, BODY, content_type="application/json", headers=headers)

        assert response.status_code == 200

    def test_body_over_ten_mebibytes_is_413(self, client):
        body = b" " * (10 * 1024 * 1024 + 1)

        response = client.post(RESEND_URL, body, content_type="application/json", headers=signed(body))

        assert response.status_code == 413
        assert not WebhookReceipt.objects.exists()

    def test_body_of_a_mebibyte_is_taken(self, post_postmark):
        response = post_postmark(payloads.postmark("Bounce", Content="x" * 1024 * 1024))

        assert response.status_code == 200
        assert WebhookReceipt.objects.get().state == "processed"

    def test_body_that_breaks_off_is_400(self):
        request = RequestFactory().post(RESEND_URL, BODY, content_type="application/json", headers=signed(BODY))
        request._stream = BrokenOff()

        response = WebhookView.as_view()(request, esp="resend")

        assert response.status_code == 400
        assert not WebhookReceipt.objects.exists()

    def test_body_shorter_than_it_says_is_400(self):
        request = RequestFactory().post(
            POSTMARK_URL, POSTMARK_BODY, content_type="application/json", headers=basic(POSTMARK_SECRETS[0])
        )
        request._stream = io.BytesIO(POSTMARK_BODY[:-1])

        response = WebhookView.as_view()(request, esp="postmark")

        assert response.status_code == 400
        assert not WebhookReceipt.objects.exists()

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (io.BytesIO(POSTMARK_BODY), 200),
            (io.BytesIO(b" " * (10 * 1024 * 1024 + 1)), 413),
            (BrokenOff(), 400),
        ],
        ids=["whole", "too large", "broken off"],
    )
    def test_body_in_chunks(self, body, status):
        request = RequestFactory().post(
            POSTMARK_URL, content_type="application/json", headers=basic(POSTMARK_SECRETS[0])
        )
        request.META |= {"CONTENT_LENGTH": "", "wsgi.input": body, "wsgi.input_terminated": True}

        response = WebhookView.as_view()(request, esp="postmark")

        assert response.status_code == status
        assert [bytes(receipt.body) for receipt in WebhookReceipt.objects.all()] == [POSTMARK_BODY] * (status == 200)

    @pytest.mark.parametrize(
        "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
    )
    def test_content_type_does_not_matter(self, client, content_type):
        response = client.generic("POST", RESEND_URL, BODY, content_type=content_type, headers=signed(BODY))

        assert response.status_code == 200
        assert WebhookReceipt.objects.get().state == "processed"


@pytest.mark.django_db
class TestVerify:
    @pytest.mark.parametrize("secret", RESEND_SECRETS)
    def test_resend_either_secret_is_taken(self, post_resend, secret):
        assert post_resend(payloads.resend("email.sent"), secret=secret).status_code == 200

    @pytest.mark.parametrize("credentials", POSTMARK_SECRETS)
    def test_postmark_either_secret_is_taken(self, post_postmark, credentials):
        assert post_postmark(payloads.postmark("Delivery"), credentials=credentials).status_code == 200

    def test_resend_unsigned_is_401_and_nothing_is_stored(self, client):
        response = client.post(RESEND_URL, BODY, content_type="application/json")

        assert response.status_code == 401
        assert not WebhookReceipt.objects.exists()
        assert not DeliveryEvent.objects.exists()

    def test_postmark_without_credentials_is_401_and_nothing_is_stored(self, client):
        response = client.post(POSTMARK_URL, POSTMARK_BODY, content_type="application/json")

        assert response.status_code == 401
        assert response["WWW-Authenticate"].startswith("Basic ")
        assert not WebhookReceipt.objects.exists()
        assert not DeliveryEvent.objects.exists()

    def test_postmark_with_wrong_credentials_is_401(self, post_postmark):
        assert post_postmark(payloads.postmark("Delivery"), credentials="hook:wrong").status_code == 401

    def test_resend_signed_with_another_secret_is_401(self, post_resend):
        assert post_resend(payloads.resend("email.sent"), secret="whsec_c29tZWJvZHkgZWxzZSdz").status_code == 401

    def test_resend_one_byte_changed_is_401(self, client, sent):
        message = sent()
        body = encoded(payloads.resend("email.delivered", message))
        changed = body.replace(b"delivered", b"complained", 1)

        response = client.post(RESEND_URL, changed, content_type="application/json", headers=signed(body))

        assert response.status_code == 401
        assert delivery_of(message).status == "sent"

    @pytest.mark.parametrize("timestamp", [1, 1_731_705_121, 32_503_680_000])
    def test_resend_stale_or_future_timestamp_is_401(self, post_resend, timestamp):
        assert post_resend(payloads.resend("email.sent"), timestamp=timestamp).status_code == 401

    def test_resend_one_good_signature_among_several_is_taken(self, client):
        headers = signed(BODY)
        headers["svix-signature"] = f"v1,AAAA v2,BBBB {headers['svix-signature']}"

        assert client.post(RESEND_URL, BODY, content_type="application/json", headers=headers).status_code == 200

    @pytest.mark.parametrize("garbage", GARBAGE)
    @pytest.mark.parametrize("name", ["svix-id", "svix-timestamp", "svix-signature"])
    def test_resend_garbage_in_a_header_is_401(self, client, name, garbage):
        headers = {**signed(BODY), name: garbage}

        assert client.post(RESEND_URL, BODY, content_type="application/json", headers=headers).status_code == 401

    @pytest.mark.parametrize("garbage", [*GARBAGE, *(f"Basic {each}" for each in GARBAGE)])
    def test_postmark_garbage_in_the_header_is_401(self, client, garbage):
        headers = {"Authorization": garbage}

        response = client.post(POSTMARK_URL, POSTMARK_BODY, content_type="application/json", headers=headers)

        assert response.status_code == 401

    def test_credentials_of_one_provider_open_no_other_door(self, client):
        to_resend = client.post(RESEND_URL, BODY, content_type="application/json", headers=basic(POSTMARK_SECRETS[0]))
        to_postmark = client.post(
            POSTMARK_URL, POSTMARK_BODY, content_type="application/json", headers=signed(POSTMARK_BODY)
        )

        assert (to_resend.status_code, to_postmark.status_code) == (401, 401)

    def test_rejection_is_logged_without_what_was_sent(self, client, caplog):
        headers = {"Authorization": "Basic c3R1ZmZlZDpjcmVkZW50aWFscw=="}

        client.post(POSTMARK_URL, POSTMARK_BODY, content_type="application/json", headers=headers)

        [entry] = logged(caplog, "receipt_rejected")
        assert (entry["provider"], entry["code"], entry["level"]) == ("postmark", 401, "warning")
        assert "c3R1ZmZlZDpjcmVkZW50aWFscw" not in caplog.text
        assert payloads.RECIPIENT not in caplog.text


@pytest.mark.django_db(transaction=True)
class TestStore:
    def test_receipt_is_kept_whole_and_without_credentials(self, client):
        headers = {**signed(BODY, svix_id="msg_kept"), **basic(POSTMARK_SECRETS[0]), "X-Other": "value"}

        client.post(RESEND_URL, BODY, content_type="application/json", headers=headers)

        receipt = WebhookReceipt.objects.get()
        assert bytes(receipt.body) == BODY
        assert receipt.headers == {"svix-id": "msg_kept"}
        assert (receipt.provider, receipt.state, receipt.events, receipt.new_events) == ("resend", "processed", 1, 1)
        assert len(receipt.request_id) == 36

    def test_lost_connection_to_the_database_is_503_and_nothing_is_stored(self, client, sent, caplog):
        message = sent()
        _cut_off(connection)

        response = client.post(
            RESEND_URL,
            encoded(payloads.resend("email.delivered", message)),
            content_type="application/json",
            headers=signed(encoded(payloads.resend("email.delivered", message))),
        )

        connection.close()
        assert response.status_code == 503
        assert response["Retry-After"] == "30"
        assert not WebhookReceipt.objects.exists()
        assert delivery_of(message).status == "sent"
        [entry] = logged(caplog, "receipt_not_stored")
        assert entry["provider"] == "resend"

    def test_commit_that_fails_is_503_and_nothing_is_stored(self, post_resend, sending):
        claim = sending()
        with _refusing_commits("webhooks_webhookreceipt"):
            response = post_resend(payloads.resend("email.delivered", claim.message))

        assert response.status_code == 503
        assert not WebhookReceipt.objects.exists()
        assert not DeliveryEvent.objects.filter(source="webhook").exists()
        assert delivery_of(claim.message).status == "queued"
        assert state_of(claim.message) == "sending"

    def test_poison_that_cannot_be_stored_is_503(self, post_resend):
        with _refusing_commits("webhooks_webhookreceipt"):
            response = post_resend(b"no JSON")

        assert response.status_code == 503
        assert not WebhookReceipt.objects.exists()

    def test_repeat_after_a_503_is_taken(self, post_resend, sent):
        message = sent()
        payload = payloads.resend("email.delivered", message)
        with _refusing_commits("mailer_deliveryevent"):
            first = post_resend(payload, svix_id="msg_repeat")

        second = post_resend(payload, svix_id="msg_repeat")

        assert (first.status_code, second.status_code) == (503, 200)
        assert delivery_of(message).status == "delivered"
        assert WebhookReceipt.objects.get().new_events == 1

    def test_same_event_at_once_is_recorded_once(self, sent):
        message = sent()
        body = encoded(payloads.resend("email.opened", message))
        headers = signed(body, svix_id="msg_at_once")
        start = threading.Barrier(8)
        answers = []

        def post():
            start.wait()
            try:
                answers.append(
                    Client().post(RESEND_URL, body, content_type="application/json", headers=headers).status_code
                )
            finally:
                connection.close()

        threads = [threading.Thread(target=post) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert answers == [200] * 8
        assert delivery_of(message).open_count == 1
        assert WebhookReceipt.objects.count() == 8
        assert sum(WebhookReceipt.objects.values_list("new_events", flat=True)) == 1


def _cut_off(django_connection):
    """End this process's session at the server, as a restart of it does."""
    django_connection.ensure_connection()
    pid = django_connection.connection.info.backend_pid
    with psycopg.connect(**_parameters(django_connection), autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])


def _parameters(django_connection):
    wanted = django_connection.get_connection_params()
    return {name: wanted[name] for name in ("dbname", "host", "port", "user", "password") if wanted.get(name)}


class _refusing_commits:  # noqa: N801  # reads as what it does
    """Let the server refuse to commit a transaction that inserts into a table."""

    def __init__(self, table):
        self.table = table

    def __enter__(self):
        with connection.cursor() as cursor:
            cursor.execute(
                """
                CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'the disk is full' USING ERRCODE = 'disk_full'; END $$"""
            )
            cursor.execute(
                f"CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON {self.table}"
                " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"
            )

    def __exit__(self, *_):
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION refuse() CASCADE")
