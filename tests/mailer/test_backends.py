"""`EMAIL_BACKEND`: what any code in the process sends, through the outbox."""

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from anymail.message import AnymailMessage, attach_inline_image
from django.contrib.auth.forms import PasswordResetForm
from django.contrib.auth.models import AbstractUser
from django.core.files.storage import storages
from django.core.mail import (
    BadHeaderError,
    EmailMessage,
    EmailMultiAlternatives,
    get_connection,
    mail_admins,
    send_mail,
    send_mass_mail,
)
from django.db import IntegrityError, transaction
from django.utils import timezone, translation
from django.utils.log import AdminEmailHandler

from mailer import backends, content, routing, sender
from mailer.backends import Options
from mailer.exceptions import FileUnavailable, InvalidAddress, TooLarge, TooManyRecipients, Unqueueable, Unsupported
from mailer.models import Attachment, DeliveryStatus, Message
from mailer.providers import PROVIDERS
from tests.conftest import in_threads
from tests.mailer.conftest import change, read
from users.models import User

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
BACKEND = "mailer.backends.OutboxBackend"


@pytest.fixture(autouse=True)
def backend(settings):
    """Use the project's own: Django's test runner puts another one in its place."""
    settings.EMAIL_BACKEND = BACKEND


def mail(**fields) -> EmailMessage:
    return EmailMultiAlternatives(
        **{"subject": "Hello", "body": "Good day.", "from_email": "x@example.com", "to": ["ada@example.com"]} | fields
    )


def queued(email: EmailMessage) -> Message:
    before = set(Message.objects.values_list("pk", flat=True))
    assert email.send() == 1
    return Message.objects.exclude(pk__in=before).get()


def recipients_of(message: Message) -> list[str]:
    return [*DeliveryStatus.objects.filter(message=message).order_by("id").values_list("recipient", flat=True)]


# --- Whoever sends --------------------------------------------------------------------------------------


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


# --- What is queued -------------------------------------------------------------------------------------


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
    assert not isinstance(content.thaw(message, ["ada@example.com"]).send_at, datetime)


# --- What cannot be queued ------------------------------------------------------------------------------


def attached(attachment) -> EmailMessage:
    email = mail()
    email.attachments.append(attachment)
    return email


class Signed(EmailMessage):
    def message(self):
        return super().message()


def encoded(encoding: str, body: str) -> EmailMessage:
    email = mail(body=body)
    email.encoding = encoding
    return email


def templated() -> EmailMessage:
    return AnymailMessage("", "", None, ["ada@example.com"], template_id="hello")


def with_options(options) -> EmailMessage:
    email = mail()
    email.outbox = options
    return email


def as_text(to: str) -> EmailMessage:
    email = mail(bcc=["eve@example.com"])
    email.recipients = lambda: [to]
    email.to = to
    return email


REFUSED = {
    "newline in the subject": (BadHeaderError, lambda: mail(subject="Hello\nBcc: eve@example.com")),
    "newline in a recipient": (BadHeaderError, lambda: mail(to=["ada@example.com\nBcc: eve@example.com"])),
    "newline in the sender": (BadHeaderError, lambda: mail(from_email="x@example.com\r\nBcc: eve@example.com")),
    "newline in a header": (BadHeaderError, lambda: mail(headers={"X-Y": "z\rBcc: eve@example.com"})),
    "newline in a header's name": (BadHeaderError, lambda: mail(headers={"X-Y: z\nBcc": "eve@example.com"})),
    "newline in a file's name": (BadHeaderError, lambda: mail(attachments=[("a\nb", "c", "text/plain")])),
    "newline in a reply-to": (BadHeaderError, lambda: mail(reply_to=["a@example.com\n"])),
    "no address": (InvalidAddress, lambda: mail(cc=["eve"])),
    "no address to reply to": (InvalidAddress, lambda: mail(reply_to=["eve"])),
    "no sender": (InvalidAddress, lambda: mail(from_email="nobody")),
    "too long an address": (InvalidAddress, lambda: mail(to=[f"{'a' * 64}@{'b.' * 100}example.com"])),
    "a set": (Unqueueable, lambda: AnymailMessage("s", "b", None, ["ada@example.com"], metadata={"a": {1}})),
    "a number that is none": (
        Unqueueable,
        lambda: AnymailMessage("s", "b", None, ["ada@example.com"], metadata={"a": float("nan")}),
    ),
    "a key that is no text": (
        Unqueueable,
        lambda: AnymailMessage("s", "b", None, ["ada@example.com"], metadata={1: "a"}),
    ),
    "a time that is none": (Unqueueable, lambda: AnymailMessage("s", "b", None, ["ada@example.com"], send_at="noon")),
    "NUL": (Unqueueable, lambda: mail(body="a\0b")),
    "half a character": (Unqueueable, lambda: mail(body="a\ud800")),
    "half a character in a file": (Unqueueable, lambda: attached(("a.txt", "\ud800", "text/plain"))),
    "an open file": (Unqueueable, lambda: attached(("a.txt", open, "text/plain"))),
    "no attachment": (Unqueueable, lambda: attached("a.txt")),
    "MIME of its own": (Unqueueable, lambda: Signed("s", "b", None, ["ada@example.com"])),
    "an encoding that lacks its letters": (Unqueueable, lambda: encoded("ascii", "ü")),
    "an encoding that does not exist": (Unqueueable, lambda: encoded("klingon", "ü")),
    "a template, where no provider has them": (Unsupported, templated),
    "options that are none": (TypeError, lambda: with_options({"priority": "high"})),
    "a key that is too long": (Unqueueable, lambda: with_options(Options(dedupe_key="k" * 194))),
    "text for a list": (TypeError, lambda: as_text("ada@example.com")),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_cannot_be_queued_is_an_error_at_the_call(db, settings, case):
    settings.MAIL_PROVIDERS = ["resend"]
    error, make = REFUSED[case]

    with pytest.raises(error) as caught:
        make().send()

    assert "@" not in str(caught.value)
    assert not Message.objects.exists()


def test_a_wrong_priority_is_an_error_before_the_call():
    with pytest.raises(ValueError, match="'urgent' is not one of now, high, medium, low"):
        Options(priority="urgent")


# --- What some providers cannot take --------------------------------------------------------------------


@pytest.fixture
def limits(monkeypatch):
    """Let a provider take less than it does."""

    def limit(name: str, **facts: int) -> None:
        monkeypatch.setitem(PROVIDERS, name, replace(PROVIDERS[name], **facts))

    return limit


def test_a_mail_that_one_provider_cannot_take_goes_to_the_other(db):
    message = queued(templated())

    assert message.context == {"providers": ["postmark"]}
    assert routing.candidates(message) == ["postmark"]


def test_a_mail_that_every_provider_takes_goes_where_all_others_go(db):
    message = queued(mail())

    assert message.context == {}
    assert routing.candidates(message) == ["resend", "postmark"]


def test_a_mail_goes_only_where_its_kind_may(db, settings):
    settings.MAIL_ROUTES = {"custom": ["resend"]}

    assert queued(mail()).context == {}
    with pytest.raises(Unsupported, match="resend: "):
        queued(templated())


def test_what_is_unsupported_may_be_ignored(db, settings):
    settings.ANYMAIL = {**settings.ANYMAIL, "IGNORE_UNSUPPORTED_FEATURES": True}

    assert queued(templated()).context == {}


@pytest.mark.parametrize("name", ["template_id", "merge_data", "merge_global_data", "merge_metadata", "merge_headers"])
def test_a_provider_that_takes_mime_alone_takes_no_merge(db, settings, name):
    settings.MAIL_PROVIDERS = ["smtp"]
    email = mail()
    setattr(email, name, {})

    with pytest.raises(Unsupported, match=f"smtp: {name}"):
        email.send()

    assert queued(mail()).context == {}


def test_a_provider_that_anymail_reaches_without_http_is_asked_what_it_takes(db, settings):
    settings.MAIL_PROVIDERS = ["amazon_ses"]
    email = mail()
    email.merge_data = {"ada@example.com": {}}

    with pytest.raises(Unsupported, match=r"amazon_ses: .*merge_data"):
        email.send()

    assert queued(mail()).context == {}


def test_too_large_for_one_goes_to_the_other(db, limits):
    limits("resend", largest=5000)

    assert queued(mail(attachments=[("a.bin", bytes(5000), None)])).context == {"providers": ["postmark"]}


def test_too_large_for_all_is_an_error_that_says_the_limits(db, limits):
    limits("resend", largest=5000)
    limits("postmark", largest=4000)

    with pytest.raises(TooLarge, match=r"resend: \d+ bytes, where 5000 are the limit; postmark: \d+ .* 4000 are"):
        mail(attachments=[("a.bin", bytes(5000), None)]).send()

    assert not Message.objects.exists()
    assert not Attachment.objects.exists()


def test_an_attachment_weighs_what_it_weighs_on_its_way(db, limits):
    limits("resend", largest=5000)
    limits("postmark", largest=5000)

    with pytest.raises(TooLarge):
        mail(attachments=[("a.bin", bytes(4000), None)]).send()


def test_too_many_recipients_is_an_error_that_says_the_limit(db, limits):
    limits("resend", recipients=2)
    limits("postmark", recipients=2)
    queued(mail(to=["a@example.com"], cc=["b@example.com", "B@example.com"]))

    with pytest.raises(TooManyRecipients, match="3 recipients, where 2 are the limit"):
        mail(to=["a@example.com"], cc=["b@example.com"], bcc=["c@example.com"]).send()


def test_the_reason_of_a_provider_names_no_address(db, settings):
    settings.MAIL_PROVIDERS = ["resend"]

    with pytest.raises(Unsupported) as caught:
        mail(headers={"To": "everybody@example.com"}).send()

    assert "everybody@" not in str(caught.value)


# --- Silence --------------------------------------------------------------------------------------------


def test_silence_leaves_out_what_cannot_be_queued_and_says_so_in_the_log(db, caplog):
    silent = get_connection(fail_silently=True)

    assert silent.send_messages([mail(to=["nobody at home"]), mail(subject="a\nb"), mail()]) == 1

    assert Message.objects.count() == 1
    events = [record.msg for record in caplog.records if record.name == "mailer.backends"]
    assert [(event["event"], event["level"], event["error_class"]) for event in events] == [
        ("mail_not_queued", "error", "InvalidAddress"),
        ("mail_not_queued", "error", "BadHeaderError"),
    ]
    assert "at home" not in caplog.text


def test_silence_does_not_break_the_callers_transaction(db, monkeypatch):
    monkeypatch.setattr(backends, "_MAX_FLOW", 1000)
    email = mail()
    email.outbox = Options(flow="f" * 1000)  # more than the column takes
    email.connection = get_connection(fail_silently=True)

    with transaction.atomic():
        assert email.send() == 0
        send_mail("Hello", "Good day.", None, ["ada@example.com"])

    assert Message.objects.count() == 1


def test_silence_is_not_for_mistakes_in_the_code(db):
    email = with_options({"priority": "high"})
    email.connection = get_connection(fail_silently=True)

    with pytest.raises(TypeError):
        email.send()


def test_an_error_mail_while_the_database_fails_raises_nothing(db, settings, caplog):
    settings.ADMINS = [("Ada", "ada@example.com")]
    handler = AdminEmailHandler()
    record = logging.LogRecord("django", logging.ERROR, "x.py", 1, "It broke", (), None)

    with transaction.atomic():
        with pytest.raises(IntegrityError), transaction.atomic(savepoint=False):
            raise IntegrityError
        handler.emit(record)
        transaction.set_rollback(True)

    assert "mail_not_queued" in caplog.text


def test_an_error_mail_is_queued(db, settings):
    settings.ADMINS = [("Ada", "ada@example.com")]

    AdminEmailHandler().emit(logging.LogRecord("django", logging.ERROR, "x.py", 1, "It broke", (), None))

    assert "It broke" in content.thaw(Message.objects.get(), ["ada@example.com"]).subject


# --- Files ----------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_file_is_kept_once_however_it_is_attached(simulator):
    plain = mail(attachments=[("logo.png", PNG, "image/png")])
    inline = mail()
    attach_inline_image(inline, PNG, "logo.png")
    again = mail()
    attach_inline_image(again, PNG, "other.png")

    for email in (plain, inline, again):
        queued(email)

    assert Attachment.objects.values("digest").distinct().count() == 1
    assert Attachment.objects.count() == 3


def test_a_storage_that_fails_is_an_error_at_the_call(db, monkeypatch):
    monkeypatch.setattr(type(storages["default"]), "_save", lambda *_: 1 / 0)

    with pytest.raises(FileUnavailable, match="ZeroDivisionError"):
        mail(attachments=[("a.txt", "a text that no other test keeps", None)]).send()

    assert not Message.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_file_that_cannot_be_read_delays_the_mail(simulator, monkeypatch):
    message = queued(mail(attachments=[("a.txt", "text", None)]))
    with monkeypatch.context() as broken:
        broken.setattr(type(storages["default"]), "_open", lambda *_: 1 / 0)
        sender.drain()
    assert read(message).state == "retry"
    change(message, run_at=timezone.now())

    sender.drain()

    assert read(message).state == "sent"


# --- To the provider ------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("provider", ["postmark", "resend"])
def test_a_mail_arrives_with_all_it_has(simulator, settings, provider):
    settings.MAIL_PROVIDERS = [provider]
    email = AnymailMessage(
        "Hello",
        "Good day.",
        "Shop <shop@example.com>",
        ["Ada <ada@example.com>"],
        cc=["bob@example.com"],
        bcc=["eve@example.com"],
        reply_to=["desk@example.com"],
        headers={"X-Order": "7"},
        attachments=[("bill.txt", "7 EUR", "text/plain")],
        tags=["bill"],
        metadata={"order": "7"},
    )
    email.attach_alternative("<p>Good day.", "text/html")
    email.attach_inline_image(PNG, "logo.png")
    message = queued(email)

    sender.drain()

    assert read(message).state == "sent"
    assert {*DeliveryStatus.objects.values_list("status", flat=True)} == {"sent"}
    (accepted,) = simulator.accepted(message.pk)
    assert accepted["to"] == ["ada@example.com", "bob@example.com", "eve@example.com"]
    assert accepted["metadata"] == {
        "order": "7",
        "message_id": str(message.pk),
        "correlation_id": message.correlation_id,
    }
    (received, *_) = simulator.inbox("ada@example.com")
    assert (received["subject"], received["text"], received["html"]) == ("Hello", "Good day.", "<p>Good day.")
