"""What is said of each provider, held against what Anymail's backends need, build and read."""

import json
import pkgutil

import anymail.backends
import boto3
import pytest
from anymail.exceptions import AnymailConfigurationError, AnymailNotSupportedWarning, AnymailUnsupportedFeature
from django.core.mail import get_connection

from mailer import packing, providers
from mailer.providers import PROVIDERS
from mailer.providers.base import Provider
from tests.conftest import ROOT
from tests.mailer.providers.conftest import email_to

ALL = pytest.mark.parametrize("provider", PROVIDERS.values(), ids=PROVIDERS)
HTTP = [provider for provider in PROVIDERS.values() if provider.over_http]
OVER_HTTP = pytest.mark.parametrize("provider", HTTP, ids=lambda provider: provider.name)
# Anymail says of SendGrid that it no longer supports it.
pytestmark = pytest.mark.filterwarnings(f"ignore::{AnymailNotSupportedWarning.__module__}.AnymailNotSupportedWarning")


@ALL
def test_provider_is_named_after_its_module(provider):
    assert getattr(providers, provider.name).PROVIDER is provider


def test_every_backend_of_anymail_that_sends_has_its_provider():
    backends = {module.name for module in pkgutil.iter_modules(anymail.backends.__path__)}
    aids = {"base", "base_requests", "console", "test"}
    renamed = {"sendinblue"}

    assert {*PROVIDERS} - {"smtp"} == backends - aids - renamed


@ALL
def test_backend_is_built_from_what_it_needs_alone(provider, configure):
    configure(provider)

    assert get_connection(provider.backend)


@pytest.mark.parametrize(
    ("provider", "name"),
    [(provider, name) for provider in HTTP for name in provider.needs],
    ids=lambda each: getattr(each, "name", each),
)
def test_backend_cannot_do_without_what_it_needs(provider: Provider, name, configure):
    configure(provider, without=name)

    with pytest.raises(AnymailConfigurationError, match=name):
        get_connection(provider.backend)


@ALL
def test_backend_reads_what_it_needs_and_takes(provider, configure):
    asked = configure(provider)

    get_connection(provider.backend)

    assert asked.asked >= {*provider.needs, *provider.takes, *provider.fixed}


@OVER_HTTP
def test_message_can_be_sent_without_what_the_provider_lacks(provider, build):
    _, _, backend, payload = build(provider)

    parameters = payload.get_request_params(backend.api_url)

    assert parameters["method"] == "POST"
    assert "ada@example.com" in str(parameters["data"])


@pytest.mark.parametrize("provider", [p for p in HTTP if p.lacks], ids=lambda provider: provider.name)
def test_message_cannot_be_sent_with_what_the_provider_lacks(provider, configure):
    configure(provider)
    backend = get_connection(provider.backend)

    for name in provider.lacks:
        _, email = email_to(provider)
        setattr(email, name, {"message_id": "1"})
        with pytest.raises(AnymailUnsupportedFeature, match=name):
            backend.build_message_payload(email, backend.send_defaults)


@pytest.mark.parametrize("provider", [p for p in HTTP if "metadata" not in p.lacks], ids=lambda provider: provider.name)
def test_our_id_travels_with_the_message(provider, build):
    message, _, backend, payload = build(provider)

    parameters = payload.get_request_params(backend.api_url)

    assert str(message.pk) in str(parameters["data"])


# Where the key is, in the headers and the JSON of the request.
KEYS = {
    "brevo": lambda headers, body: body["headers"]["idempotencyKey"],
    "resend": lambda headers, body: headers["Idempotency-Key"],
    "unisender_go": lambda headers, body: body["message"]["idempotence_key"],
}


def test_all_keys_are_looked_for():
    assert {*KEYS} == {provider.name for provider in PROVIDERS.values() if provider.key}


@pytest.mark.parametrize("name", KEYS)
def test_key_lands_where_the_provider_looks_for_it(name, build):
    message, _, backend, payload = build(PROVIDERS[name])

    parameters = payload.get_request_params(backend.api_url)

    assert KEYS[name](parameters["headers"], json.loads(parameters["data"])) == str(message.pk)


def test_brevo_keeps_the_headers_it_had(build):
    _, _, backend, payload = build(PROVIDERS["brevo"])

    headers = json.loads(payload.get_request_params(backend.api_url)["data"])["headers"]

    assert {*headers} == {"X-Mailin-custom", "idempotencyKey"}


class TestSearch:
    def test_postmark_is_asked_for_the_metadata_it_was_sent(self, build):
        message, _, backend, payload = build(PROVIDERS["postmark"])

        sent = json.loads(payload.get_request_params(backend.api_url)["data"])
        request = PROVIDERS["postmark"].search.request(backend, str(message.pk))

        assert request == {
            "method": "GET",
            "url": "https://api.postmarkapp.com/messages/outbound",
            "params": {"count": 10, "offset": 0, "metadata_message_id": sent["Metadata"]["message_id"]},
            "headers": {"Accept": "application/json", "X-Postmark-Server-Token": "value"},
        }

    def test_postmark_is_asked_for_the_stream_it_was_sent_in(self, configure):
        configure(PROVIDERS["postmark"])["POSTMARK_MESSAGE_STREAM"] = "accounts"

        request = PROVIDERS["postmark"].search.request(get_connection(PROVIDERS["postmark"].backend), "1")

        assert request["params"]["messagestream"] == "accounts"

    def test_mailjet_is_asked_for_the_custom_id_it_was_sent(self, build):
        message, _, backend, payload = build(PROVIDERS["mailjet"])

        sent = json.loads(payload.get_request_params(backend.api_url)["data"])
        request = PROVIDERS["mailjet"].search.request(backend, str(message.pk))

        assert request == {
            "method": "GET",
            "url": "https://api.mailjet.com/v3/REST/message",
            "params": {"CustomID": sent["Globals"]["CustomID"]},
            "headers": {},
            "auth": ("value", "value"),
        }

    @pytest.mark.parametrize(
        ("name", "answer", "found"),
        [
            ("postmark", {"TotalCount": 0, "Messages": []}, []),
            (
                "postmark",
                {
                    "TotalCount": 1,
                    "Messages": [
                        {
                            "Tag": "welcome",
                            "MessageID": "07311c54-0687-4ab9-b034-b54b5bad88ba",
                            "MessageStream": "outbound",
                            "To": [{"Email": "ada@example.com", "Name": None}],
                            "Recipients": ["ada@example.com"],
                            "ReceivedAt": "2026-02-14T11:12:54.8054242-05:00",
                            "Status": "Sent",
                        }
                    ],
                },
                ["07311c54-0687-4ab9-b034-b54b5bad88ba"],
            ),
            ("postmark", {"ErrorCode": 10, "Message": "No Account or Server API tokens were supplied."}, None),
            ("mailjet", {"Count": 0, "Data": [], "Total": 0}, []),
            (
                "mailjet",
                {"Count": 1, "Data": [{"ArrivedAt": "2026-01-01T00:00:00Z", "ID": 576460752303423488}], "Total": 1},
                ["576460752303423488"],
            ),
            ("mailjet", {"ErrorMessage": "API key authentication/authorization failure", "StatusCode": 401}, None),
            ("mailjet", "<html>", None),
        ],
    )
    def test_answer_is_read(self, name, answer, found):
        assert PROVIDERS[name].search.found(answer) == found

    def test_all_searches_are_asked_here(self):
        assert {provider.name for provider in PROVIDERS.values() if provider.search} == {"postmark", "mailjet"}


def test_ses_repeats_nothing_by_itself(configure, monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    configure(PROVIDERS["amazon_ses"])
    backend = get_connection(PROVIDERS["amazon_ses"].backend)

    backend.open()
    config = backend.client.meta.config

    assert config.retries["total_max_attempts"] == 1
    assert (config.connect_timeout, config.read_timeout) == (3, 10)


def test_ses_names_its_errors_as_its_client_does():
    client = boto3.session.Session().client("sesv2", region_name="eu-central-1")
    known = {*client.meta.service_model.operation_model("SendEmail").error_shapes}
    raised = {shape.name for shape in known}

    assert raised - {"BadRequestException"} <= {*PROVIDERS["amazon_ses"].errors}


# --- What operators are told ----------------------------------------------------------------------------


def abilities(provider: Provider) -> tuple[str, str, str]:
    """Return what the table in docs/operations.md is to say of a provider."""
    key = search = batch = ""
    if provider.key:
        seconds = int(provider.key.lifetime.total_seconds())
        unit, size = next((unit, size) for unit, size in UNITS if seconds >= size)
        key = f"for {seconds // size} {unit}"
    if provider.search:
        search = "yes" if provider.search.complete_after else "finds, but does not rule out"
    if provider.batch:
        batch = f"up to {min(provider.batch.most, provider.batch.largest // packing.SMALL)}"
    return key, search, batch


UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))


def test_operators_are_told_what_each_provider_can_do():
    page = (ROOT / "docs" / "operations.md").read_text()
    _, _, table = page.partition(
        "| Provider | Knows a repeat by a key | Can be asked | Many messages in one request |\n"
    )
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in table.split("\n\n")[0].splitlines()]

    told = {name: tuple(cells) for name, *cells in rows[1:-1]}

    assert told == {name: said for name, provider in PROVIDERS.items() if any(said := abilities(provider))}
