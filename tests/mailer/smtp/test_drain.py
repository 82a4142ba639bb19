"""Mails that leave the outbox through SMTP."""

import pytest

from mailer import sender
from mailer.models import Attempt, ProviderState
from tests.mailer import mailserver
from tests.mailer.conftest import delivery_of, enqueue, read, send_again

# aiosmtpd says so of a login over a connection that is not encrypted, or was from the start.
pytestmark = [
    pytest.mark.usefixtures("fresh_threads"),
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning"),
]


def test_drain_sends_what_is_due(db, server):
    message = enqueue("Ada@example.com")

    assert sender.drain() == 1

    (mail,) = server.mails
    delivery, attempt = delivery_of(message), Attempt.objects.get()
    assert (mail.sender, mail.recipients) == ("accounts@example.com", ["Ada@example.com"])
    assert (read(message).state, delivery.status, delivery.provider) == ("sent", "sent", "smtp")
    assert delivery.esp_message_id == mail.message["Message-ID"] == f"<{message.pk}@example.com>"
    assert (attempt.outcome, attempt.http_status, attempt.error_class) == ("accepted", None, "")


def test_drain_sends_many_over_few_connections(db, server):
    messages = [enqueue(f"user-{number}@example.com") for number in range(40)]

    assert sender.drain() == 40

    assert {read(message).state for message in messages} == {"sent"}
    assert len({mail.message["Message-ID"] for mail in server.mails}) == 40
    assert len(server.connections) <= sender.THREADS


def test_drain_is_in_doubt_after_a_connection_that_was_cut_at_the_end_of_the_data(db, server):
    server.replies["DATA"] = "CUT"
    message = enqueue()

    sender.drain()
    server.replies.clear()
    send_again()

    assert (read(message).state, delivery_of(message).status) == ("unknown", "unknown")
    assert (Attempt.objects.get().outcome, len(server.mails)) == ("ambiguous", 1)


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
def test_drain_retries_what_is_refused_for_now(db, server, command):
    server.replies[command] = "451 4.7.1 Greylisted, please try again later"
    message = enqueue()
    sender.drain()
    assert (read(message).state, read(message).error_class) == ("retry", "smtp_451 4.7.1")

    server.replies.clear()
    send_again()

    assert (read(message).state, len(server.mails)) == ("sent", 1)


def test_drain_gives_up_what_is_refused_for_good(db, server):
    server.replies["RCPT"] = "550 5.1.1 <ada@example.com>: there is no such mailbox"
    message = enqueue()

    sender.drain()

    assert (read(message).state, delivery_of(message).status) == ("dead", "rejected")
    assert read(message).error_class == "smtp_550 5.1.1"


def test_drain_gives_up_content_that_is_refused_without_blaming_the_recipient(db, server):
    server.replies["DATA"] = "554 5.6.0 no"
    message = enqueue()

    sender.drain()

    assert (read(message).state, delivery_of(message).status) == ("dead", "failed")


def test_drain_charges_no_attempt_where_the_login_fails(db, point, settings):
    with mailserver.taking(login=True, auth_require_tls=False) as server:
        point(server.port, EMAIL_HOST_USER="accounts", EMAIL_HOST_PASSWORD="wrong")
        message = enqueue()

        sender.drain()

    assert (read(message).state, read(message).attempts) == ("retry", 0)
    assert ProviderState.objects.get(name="smtp").reason == "refused"
    assert server.mails == []


def test_drain_sends_to_an_international_address(db, server):
    message = enqueue("ada@bücher.example")

    sender.drain()

    assert server.mails[0].recipients == ["ada@xn--bcher-kva.example"]
    assert delivery_of(message).status == "sent"
