"""A mail to several of whom some got it: the others are still sent to, and nobody a second time."""

import json
from datetime import timedelta

import pytest
from anymail.message import AnymailRecipientStatus
from django.core.mail import EmailMessage
from django.db.models.functions import Now

from mailer import doubts, operators, outbox, retention, sender, suppressions, sweeping
from mailer.backends import OutboxBackend
from mailer.decisions import MAX_ATTEMPTS, conclude
from mailer.models import DeliveryStatus, Message, ProviderState
from mailer.providers import PROVIDERS
from mailer.verdicts import Answer, Verdict
from tests.mailer.conftest import change, enqueue, intend_one, lapse, make_due, open_delivery, read, send_again

pytestmark = pytest.mark.usefixtures("fresh_threads")

HOUR = timedelta(hours=1)
THREE = {"ada@example.com": "sent", "bob@example.com": "sent", "eve@example.com": "sent"}


def to_three() -> Message:
    ada, *others = THREE
    message = enqueue(ada)
    for other in others:
        open_delivery(message, other)
    return message


def statuses_of(message: Message) -> dict[str, str]:
    return dict(message.deliveries.values_list("recipient", "status"))


def greylist(server, address: str) -> None:
    server.replies |= {address: "451 4.7.1 greylisted"}


def test_drain_tells_refused_recipients_from_accepted_ones(db, server):
    server.replies |= {"bob@example.com": "550 5.1.1 no", "eve@example.com": "452 4.2.2 full"}
    message = to_three()

    sender.drain()

    assert statuses_of(message) == {**THREE, "bob@example.com": "rejected", "eve@example.com": "queued"}
    assert (read(message).state, read(message).error_class) == ("retry", "smtp_452 4.2.2")
    assert server.mails[0].recipients == ["ada@example.com"]


def test_drain_tries_those_again_who_were_refused_for_now_beside_accepted_ones(db, server):
    message = to_three()
    server.replies |= {"eve@example.com": "451 4.7.1 greylisted"}
    sender.drain()
    server.replies.clear()

    send_again()

    assert [mail.recipients for mail in server.mails] == [["ada@example.com", "bob@example.com"], ["eve@example.com"]]
    assert len({mail.message["Message-ID"] for mail in server.mails}) == 1
    assert (read(message).state, statuses_of(message)) == ("sent", THREE)


def test_drain_says_of_each_recipient_what_became_of_it_in_the_end(db, server):
    message = to_three()
    server.replies |= {"eve@example.com": "451 4.7.1 greylisted"}
    sender.drain()
    server.replies["eve@example.com"] = "550 5.1.1 no"

    send_again()

    assert (read(message).state, len(server.mails)) == ("dead", 1)
    assert statuses_of(message) == {**THREE, "eve@example.com": "rejected"}


def test_drain_does_not_try_for_ever_who_is_refused_for_now(db, server):
    message = to_three()
    change(message, attempts=MAX_ATTEMPTS - 1)
    server.replies |= {"eve@example.com": "451 4.7.1 greylisted"}

    sender.drain()

    assert (read(message).state, statuses_of(message)) == ("sent", {**THREE, "eve@example.com": "failed"})


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda message: operators.cancel(message.pk), "cancelled"),
        (lambda message: (change(message, expires_at=Now() - timedelta(hours=1)), sweeping.sweep()), "expired"),
    ],
)
def test_an_end_is_told_to_those_alone_who_were_not_accepted(db, server, end, status):
    message = to_three()
    server.replies |= {"eve@example.com": "451 4.7.1 greylisted"}
    sender.drain()

    end(message)

    assert statuses_of(message) == {**THREE, "eve@example.com": status}


def test_a_report_on_who_was_accepted_does_not_end_what_others_wait_for(db, server):
    message = to_three()
    server.replies |= {"eve@example.com": "451 4.7.1 greylisted"}
    sender.drain()

    assert doubts.confirm("resend", [message.pk]) == 0

    assert read(message).state == "retry"


def test_who_was_accepted_gets_no_second_mail_though_the_lease_had_run_out(db, server):
    message = to_three()
    claim = intend_one(message, "smtp")
    lapse(message)
    sweeping.sweep()
    accepted = {name: AnymailRecipientStatus("1", "queued") for name in ("ada@example.com", "bob@example.com")}
    answer = Answer(Verdict.ACCEPTED, recipients=accepted, deferred=frozenset({"eve@example.com"}))
    outbox.settle([conclude(claim, PROVIDERS["smtp"], answer)])
    assert read(message).state == "unknown"
    change(message, content=None)  # to be rendered
    operators.retry([message.pk])

    sender.drain()

    assert [mail.recipients for mail in server.mails] == [["eve@example.com"]]
    assert (read(message).state, statuses_of(message)) == ("sent", THREE)


def test_who_got_it_keeps_the_status_when_erased(db, server):
    message = to_three()
    greylist(server, "eve@example.com")
    sender.drain()

    retention.erase("ada@example.com")

    assert message.deliveries.get(recipient="").status == "sent"


EVE = "eve@example.com"


@pytest.mark.parametrize(
    "leave",
    [lambda: retention.erase(EVE), lambda: suppressions.suppress(EVE, "complaint", source="test")],
    ids=["erased", "suppressed"],
)
def test_mail_is_sent_though_the_last_one_left_is_not_sent_to(db, server, leave):
    message = to_three()
    greylist(server, "eve@example.com")
    sender.drain()

    leave()
    send_again()

    assert (read(message).state, len(server.mails)) == ("sent", 1)


@pytest.mark.parametrize("refused", ["Ada@Example.com", "ada@example.com"])
def test_two_spellings_of_an_address_are_one_recipient(db, server, refused):
    mail = EmailMessage("Hi", "b", "accounts@example.com", ["Ada@Example.com"], cc=["ada@example.com"])
    OutboxBackend().send_messages([mail])
    server.replies |= {refused: "452 4.5.3 too many recipients"}

    sender.drain()
    server.replies.clear()
    send_again()

    assert sum(len(mail.recipients) for mail in server.mails) == 1
    assert DeliveryStatus.objects.get().status == "sent"


def test_hidden_recipient_who_is_left_is_sent_to_by_an_api(db, server, settings, answering):
    answering("postmark", 200, json.dumps({"ErrorCode": 0, "Message": "OK", "MessageID": "an-id", "To": EVE}).encode())
    settings.MAIL_PROVIDERS = ["smtp", "postmark"]
    mail = EmailMessage("Hi", "b", "accounts@example.com", ["ada@example.com"], bcc=["eve@example.com"])
    OutboxBackend().send_messages([mail])
    greylist(server, "eve@example.com")
    sender.drain()
    ProviderState.objects.update_or_create(name="smtp", defaults={"reason": "throttled", "blocked_until": Now() + HOUR})

    make_due()
    sender.drain()

    assert Message.objects.get().provider == "postmark"
    assert statuses_of(Message.objects.get()) == {"ada@example.com": "sent", "eve@example.com": "sent"}
