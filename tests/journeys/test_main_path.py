"""Somebody registers, follows the link, is welcomed, and it is known what became of each mail: over HTTP alone."""

from urllib.parse import parse_qs, urlsplit

import pytest

from tests.conftest import wait_until
from tests.journeys.conftest import link_in, mail_to

ADA, BOB = "delivered+ada@example.org", "bounce+bob@example.org"


def token_in(link):
    return parse_qs(urlsplit(link).query)["token"][0]


@pytest.mark.parametrize("preferred", ["resend,postmark", "postmark,resend"])
def test_register_verify_and_be_welcomed(service, provider, preferred):
    service.environment["MAIL_PROVIDERS"] = preferred
    service.web()
    service.worker()

    registered = service.register(ADA)

    assert registered.status_code == 202
    link = link_in(mail_to(provider, ADA))
    token = service.token(ADA)
    for method in ("GET", "HEAD", "GET"):
        assert service.call(method, link).status_code == 200
        assert service.call("GET", "/api/v1/accounts/me", token=token).json()["email_verified_at"] is None

    pressed = service.call("POST", "/verify-email", data={"token": token_in(link)})

    assert pressed.status_code == 200
    assert service.call("GET", "/api/v1/accounts/me", token=token).json()["email_verified_at"] is not None
    mail_to(provider, ADA, "Welcome")
    wait_until(lambda: [each["status"] for each in service.deliveries(token).values()] == ["delivered", "delivered"])
    for delivery in service.deliveries(token).values():
        events = service.call("GET", f"/api/v1/accounts/me/deliveries/{delivery['id']}", token=token).json()["events"]
        assert {"queued", "sent", "delivered"} <= {event["event_type"] for event in events}
    assert len(provider.accepted()) == 2
    assert {mail["provider"] for mail in provider.accepted()} == {preferred.split(",")[0]}

    again = service.call("POST", "/verify-email", data={"token": token_in(link)})

    assert again.status_code == 200
    assert len(provider.accepted()) == 2


@pytest.mark.parametrize("preferred", ["resend,postmark", "postmark,resend"])
def test_hard_bounce_is_told(service, provider, preferred):
    service.environment["MAIL_PROVIDERS"] = preferred
    service.web()
    service.worker()

    service.register(BOB)

    token = service.token(BOB)
    wait_until(lambda: service.deliveries(token)["verification"]["status"] == "bounced")
    assert service.call("GET", "/api/v1/accounts/me", token=token).json()["email_verified_at"] is None


def test_webhooks_duplicated_shuffled_and_before_the_answer(service, provider):
    provider.faults(webhook_duplicate=1, webhook_shuffle=True, webhook_early=True, seed=1)
    service.web()
    service.relay()
    addresses = [f"{behaviour}+{number}@example.org" for behaviour in ("delivered", "bounce") for number in range(5)]

    for address in addresses:
        service.register(address)

    tokens = {address: service.token(address) for address in addresses}
    for address, token in tokens.items():
        expected = "bounced" if address.startswith("bounce") else "delivered"
        wait_until(lambda: service.deliveries(token)["verification"]["status"] == expected)  # noqa: B023  # called at once
