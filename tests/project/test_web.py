"""What a web process answers, as its server sees it: ASGI messages."""

import asyncio
import json
import threading
from ipaddress import ip_network
from uuid import UUID

import pytest
from django.db import connections
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

from project.web import Application
from tests.webhooks import payloads
from tests.webhooks.conftest import POSTMARK_SECRETS, basic, encoded
from webhooks import refusals
from webhooks.models import RefusalCount, WebhookReceipt

closed = []


def plain(request):
    response = HttpResponse(request.body.upper(), status=201, headers={"X-Kind": "plain"})
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response


def parts(_request):
    response = StreamingHttpResponse(iter([b"one, ", b"two"]))
    response._resource_closers.append(lambda: closed.append("parts"))
    return response


def thread(_request):
    return HttpResponse(threading.current_thread().name)


urlpatterns = [path("plain", plain), path("parts", parts), path("thread", thread)]


@pytest.fixture
def application(settings):
    settings.ROOT_URLCONF = __name__
    settings.WEB_THREADS, settings.WEB_BODY_SECONDS = 2, 0.05
    settings.MIDDLEWARE = []
    return Application()


def ask(application, where, *messages, headers=()):
    """Return (status, headers, body, number of body messages)."""
    waiting, sent = list(messages or [{"type": "http.request"}]), []

    async def receive():
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "path": where,
        "query_string": b"",
        "headers": [(b"host", b"testserver"), *headers],
    }
    asyncio.run(application(scope, receive, send))
    if not sent:
        return None
    assert not sent[-1].get("more_body")
    body = b"".join(message["body"] for message in sent[1:])
    return sent[0]["status"], [(name.lower(), value) for name, value in sent[0]["headers"]], body, len(sent) - 1


def test_response_with_its_headers_and_cookies(application):
    status, headers, body, _ = ask(application, "/plain", {"type": "http.request", "body": b"said"})

    assert (status, body) == (201, b"SAID")
    assert (b"x-kind", b"plain") in headers
    assert [value[:3] for name, value in headers if name == b"set-cookie"] == [b"a=1", b"b=2"]


def test_streamed_response_goes_part_by_part_and_is_closed(application):
    closed.clear()

    status, _, body, messages = ask(application, "/parts")

    assert (status, body, messages, closed) == (200, b"one, two", 3, ["parts"])


def test_views_run_in_a_few_lasting_threads(application):
    names = {ask(application, "/thread")[2] for _ in range(10)}

    assert names <= {b"web_0", b"web_1"}


@pytest.mark.parametrize(
    ("messages", "headers", "status", "code"),
    [
        ([{"type": "http.request", "body": b"x", "more_body": True}], [], 408, "too_slow"),
        ([], [(b"content-length", b"10485761")], 413, "too_large"),
    ],
)
def test_body_that_is_not_taken_is_a_problem_and_ends_the_connection(application, messages, headers, status, code):
    answered, sent, body, _ = ask(application, "/plain", *messages, headers=headers)

    assert (answered, json.loads(body)["code"], json.loads(body)["instance"]) == (status, code, "/plain")
    assert (b"connection", b"close") in sent


def test_body_without_room_may_come_again(application):
    application._bodies.room = 0

    status, headers, _, _ = ask(application, "/plain", {"type": "http.request", "body": b"x" * 100_000})

    assert status == 503
    assert b"retry-after" in dict(headers)


def test_client_that_left_gets_no_answer(application):
    assert ask(application, "/plain", {"type": "http.disconnect"}) is None


def test_query_that_is_no_text_is_a_bad_request(application):
    sent = []

    async def receive():
        return {"type": "http.request"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/plain", "query_string": b"\xff", "headers": []}
    asyncio.run(application(scope, receive, send))

    assert sent[0]["status"] == 400


def test_only_http_is_spoken(application):
    with pytest.raises(ValueError, match="lifespan"):
        asyncio.run(application({"type": "lifespan"}, None, None))


@pytest.mark.django_db(transaction=True)
class TestWebhooks:
    """Providers' requests, most of which Django's views never see."""

    POSTMARK = "/webhooks/postmark/"

    @pytest.fixture(autouse=True)
    def _threads_keep_no_connection(self, monkeypatch):
        monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 0)

    @pytest.fixture
    def application(self, settings):
        settings.WEB_BODY_SECONDS = 0.05
        return Application()

    @staticmethod
    def headers(**more):
        given = {**basic(POSTMARK_SECRETS[0]), **more}
        return [(name.lower().encode(), value.encode()) for name, value in given.items()]

    def post(self, application, where=POSTMARK, body=None, **headers):
        body = encoded(payloads.postmark("Delivery")) if body is None else body
        return ask(application, where, {"type": "http.request", "body": body}, headers=self.headers(**headers))

    def test_webhook_is_stored_before_it_is_answered(self, application):
        status, _, body, _ = self.post(application)

        assert (status, body) == (200, b"")
        assert WebhookReceipt.objects.get().state == "processed"

    @pytest.mark.parametrize("size", [0, 100_000])
    def test_id_of_a_webhook_s_request_is_ours(self, application, size):
        body = encoded(payloads.postmark("Bounce", Content="x" * size))

        assert self.post(application, body=body, **{"X-Request-Id": "any\0thing"})[0] == 200
        assert UUID(WebhookReceipt.objects.get().request_id)

    def test_large_webhook_is_stored_too(self, application):
        body = encoded(payloads.postmark("Bounce", Content="x" * 100_000))

        assert self.post(application, body=body)[0] == 200
        assert bytes(WebhookReceipt.objects.get().body) == body

    def test_forged_webhook_is_refused(self, application):
        status, headers, _, _ = self.post(application, Authorization="Basic eDp5")

        assert status == 401
        assert b"www-authenticate" in dict(headers)

    @pytest.mark.parametrize("where", ["/webhooks/nobody/", "/webhooks/mailgun/", "/webhooks/postmark"])
    def test_what_is_no_provider_s_address_is_left_to_django(self, application, where, settings):
        settings.WEBHOOK_SECRETS = {"postmark": POSTMARK_SECRETS}
        settings.APPEND_SLASH = False

        assert self.post(application, where)[0] == 404

    @pytest.mark.parametrize(
        ("header", "status"), [({}, 301), ({"X-Forwarded-Proto": "http"}, 301), ({"X-Forwarded-Proto": "https"}, 200)]
    )
    def test_plain_http_is_sent_to_https_as_everywhere(self, settings, header, status):
        settings.SECURE_SSL_REDIRECT = True
        settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

        assert self.post(Application(), **header)[0] == status

    @pytest.mark.parametrize(("client", "status"), [("192.0.2.7", 200), ("198.51.100.7", 401)])
    def test_network_is_the_client_s_that_the_proxy_names(self, application, settings, client, status):
        settings.NUM_PROXIES = 1
        settings.WEBHOOK_NETWORKS = {"postmark": [ip_network("192.0.2.0/24")]}

        assert self.post(application, **{"X-Forwarded-For": f"203.0.113.1, {client}"})[0] == status

    @pytest.mark.parametrize("size", [0, 100_000])
    @pytest.mark.parametrize(("client", "status"), [(b"192.0.2.7", 200), (b"198.51.100.7", 401)])
    def test_what_the_proxy_adds_as_a_line_of_its_own_is_the_last_place(self, settings, client, status, size):
        settings.NUM_PROXIES = 1
        settings.WEBHOOK_NETWORKS = {"postmark": [ip_network("192.0.2.0/24")]}
        body = encoded(payloads.postmark("Bounce", Content="x" * size))
        lines = [(b"x-forwarded-for", b"192.0.2.7"), (b"x-forwarded-for", client)]

        answer = ask(
            Application(), self.POSTMARK, {"type": "http.request", "body": body}, headers=self.headers() + lines
        )

        assert answer[0] == status

    def test_slow_body_is_counted_and_has_its_provider_come_again(self, application, settings, monkeypatch):
        monkeypatch.setattr(refusals, "_tally", refusals.Tally())
        settings.WEBHOOK_SECRETS = {"postmark": POSTMARK_SECRETS, "brevo": ["hook:password"]}
        slow = {"type": "http.request", "body": b"{", "more_body": True}

        answered = [ask(application, where, slow)[0] for where in (self.POSTMARK, "/webhooks/brevo/")]

        assert answered == [503, 429]
        assert RefusalCount.objects.filter(reason="too_slow", code=408).exists()
