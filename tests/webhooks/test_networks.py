"""Where webhooks may come from, and who it is that a request comes from."""

from ipaddress import ip_address, ip_network

import pytest
from django.test import Client, RequestFactory

from tests.webhooks import payloads
from tests.webhooks.conftest import POSTMARK_SECRETS, POSTMARK_URL, basic, encoded
from users import networks
from webhooks.models import WebhookReceipt
from webhooks.views import WebhookView

pytestmark = pytest.mark.django_db

BODY = encoded(payloads.postmark("Delivery"))


@pytest.fixture
def post(settings):
    """Post a genuine webhook from an address, through so many proxies."""
    settings.WEBHOOK_NETWORKS = {"postmark": [ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")]}

    def post(address, proxies=0, **headers):
        settings.NUM_PROXIES = proxies
        return (
            Client()
            .post(
                POSTMARK_URL,
                BODY,
                content_type="application/json",
                headers={**basic(POSTMARK_SECRETS[0]), **headers},
                REMOTE_ADDR=address,
            )
            .status_code
        )

    return post


@pytest.mark.parametrize("address", ["192.0.2.1", "192.0.2.255", "2001:db8::1", "::ffff:192.0.2.1", "::FFFF:c000:0201"])
def test_webhook_from_the_providers_networks_is_taken(post, address):
    assert post(address) == 200


@pytest.mark.parametrize("address", ["192.0.3.1", "2001:db9::1", "::ffff:192.0.3.1", "::192.0.2.1", "", "/run/socket"])
def test_webhook_from_elsewhere_is_refused_and_comes_again(post, address):
    assert post(address) == 401
    assert not WebhookReceipt.objects.exists()


@pytest.mark.parametrize(("named", "code"), [([], 200), ([ip_network("0.0.0.0/0"), ip_network("::/0")], 401)])
def test_request_of_a_unix_socket_has_no_address(settings, named, code):
    settings.WEBHOOK_NETWORKS = {"postmark": named}
    request = RequestFactory().post(
        POSTMARK_URL, BODY, content_type="application/json", headers=basic(POSTMARK_SECRETS[0])
    )
    del request.META["REMOTE_ADDR"]

    assert WebhookView.as_view()(request, esp="postmark").status_code == code


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.1", "192.0.2.1/32"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::/0", "::/0"),
    ],
)
def test_network_that_is_mapped_is_the_ipv4_one(text, network):
    assert networks.read_network(text) == ip_network(network)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (" 192.0.2.1 ", ip_address("192.0.2.1")),
        ("::ffff:192.0.2.1", ip_address("192.0.2.1")),
        ("2001:DB8:0:0::1", ip_address("2001:db8::1")),
        ("192.0.2.1:80", None),
        ("", None),
    ],
)
def test_address_that_is_mapped_is_the_ipv4_one(text, address):
    assert networks.read_address(text) == address


def test_networks_of_one_provider_are_no_other_s(post, settings):
    settings.WEBHOOK_NETWORKS = {"resend": [ip_network("198.51.100.0/24")], "postmark": []}

    assert post("192.0.3.1") == 200


class TestProxies:
    @pytest.mark.parametrize(
        ("proxies", "header"),
        [
            (1, "192.0.2.1"),
            (1, "203.0.113.9, 192.0.2.1"),
            (1, " 192.0.2.1 "),
            (1, "2001:DB8:0:0::1"),
            (1, "::ffff:192.0.2.1"),
            (2, "192.0.2.1, 10.0.0.1"),
            (2, "203.0.113.9,192.0.2.1,10.0.0.1"),
        ],
    )
    def test_client_is_so_many_places_from_the_right(self, post, proxies, header):
        assert post("10.0.0.2", proxies, **{"X-Forwarded-For": header}) == 200

    @pytest.mark.parametrize(
        ("proxies", "header"),
        [
            (0, "192.0.2.1"),
            (1, "192.0.2.1, 203.0.113.9"),
            (1, "192.0.2.1, "),
            (1, "192.0.2.1, unknown"),
            (1, ""),
            (2, "192.0.2.1"),
            (2, "192.0.2.1, 203.0.113.9, 10.0.0.1"),
        ],
    )
    def test_what_anybody_can_write_is_not_believed(self, post, proxies, header):
        assert post("10.0.0.2", proxies, **{"X-Forwarded-For": header}) == 401

    def test_who_comes_past_the_proxies_has_the_address_it_comes_from(self, post):
        assert post("192.0.2.7", 2, **{"X-Forwarded-For": "203.0.113.9"}) == 200
