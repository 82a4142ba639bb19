"""A provider that is a backend of Django's, named by MAIL_BACKENDS: through `drain()`, alone and beside others."""

import subprocess
import sys
from datetime import timedelta

import pytest
from django.core.mail.backends.filebased import EmailBackend
from django.db.models.functions import Now

from mailer import doubts, providers, sender
from mailer.models import Attempt, RepeatCount
from mailer.providers import PROVIDERS
from mailer.verdicts import Verdict
from tests.conftest import ROOT
from tests.mailer.conftest import change, delivery_of, enqueue, make_due, read

pytestmark = pytest.mark.usefixtures("fresh_threads")

FILES = "django.core.mail.backends.filebased.EmailBackend"


class Unsteady(EmailBackend):
    """Writes each mail into a file; may have no server, or lose its connection after the mail."""

    refuses = loses = False

    def open(self):
        if self.refuses:
            raise ConnectionRefusedError
        return super().open()

    def send_messages(self, email_messages):
        sent = super().send_messages(email_messages)
        if self.loses:
            raise ConnectionResetError
        return sent


@pytest.fixture
def archive(monkeypatch, settings, tmp_path):
    """Prefer a provider `archive`; return the directory in which its mails are."""
    monkeypatch.setitem(PROVIDERS, "archive", providers.of_backend("archive", f"{__name__}.Unsteady"))
    settings.EMAIL_FILE_PATH, settings.MAIL_PROVIDERS = str(tmp_path), ["archive"]
    return tmp_path


def mails(directory):
    return "".join(file.read_text() for file in directory.iterdir()).split("\n" + "-" * 79 + "\n")[:-1]


def test_mail_goes_through_a_backend_that_the_environment_names(environment, tmp_path):
    message = enqueue()
    named = {"MAIL_BACKENDS": f"archive={FILES}", "EMAIL_FILE_PATH": str(tmp_path), "MAIL_PROVIDERS": "archive"}

    subprocess.run(
        [sys.executable, "manage.py", "send_queued_mail"], cwd=ROOT, env=environment | named, check=True, timeout=60
    )

    [mail] = mails(tmp_path)
    assert "To: ada@example.com" in mail
    assert (read(message).state, read(message).provider) == ("sent", "archive")
    assert (delivery_of(message).status, delivery_of(message).provider) == ("sent", "archive")


def test_a_backend_that_cannot_connect_is_tried_again(db, archive, monkeypatch):
    monkeypatch.setattr(Unsteady, "refuses", True)
    message = enqueue()

    sender.drain()

    assert (read(message).state, read(message).error_class) == ("retry", "ConnectionRefusedError")
    monkeypatch.setattr(Unsteady, "refuses", False)
    make_due()
    sender.drain()
    assert read(message).state == "sent"
    assert len(mails(archive)) == 1


@pytest.mark.parametrize(
    ("kind", "state", "sent", "counted"),
    [("account_exists", "sent", 2, [("account_exists", "archive", 1)]), ("welcome", "unknown", 1, [])],
)
def test_what_a_backend_lost_is_sent_again_where_its_kind_wants_it(
    db, archive, monkeypatch, kind, state, sent, counted
):
    monkeypatch.setattr(Unsteady, "loses", True)
    message = enqueue(kind=kind)
    sender.drain()
    assert (read(message).state, read(message).error_class) == ("unknown", "ConnectionResetError")
    monkeypatch.setattr(Unsteady, "loses", False)
    change(message, inquire_at=Now() - timedelta(seconds=1))

    doubts.resolve()
    make_due()
    sender.drain()

    assert read(message).state == state
    assert len(mails(archive)) == sent
    assert [*RepeatCount.objects.values_list("kind", "provider", "count")] == counted


def test_a_backend_takes_what_a_provider_over_http_refuses(db, archive, answering, settings):
    refuses = answering("resend", 401)
    settings.MAIL_PROVIDERS = ["resend", "archive"]
    message = enqueue()

    sender.drain()
    make_due()
    sender.drain()

    assert len(refuses.requests) == 1
    assert [*Attempt.objects.order_by("token").values_list("provider", "outcome")] == [
        ("resend", Verdict.CONFIGURATION),
        ("archive", Verdict.ACCEPTED),
    ]
    assert (read(message).state, len(mails(archive))) == ("sent", 1)


def test_a_provider_over_http_takes_what_a_backend_could_not_send(db, archive, answering, settings, monkeypatch):
    answering("postmark")
    settings.MAIL_PROVIDERS = ["archive", "postmark"]
    monkeypatch.setattr(Unsteady, "refuses", True)
    messages = [enqueue(kind="account_exists") for _ in range(12)]

    sender.drain()
    make_due()
    sender.drain()

    assert {read(message).provider for message in messages} == {"postmark"}
    assert {read(message).state for message in messages} == {"sent"}
    assert [*archive.iterdir()] == []


def test_threads_of_one_provider_never_wait_for_those_of_another(settings):
    settings.MAIL_PROVIDERS = ["smtp", "resend", "amazon_ses"]

    assert sender._threads() == 2 * sender.THREADS


def test_threads_carry_what_is_pinned_to_a_provider_that_is_not_named(settings):
    settings.MAIL_PROVIDERS = ["resend"]

    assert sender._threads() == sender.THREADS
