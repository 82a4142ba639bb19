"""What `fail_silently` leaves out, and mails of errors while something fails."""

import asyncio
import logging

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.core.mail import (
    get_connection,
    send_mail,
)
from django.db import IntegrityError, transaction
from django.utils.log import AdminEmailHandler

from mailer import backends, content
from mailer.backends import Options
from mailer.models import Message
from tests.mailer.backends.conftest import mail, with_options


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


def test_an_error_mail_of_async_code_raises_nothing(db, settings, caplog):
    settings.ADMINS = [("Ada", "ada@example.com")]

    async def view() -> None:
        AdminEmailHandler().emit(logging.LogRecord("django", logging.ERROR, "x.py", 1, "It broke", (), None))

    asyncio.run(view())

    assert "SynchronousOnlyOperation" in caplog.text


def test_async_code_hears_that_it_cannot_queue(db):
    async def view() -> None:
        mail().send()

    with pytest.raises(SynchronousOnlyOperation):
        asyncio.run(view())


def test_an_error_mail_is_queued(db, settings):
    settings.ADMINS = [("Ada", "ada@example.com")]

    AdminEmailHandler().emit(logging.LogRecord("django", logging.ERROR, "x.py", 1, "It broke", (), None))

    assert "It broke" in content.thaw(Message.objects.get(), ["ada@example.com"]).subject


def test_a_handler_that_mails_errors_is_not_told_of_its_own_mail_for_ever(db, settings, caplog):
    settings.ADMINS = [("Ada", "root@localhost")]
    root, handler = logging.getLogger(), AdminEmailHandler()
    handler.setLevel(logging.ERROR)
    root.addHandler(handler)
    try:
        root.error("It broke")
    finally:
        root.removeHandler(handler)

    told = [record.msg["event"] for record in caplog.records if record.name == "mailer.backends"]
    assert told == ["mail_not_queued"]
    assert not Message.objects.exists()
