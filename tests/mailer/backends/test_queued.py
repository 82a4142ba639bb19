"""Whoever sends by Django: the mail is a message, in the transaction of its cause."""

from datetime import UTC, datetime, timedelta

import pytest
from anymail.message import AnymailMessage
from django.contrib.auth.forms import PasswordResetForm
from django.contrib.auth.models import AbstractUser
from django.core.mail import (
    get_connection,
    mail_admins,
    send_mail,
    send_mass_mail,
)
from django.db import transaction
from django.utils import timezone, translation

from mailer import content
from mailer.backends import Options
from mailer.exceptions import InvalidAddress
from mailer.models import Attachment, DeliveryStatus, Message
from tests.conftest import in_threads
from tests.mailer.backends.conftest import BACKEND, mail, queued, recipients_of
from users.models import User


def test_the_service_uses_it():
    from project import settings as service

    assert service.EMAIL_BACKEND == BACKEND
    assert service.SERVER_EMAIL == service.DEFAULT_FROM_EMAIL


def test_send_mail_is_a_message_and_a_delivery(db):
    assert send_mail("Hello", "Good day.", None, ["ada@example.com"], html_message="<p>Good day.") == 1

    message = Message.objects.get()
    assert (message.kind, message.state, message.priority, message.flow) == ("custom", "pending", 20, "custom")
    assert message.expires_at is None
    delivery = DeliveryStatus.objects.get()
    assert (delivery.message, delivery.recipient, delivery.status) == (message, "ada@example.com", "queued")
    thawed = content.thaw(message, ["ada@example.com"])
    assert (thawed.subject, thawed.body, thawed.from_email) == (
        "Hello",
        "Good day.",
        "Accounts <accounts@example.com>",
    )
    assert thawed.alternatives == [("<p>Good day.", "text/html")]


def test_send_mass_mail_is_a_message_each(db):
    count = send_mass_mail([("One", "1", None, ["a@example.com"]), ("Two", "2", None, ["b@example.com"])])

    assert count == 2
    assert sorted(DeliveryStatus.objects.values_list("recipient", flat=True)) == ["a@example.com", "b@example.com"]


def test_send_mass_mail_queues_all_or_none(db):
    with pytest.raises(InvalidAddress):
        send_mass_mail([("One", "1", None, ["a@example.com"]), ("Two", "2", None, ["nobody"])])

    assert not Message.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_mail_outside_of_a_transaction_is_committed_at_once():
    send_mail("Hello", "Good day.", None, ["ada@example.com"])

    assert in_threads(1, lambda _: Message.objects.count()) == [1]


@pytest.mark.django_db(transaction=True)
def test_a_mail_goes_with_the_transaction_of_its_cause():
    with transaction.atomic():
        send_mail("Hello", "Good day.", None, ["ada@example.com"])
        assert in_threads(1, lambda _: Message.objects.count()) == [0]
        transaction.set_rollback(True)

    assert not Message.objects.exists()
    assert not DeliveryStatus.objects.exists()


def test_mail_admins(db, settings):
    settings.ADMINS = [("Ada", "ada@example.com"), ("Eve", "eve@example.com")]

    mail_admins("Trouble", "All of it.")

    assert recipients_of(Message.objects.get()) == ["ada@example.com", "eve@example.com"]


def test_a_user_is_mailed(db):
    user = User.objects.create_user("ada@example.com")
    Message.objects.all().delete()

    AbstractUser.email_user(user, "Hello", "Good day.")

    assert recipients_of(Message.objects.get()) == ["ada@example.com"]


@pytest.mark.urls("django.contrib.auth.urls")
def test_a_mail_of_another_apps(db):
    User.objects.create_user("ada@example.com", "a long enough password")
    Message.objects.all().delete()
    form = PasswordResetForm({"email": "ada@example.com"})
    assert form.is_valid()

    form.save(domain_override="example.com")

    assert "http://example.com/reset/" in content.thaw(Message.objects.get(), ["ada@example.com"]).body


def test_no_recipient_no_message(db):
    connection = get_connection()

    assert connection.send_messages([mail(to=[]), mail()]) == 1
    assert connection.send_messages([]) == 0
    assert Message.objects.count() == 1


def test_each_recipient_has_one_delivery(db):
    message = queued(
        mail(
            to=["Ada <ada@example.com>", "Bob <bob@example.com>, eve@example.com"],
            cc=["ADA@example.com", "carl@example.com"],
            bcc=["dora@example.com"],
        )
    )

    assert recipients_of(message) == [f"{name}@example.com" for name in ("ada", "bob", "eve", "carl", "dora")]


def test_lazy_texts_are_resolved_at_the_call(db):
    with translation.override("de"):
        message = queued(mail(subject=translation.gettext_lazy("Yes"), body=translation.gettext_lazy("No")))

    thawed = content.thaw(message, ["ada@example.com"])
    assert (thawed.subject, thawed.body, message.locale) == ("Ja", "Nein", "de")


def test_options_say_how_it_is_treated(db):
    user = User.objects.create_user("ada@example.com")
    later, end = timezone.now() + timedelta(hours=1), timezone.now() + timedelta(hours=2)
    email = mail()
    email.outbox = Options(
        priority="high", run_at=later, expires_at=end, dedupe_key="k", flow="f", locale="de-AT", user=user, secret=True
    )

    message = queued(email)

    assert (message.priority, message.run_at, message.expires_at) == (10, later, end)
    assert (message.dedupe_key, message.flow, message.locale) == ("custom:k", "f", "de-AT")
    assert (message.user, message.secret) == (user, True)
    assert DeliveryStatus.objects.get(message=message).status == "scheduled"


def test_the_options_time_wins_over_anymails(db):
    email = AnymailMessage("s", "b", None, ["ada@example.com"], send_at=datetime(2030, 1, 2, tzinfo=UTC))
    email.outbox = Options(run_at=datetime(2031, 1, 2, tzinfo=UTC))

    assert queued(email).run_at == datetime(2031, 1, 2, tzinfo=UTC)


def test_a_dedupe_key_is_queued_once(db):
    for expected in (1, 0):
        email = mail(attachments=[("a.txt", "text", "text/plain")])
        email.outbox = Options(dedupe_key="invoice 7")
        assert email.send() == expected

    assert Message.objects.count() == Attachment.objects.count() == 1


def test_the_first_tag_is_the_flow(db):
    message = queued(AnymailMessage("s", "b", None, ["ada@example.com"], tags=["x" * 70]))

    assert message.flow == "x" * 64


@pytest.mark.parametrize(
    ("send_at", "run_at"),
    [
        (datetime(2030, 1, 2, 3, tzinfo=UTC), datetime(2030, 1, 2, 3, tzinfo=UTC)),
        (datetime(2030, 1, 2, 3), datetime(2030, 1, 2, 3, tzinfo=UTC)),  # noqa: DTZ001  # Anymail takes it
        (datetime(2030, 1, 2, tzinfo=UTC).date(), datetime(2030, 1, 2, tzinfo=UTC)),
        (1893553200, datetime(2030, 1, 2, 3, tzinfo=UTC)),
    ],
)
def test_the_outbox_waits_not_the_provider(db, send_at, run_at):
    message = queued(AnymailMessage("s", "b", None, ["ada@example.com"], send_at=send_at))

    assert message.run_at == run_at
    assert DeliveryStatus.objects.get().status == "scheduled"
    assert not isinstance(content.thaw(message, ["ada@example.com"]).send_at, datetime)
