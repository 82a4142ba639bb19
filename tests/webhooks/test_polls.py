"""How each provider is asked, and what its answers, as its page shows them, come to."""

import base64
import json
import re
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from anymail.exceptions import AnymailNotSupportedWarning
from django.contrib.postgres.functions import TransactionNow
from django.db.models.functions import Now
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from mailer import couriers, ledger, letters
from mailer.ledger import Source, own_fact
from mailer.models import Attempt, DeliveryEvent, DeliveryStatus, Message
from mailer.providers import PROVIDERS
from tests.mailer import tiny
from tests.mailer.conftest import new_delivery
from tests.webhooks.providers import mangled
from webhooks import inbox, normal, polls, reconcile
from webhooks.models import Inquiry
from webhooks.polls import POLLS
from webhooks.providers import WEBHOOKS, Incoming

pytestmark = pytest.mark.filterwarnings(f"ignore::{AnymailNotSupportedWarning.__module__}.AnymailNotSupportedWarning")

ADA = "ada@example.com"
SETTINGS = {
    "BREVO_API_KEY": "key",
    "MAILGUN_API_KEY": "key",
    "MAILJET_API_KEY": "key",
    "MAILJET_SECRET_KEY": "secret",
    "MANDRILL_API_KEY": "key",
    "POSTMARK_SERVER_TOKEN": "key",
    "RESEND_API_KEY": "key",
    "SENDGRID_API_KEY": "key",
    "SPARKPOST_API_KEY": "key",
}
PATHS = {"mailjet": "/v3.1/", "mailgun": "/v3/"}
IDS = {"mailgun": "<20261121080000.1.ABC@mg.example.com>", "mailjet": "576460752303423489"}


def mailgun(event, **fields):
    return {
        "items": [
            {
                "id": "Ase7i2zsRYeDXztHGENqRA",
                "event": event,
                "timestamp": 1795248000.5,
                "recipient": ADA,
                "message": {"headers": {"message-id": IDS["mailgun"].strip("<>")}},
                **fields,
            }
        ],
        "paging": {"next": "https://api.mailgun.net/v3/mg.example.com/events/W3sidGltZQ"},
    }


def sparkpost(kind, **fields):
    event = {
        "type": kind,
        "event_id": "92356927693813856",
        "message_id": "000443ee14578172be22",
        "transmission_id": "the-id",
        "timestamp": "2026-11-21T08:00:00.000Z",
        "rcpt_to": ADA,
        "raw_rcpt_to": ADA,
        "rcpt_meta": {},
        **fields,
    }
    return {"results": [event], "total_count": 1, "links": {}}


def brevo(event, **fields):
    told = {"email": ADA, "date": "2026-11-21T08:00:00.000+00:00", "messageId": "the-id", "event": event, **fields}
    return {"events": [told]}


def mailjet(status, state=0):
    message = {"ID": 576460752303423489, "Status": status, "StateID": state, "ArrivedAt": "2026-11-21T08:00:00Z"}
    return {"Count": 1, "Data": [message], "Total": 1}


def mandrill(state, **fields):
    return {"ts": 1795248000, "_id": "the-id", "email": ADA, "state": state, "smtp_events": [], **fields}


def sendgrid(status):
    message = {
        "from_email": "accounts@example.com",
        "msg_id": "abc.filter0307p1las1-16816-5A023E36-1.0",
        "subject": "Hello",
        "to_email": ADA,
        "status": status,
        "opens_count": 0,
        "clicks_count": 0,
        "last_event_time": "2026-11-21T08:00:00Z",
    }
    return {"messages": [message]}


def postmark(kind, **details):
    event = {"Recipient": ADA, "Type": kind, "ReceivedAt": "2026-11-21T08:00:00.0000000Z", "Details": details}
    return {"MessageID": "the-id", "Status": "Sent", "MessageEvents": [event]}


def resend(last_event, **fields):
    return {"object": "email", "id": "the-id", "to": [ADA], "cc": [], "bcc": [], "last_event": last_event, **fields}


NO_MAILBOX = "550 5.1.1 The email account that you tried to reach does not exist"
ANSWERS = [
    ("brevo", brevo("delivered"), "delivered", ""),
    ("brevo", brevo("hardBounces", reason=NO_MAILBOX), "bounced", "no_mailbox"),
    ("brevo", brevo("softBounces", reason="452 4.2.2 over quota"), "soft_bounced", "mailbox_full"),
    ("brevo", brevo("spam"), "complained", ""),
    ("brevo", brevo("blocked"), "rejected", "policy"),
    ("brevo", brevo("invalid"), "bounced", "no_mailbox"),
    ("brevo", brevo("deferred", reason="421 4.7.0 try again later"), "deferred", "policy"),
    ("brevo", brevo("error"), "failed", ""),
    ("brevo", brevo("requests"), "sent", ""),
    ("brevo", brevo("opened"), "sent", ""),
    ("brevo", {}, "sent", ""),
    ("mailgun", mailgun("delivered"), "delivered", ""),
    ("mailgun", mailgun("complained"), "complained", ""),
    (
        "mailgun",
        mailgun("failed", severity="permanent", reason="bounce", **{"delivery-status": {"message": NO_MAILBOX}}),
        "bounced",
        "no_mailbox",
    ),
    (
        "mailgun",
        mailgun("failed", severity="temporary", **{"delivery-status": {"message": "421 try again later"}}),
        "deferred",
        "unreachable",
    ),
    ("mailgun", {"items": [], "paging": {}}, "sent", ""),
    ("mailjet", mailjet("sent"), "delivered", ""),
    ("mailjet", mailjet("opened"), "delivered", ""),
    ("mailjet", mailjet("hardbounced", 1), "bounced", "no_mailbox"),
    ("mailjet", mailjet("softbounced", 3), "soft_bounced", "mailbox_full"),
    ("mailjet", mailjet("bounce", 1), "bounced", "no_mailbox"),
    ("mailjet", mailjet("bounce", 10), "soft_bounced", "unreachable"),
    ("mailjet", mailjet("blocked", 20), "suppressed", "policy"),
    ("mailjet", mailjet("spam"), "complained", ""),
    ("mailjet", mailjet("queued"), "sent", ""),
    ("mailjet", mailjet("deferred"), "sent", ""),
    ("mailjet", {"Count": 0, "Data": [], "Total": 0}, "sent", ""),
    ("mandrill", mandrill("sent"), "sent", ""),
    (
        "mandrill",
        mandrill("sent", smtp_events=[{"ts": 1795248000, "type": "sent", "diag": "250 OK"}]),
        "delivered",
        "",
    ),
    ("mandrill", mandrill("bounced", diag=NO_MAILBOX, bounce_description="bad_mailbox"), "bounced", "no_mailbox"),
    ("mandrill", mandrill("soft-bounced", bounce_description="mailbox_full"), "soft_bounced", "mailbox_full"),
    ("mandrill", mandrill("rejected"), "rejected", "other"),
    ("mandrill", mandrill("spam"), "complained", ""),
    ("mandrill", mandrill("queued"), "sent", ""),
    ("postmark", postmark("Delivered", DeliveryMessage="smtp;250 2.0.0 OK"), "delivered", ""),
    (
        "postmark",
        postmark("Transient", DeliveryMessage="smtp;421 4.4.1 Connection timed out"),
        "deferred",
        "unreachable",
    ),
    ("postmark", postmark("Opened", Summary="Email opened with Chrome"), "sent", ""),
    ("resend", resend("delivered"), "delivered", ""),
    ("resend", resend("clicked"), "delivered", ""),
    ("resend", resend("bounced"), "soft_bounced", ""),
    ("resend", resend("complained"), "complained", ""),
    ("resend", resend("delivery_delayed"), "deferred", ""),
    ("resend", resend("failed"), "failed", ""),
    ("resend", resend("suppressed"), "suppressed", ""),
    ("resend", resend("sent"), "sent", ""),
    ("resend", resend("delivered", cc=["b@example.com"]), "sent", ""),
    ("sendgrid", sendgrid("delivered"), "delivered", ""),
    ("sendgrid", sendgrid("not_delivered"), "sent", ""),
    ("sendgrid", {"messages": []}, "sent", ""),
    ("sparkpost", sparkpost("delivery"), "delivered", ""),
    ("sparkpost", sparkpost("bounce", bounce_class="10", raw_reason=NO_MAILBOX), "bounced", "no_mailbox"),
    ("sparkpost", sparkpost("out_of_band", bounce_class="22"), "soft_bounced", "mailbox_full"),
    ("sparkpost", sparkpost("delay", bounce_class="24"), "deferred", "unreachable"),
    ("sparkpost", sparkpost("spam_complaint"), "complained", ""),
    ("sparkpost", {"results": [], "total_count": 0, "links": {}}, "sent", ""),
]


@pytest.fixture
def asked(db, settings):
    """Have a provider asked about a delivery, by a server that gives one answer; return both."""
    servers = []

    def asked(provider, answer, status=200):
        server = tiny.serving(lambda: (status, {"Content-Type": "application/json"}, json.dumps(answer).encode()))
        servers.append(server)
        it = server.__enter__()
        url = f"{it.url}{PATHS.get(provider, '/')}"
        settings.ANYMAIL = {**settings.ANYMAIL, **SETTINGS, f"{provider.upper()}_API_URL": url}
        letters.backend_at.cache_clear()
        identifier = new_delivery()
        known = IDS.get(provider, "the-id")
        ledger.record([own_fact("sent", identifier, "1", provider=provider, esp_message_id=known)])
        DeliveryStatus.objects.update(inquire_at=Now() - timedelta(seconds=1))
        reconcile.reconcile()
        return DeliveryStatus.objects.get(pk=identifier), it

    yield asked
    couriers.close()
    letters.backend_at.cache_clear()
    for server in servers:
        server.__exit__(None, None, None)


def event_of(delivery):
    return DeliveryEvent.objects.get(delivery=delivery, source="poll")


@pytest.mark.parametrize(("provider", "answer", "status", "category"), ANSWERS)
def test_answer_is_read(asked, provider, answer, status, category):
    delivery, server = asked(provider, answer)

    assert delivery.status == status
    assert len(server.requests) == 1
    assert Inquiry.objects.get().failed == 0
    if status == "sent":
        assert delivery.inquire_at is not None
    else:
        assert (event_of(delivery).category, event_of(delivery).provider) == (category, provider)


@pytest.mark.parametrize(
    ("provider", "answer"),
    [
        ("brevo", brevo("delivered")),
        ("mailgun", mailgun("delivered")),
        ("mandrill", mandrill("sent", smtp_events=[{"ts": 1795248000, "type": "sent", "diag": "250 OK"}])),
        ("postmark", postmark("Delivered")),
        ("sendgrid", sendgrid("delivered")),
        ("sparkpost", sparkpost("delivery")),
    ],
)
def test_time_of_the_event_is_kept(asked, provider, answer):
    delivery, _ = asked(provider, answer)

    assert event_of(delivery).occurred_at.isoformat()[:19] == "2026-11-21T08:00:00"


REQUESTS = {
    "brevo": ("GET", "/smtp/statistics/events", {"messageId": ["the-id"]}, {"api-key": "key"}),
    "mailgun": (
        "GET",
        "/v3/mg.example.com/events",
        {"message-id": ["20261121080000.1.ABC@mg.example.com"]},
        {"Authorization": f"Basic {base64.b64encode(b'api:key').decode()}"},
    ),
    "mailjet": (
        "GET",
        "/v3/REST/message/576460752303423489",
        {},
        {"Authorization": f"Basic {base64.b64encode(b'key:secret').decode()}"},
    ),
    "mandrill": ("POST", "/messages/info.json", {}, {}),
    "postmark": ("GET", "/messages/outbound/the-id/details", {}, {"X-Postmark-Server-Token": "key"}),
    "resend": ("GET", "/emails/the-id", {}, {"Authorization": "Bearer key"}),
    "sendgrid": (
        "GET",
        "/messages",
        {"query": ["(unique_args['anymail_id']=\"the-id\")"]},
        {"Authorization": "Bearer key"},
    ),
    "sparkpost": ("GET", "/events/message", {"transmissions": ["the-id"]}, {"Authorization": "key"}),
}


@pytest.mark.parametrize("provider", POLLS)
def test_request_is_the_one_its_page_names(asked, provider):
    _, server = asked(provider, {})

    method, path, query, headers = REQUESTS[provider]
    [(sent, body)] = server.requests
    [(verb, target)] = server.lines
    assert (verb, urlsplit(target).path) == (method, path)
    assert parse_qs(urlsplit(target).query).items() >= query.items()
    assert dict(sent).items() >= headers.items()
    if provider == "mandrill":
        assert json.loads(body) == {"key": "key", "id": "the-id"}


@pytest.mark.parametrize(
    ("provider", "status", "body"),
    [
        ("mandrill", 500, {"status": "error", "code": 11, "name": "Unknown_Message", "message": "No message exists"}),
        ("postmark", 422, {"ErrorCode": 701, "Message": "This message does not exist."}),
        ("resend", 404, {"statusCode": 404, "name": "not_found", "message": "Email not found"}),
    ],
)
def test_mail_that_it_does_not_know_is_no_failure(asked, provider, status, body):
    delivery, _ = asked(provider, body, status)

    assert delivery.status == "sent"
    assert (Inquiry.objects.get().failed, Inquiry.objects.get().silent_until) == (0, None)


def test_key_that_may_only_send_is_left_alone(asked):
    asked("resend", {"statusCode": 401, "name": "restricted_api_key", "message": "only send"}, 401)

    assert (Inquiry.objects.get().error, Inquiry.objects.get().silent_until is None) == ("http_401", False)


@pytest.mark.parametrize(
    ("provider", "answer", "posted"),
    [
        ("mailgun", mailgun("delivered"), {"signature": {}, "event-data": mailgun("delivered")["items"][0]}),
        (
            "sparkpost",
            sparkpost("delivery"),
            [{"msys": {"message_event": {**sparkpost("delivery")["results"][0], "timestamp": "1795248000"}}}],
        ),
    ],
)
def test_event_that_a_webhook_tells_too_is_one(asked, provider, answer, posted):
    delivery, _ = asked(provider, answer)

    receipt = inbox.process(provider, Incoming({}, json.dumps(posted).encode()))

    assert (receipt.events, receipt.new_events) == (1, 0)
    assert DeliveryEvent.objects.filter(delivery=delivery).exclude(source="sender").count() == 1


def test_answer_that_proves_an_acceptance_ends_the_doubt(asked):
    answer = {"items": []}
    delivery, _ = asked("mailgun", answer)
    message = Message.objects.filter(pk=delivery.message_id)
    message.update(state="unknown", provider="mailgun", first_ambiguous_at=Now())
    Attempt.objects.create(message_id=delivery.message_id, token=1, provider="mailgun", outcome="ambiguous")
    answer |= mailgun("delivered", **{"user-variables": {"message_id": str(delivery.message_id)}})
    DeliveryStatus.objects.update(inquire_at=TransactionNow())
    Inquiry.objects.update(tokens=1)

    assert reconcile.reconcile() == 1

    assert message.get().state == "sent"


class Backend:
    """What of Anymail's backends a question needs."""

    api_url = "https://api.example.com/v3/"
    api_key = secret_key = server_token = "key"
    sender_domain = subaccount = None


@limits(max_examples=300, deadline=None)
@given(drawn=st.sampled_from(ANSWERS).flatmap(lambda row: st.tuples(st.just(row[0]), mangled.payloads([row[1]]))))
def test_mangled_answer_is_read_or_unreadable(drawn):
    provider, answer = drawn
    story = POLLS[provider].ask(Backend, "the-id")
    parts = []
    try:
        story.send(None)
        while True:
            story.send(answer)
    except StopIteration as end:
        parts = end.value
    except letters.UNREADABLE:
        return

    contents = normal.read_parts(provider, parts, Incoming({}, b""), receipt_id=None, source=Source.POLL)

    assert len(contents.facts) + len(contents.unreadable) <= len(parts)
    assert all(fact.source is Source.POLL for fact in contents.facts)


def test_each_provider_that_tells_has_a_module_and_webhooks_and_no_other_has():
    modules = {path.stem for path in Path(polls.__file__).parent.glob("*.py")} - {"__init__", "base"}

    assert {*POLLS} == modules
    assert {*POLLS} <= {*WEBHOOKS}


def test_it_is_said_why_others_are_not_asked():
    others = {provider.name for provider in PROVIDERS.values()} - {*POLLS}

    assert others == {*re.findall(r"^    (\w+)  ", polls.__doc__, re.MULTILINE)}


# Requests in so many seconds that a provider's page allows.
ALLOWED = {"brevo": (100, 3600), "mandrill": (20, 60), "resend": (2, 1), "sendgrid": (6, 60)}


@pytest.mark.parametrize("provider", ALLOWED)
def test_requests_are_no_more_than_the_page_allows(provider):
    poll, (requests, seconds) = POLLS[provider], ALLOWED[provider]

    assert poll.burst + poll.rate * seconds <= requests
