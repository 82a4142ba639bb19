"""What statuses and errors mean: the failure classes."""

import ssl

import pytest
import requests
from urllib3.exceptions import (
    ConnectTimeoutError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)

from mailer import providers
from mailer.exceptions import MailerError, UnknownProvider
from mailer.verdicts import Verdict, of_error, of_status


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.ACCEPTED),
        (202, Verdict.ACCEPTED),
        (299, Verdict.ACCEPTED),
        (301, Verdict.CONFIGURATION),
        (400, Verdict.PERMANENT),
        (401, Verdict.CONFIGURATION),
        (403, Verdict.CONFIGURATION),
        (404, Verdict.PERMANENT),
        (408, Verdict.AMBIGUOUS),
        (409, Verdict.PERMANENT),
        (413, Verdict.PERMANENT),
        (422, Verdict.PERMANENT),
        (429, Verdict.THROTTLED),
        (500, Verdict.AMBIGUOUS),
        (503, Verdict.AMBIGUOUS),
        (599, Verdict.AMBIGUOUS),
    ],
)
def test_of_status_at_most_providers(status, verdict):
    assert of_status(status, {}) is verdict


@pytest.mark.parametrize(("status", "verdict"), [(409, Verdict.AMBIGUOUS), (503, Verdict.THROTTLED)])
def test_of_status_where_a_provider_means_otherwise(status, verdict):
    assert of_status(status, {status: verdict}) is verdict


def gave_up(reason: Exception) -> MaxRetryError:
    return MaxRetryError(None, "/", reason)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (requests.ConnectionError(gave_up(NewConnectionError(None, "refused"))), Verdict.NOT_SENT),
        (requests.ConnectionError(gave_up(NameResolutionError("host", None, OSError("none")))), Verdict.NOT_SENT),
        (requests.ConnectTimeout(gave_up(ConnectTimeoutError("slow"))), Verdict.NOT_SENT),
        (requests.exceptions.SSLError(gave_up(SSLError(ssl.SSLCertVerificationError("bad")))), Verdict.NOT_SENT),
        (requests.exceptions.SSLError(gave_up(SSLError(ssl.SSLEOFError("cut")))), Verdict.AMBIGUOUS),
        (requests.exceptions.SSLError(gave_up(SSLError())), Verdict.AMBIGUOUS),
        (requests.ReadTimeout(ReadTimeoutError(None, "/", "slow")), Verdict.AMBIGUOUS),
        (requests.ConnectionError(ProtocolError("cut", ConnectionResetError())), Verdict.AMBIGUOUS),
        (requests.exceptions.ChunkedEncodingError("cut"), Verdict.AMBIGUOUS),
        (requests.RequestException(), Verdict.AMBIGUOUS),
    ],
)
def test_of_error(error, verdict):
    assert of_error(error) is verdict


def test_get_a_provider_by_name():
    assert providers.get("postmark").name == "postmark"


def test_get_an_unknown_provider_says_which_there_are():
    with pytest.raises(UnknownProvider, match="'pigeon' is not one of amazon_ses, brevo") as caught:
        providers.get("pigeon")

    assert isinstance(caught.value, MailerError)


@pytest.mark.parametrize("provider", providers.PROVIDERS.values(), ids=lambda provider: provider.name)
def test_a_providers_key_has_one_place_and_a_lifetime(provider):
    if provider.key:
        assert bool(provider.key.header) != bool(provider.key.field)
        assert provider.key.lifetime
