"""What statuses and errors mean: the failure classes."""

import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

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


KEY = ConnectionKey("provider.example", 443, True, True, None, None, None)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (aiohttp.ClientConnectorError(KEY, OSError("refused")), Verdict.NOT_SENT),
        (aiohttp.ClientConnectorDNSError(KEY, OSError("no address")), Verdict.NOT_SENT),
        (aiohttp.ClientConnectorSSLError(KEY, OSError("no TLS")), Verdict.NOT_SENT),
        (aiohttp.ClientConnectorCertificateError(KEY, ssl.CertificateError("bad")), Verdict.NOT_SENT),
        (aiohttp.ConnectionTimeoutError(), Verdict.NOT_SENT),
        (aiohttp.InvalidURL("nonsense"), Verdict.CONFIGURATION),
        (aiohttp.SocketTimeoutError(), Verdict.AMBIGUOUS),
        (aiohttp.ServerDisconnectedError(), Verdict.AMBIGUOUS),
        (aiohttp.ClientOSError(), Verdict.AMBIGUOUS),
        (aiohttp.ClientPayloadError(), Verdict.AMBIGUOUS),
        (TimeoutError(), Verdict.AMBIGUOUS),
        (ConnectionResetError(), Verdict.AMBIGUOUS),
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
