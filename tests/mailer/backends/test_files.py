"""Files of a mail, and mails that arrive with all they have."""

import pytest
from anymail.message import AnymailMessage, attach_inline_image
from django.core.files.storage import storages
from django.utils import timezone

from mailer import sender
from mailer.exceptions import FileUnavailable
from mailer.models import Attachment, DeliveryStatus, Message
from tests.mailer.backends.conftest import PNG, mail, queued
from tests.mailer.conftest import change, read


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
