"""Sending in threads, through any backend of Django's."""

import socket
import ssl

import pytest
from django.core import mail
from django.core.mail.backends.base import BaseEmailBackend

from mailer import sender, threaded
from mailer.providers import PROVIDERS, Provider
from mailer.verdicts import Verdict
from tests.mailer.conftest import delivery_of, draft, enqueue, read

pytestmark = pytest.mark.usefixtures("fresh_threads")


@pytest.fixture
def send(thread):
    """Send a mail through a backend and return what came of it."""
    return lambda backend, mail: thread.submit(threaded.send, backend, mail).result()


class Backend(BaseEmailBackend):
    """Does what the test before has told this class."""

    opening = result = None
    closed = 0

    def open(self):
        _raise(self.opening)

    def send_messages(self, email_messages):
        return _raise(self.result)

    def close(self):
        type(self).closed += 1
        raise OSError("the server was quicker")


def _raise(result):
    if isinstance(result, Exception):
        raise result
    return result


@pytest.fixture
def backend(monkeypatch):
    """A third party's backend, by its path."""

    def backend(**does) -> str:
        monkeypatch.setattr(Backend, "closed", 0)
        for name, value in does.items():
            monkeypatch.setattr(Backend, name, value)
        return f"{__name__}.Backend"

    return backend


@pytest.mark.parametrize(
    ("does", "verdict", "error_class"),
    [
        ({"result": 1}, Verdict.ACCEPTED, ""),
        ({"result": None}, Verdict.ACCEPTED, ""),
        ({"result": 0}, Verdict.PERMANENT, "none_sent"),
        ({"opening": ConnectionRefusedError()}, Verdict.NOT_SENT, "ConnectionRefusedError"),
        ({"opening": TimeoutError()}, Verdict.NOT_SENT, "TimeoutError"),
        ({"opening": ssl.SSLCertVerificationError()}, Verdict.NOT_SENT, "SSLCertVerificationError"),
        ({"opening": RuntimeError("of any kind")}, Verdict.NOT_SENT, "RuntimeError"),
        ({"result": ConnectionRefusedError()}, Verdict.NOT_SENT, "ConnectionRefusedError"),
        ({"result": socket.gaierror()}, Verdict.NOT_SENT, "gaierror"),
        ({"result": TimeoutError()}, Verdict.AMBIGUOUS, "TimeoutError"),
        ({"result": ConnectionResetError()}, Verdict.AMBIGUOUS, "ConnectionResetError"),
        ({"result": ValueError("of any kind")}, Verdict.AMBIGUOUS, "ValueError"),
    ],
    ids=repr,
)
def test_any_backend(backend, send, does, verdict, error_class):
    answer = send(backend(**does), draft())

    assert (answer.verdict, answer.error_class, answer.recipients) == (verdict, error_class, {})


def test_any_backend_is_closed_after_each_mail(backend, send):
    path = backend(result=1)

    send(path, draft())
    send(path, draft())

    assert Backend.closed == 2


@pytest.mark.parametrize("path", ["nowhere.Backend", "django.core.mail.backends.nothing.EmailBackend"])
def test_a_backend_that_is_not_there(send, path):
    assert send(path, draft()).verdict is Verdict.CONFIGURATION


def test_a_backend_whose_settings_are_missing(send, settings):
    settings.EMAIL_FILE_PATH = None  # Django looks for it too late to say so in words

    answer = send("django.core.mail.backends.filebased.EmailBackend", draft())

    assert (answer.verdict, answer.error_class) == (Verdict.CONFIGURATION, "TypeError")


def test_drain_sends_through_any_backend(db, settings, monkeypatch):
    path = "django.core.mail.backends.locmem.EmailBackend"
    monkeypatch.setitem(PROVIDERS, "memory", Provider("memory", path, over_http=False))
    settings.MAIL_PROVIDERS = ["memory"]
    message = enqueue()

    sender.drain()

    assert [each.to for each in mail.outbox] == [["ada@example.com"]]
    assert (read(message).state, delivery_of(message).status) == ("sent", "sent")
