"""One id through the whole story, and what is in no line of it."""

import base64
from urllib.parse import parse_qs, quote, urlsplit

from tests.conftest import wait_until
from tests.journeys.conftest import HOOK_PASSWORD, PASSWORD, SVIX_SECRET, link_in, mail_to

ADA = "delivered+ada.lovelace@mail.example.org"


def test_one_id_tells_the_whole_story(service, provider):
    service.web()
    service.worker()

    registered = service.register(ADA)

    token = service.token(ADA)
    wait_until(lambda: service.deliveries(token)["verification"]["status"] == "delivered")
    wait_until(lambda: "event_recorded" in service.text())
    [started] = [
        entry
        for entry in service.entries()
        if entry["event"] == "request_started" and entry["request"] == "POST /api/v1/accounts/register"
    ]
    story = [entry for entry in service.entries() if started["request_id"] in str(entry)]
    assert registered.status_code == 202
    assert {
        *("request_started", "message_enqueued", "request_finished", "message_sent", "event_recorded"),
    } <= {entry["event"] for entry in story}
    recorded = [entry for entry in story if entry["event"] == "event_recorded"]
    assert {"delivered"} <= {entry["event_type"] for entry in recorded}
    assert all(entry["request_id"] != started["request_id"] for entry in recorded)  # the webhook's own
    [mail] = provider.accepted()
    assert mail["metadata"]["correlation_id"] == started["request_id"]


def test_nothing_that_is_nobody_s_business_is_in_any_line(service, provider):
    service.web()
    service.worker()
    service.relay()
    service.beat()
    unknown = "charles.babbage@mail.example.org"
    wrong = "a-yellow-Submarine-under-Porto"

    service.register(ADA)
    link = link_in(mail_to(provider, ADA))
    link_token = parse_qs(urlsplit(link).query)["token"][0]
    service.register(ADA)  # again: its owner is told
    service.register("no address, but " + unknown)
    service.call("GET", link)
    service.call("GET", f"/verify-email?token={link_token}x")
    service.call("POST", "/verify-email", data={"token": link_token})
    service.call("POST", "/api/v1/accounts/verify-email", json={"token": link_token})
    service.call("POST", "/api/v1/accounts/verify-email/resend", json={"email": unknown})
    service.call("POST", "/api/v1/auth/tokens", json={"email": unknown, "password": wrong})
    service.call("POST", "/api/v1/auth/tokens", json={"email": ADA, "password": wrong})
    token = service.token(ADA)
    service.call("GET", f"/api/v1/deliveries?recipient={quote(ADA)}&token={token}", token=token)
    service.call("GET", f"/nothing/{quote(ADA)}?password={PASSWORD}", token=token)
    service.call("POST", "/webhooks/postmark/", data="{}", auth=("hook", wrong))
    service.call(
        "POST", "/webhooks/postmark/", data=f'{{"Email": "{ADA}", "Metadata": null}}', auth=("hook", HOOK_PASSWORD)
    )
    wait_until(lambda: {each["status"] for each in service.deliveries(token).values()} == {"delivered"})
    mail_to(provider, ADA, "Welcome")
    service.stop()

    text = service.text()
    entries = service.entries()
    credentials = base64.b64encode(f"hook:{HOOK_PASSWORD}".encode()).decode()
    private = {
        *(ADA, quote(ADA), "lovelace", unknown, "babbage"),
        *(PASSWORD, wrong, link_token, link_token.partition(".")[2], token),
        *(HOOK_PASSWORD, credentials, SVIX_SECRET, SVIX_SECRET.removeprefix("whsec_")),
        *(service.environment["SECRET_KEY"], provider.TOKEN, provider.KEY),
    }
    assert {"message_sent", "event_recorded", "receipt_rejected", "receipt_unreadable", "relay_started"} <= {
        entry["event"] for entry in entries
    }
    assert not [value for value in private if value in text]
    assert "verify-email?" not in text
