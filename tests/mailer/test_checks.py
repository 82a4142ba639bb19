"""What the settings cannot know of themselves."""

import pytest
from django.core.checks import run_checks

from mailer import smtp
from mailer.providers import PROVIDERS

FILES = "django.core.mail.backends.filebased.EmailBackend"


def found(name):
    """Return what a check of ours says."""
    return [message for message in run_checks(tags=["mailer"]) if message.id == name]


def test_route_of_a_kind_that_does_not_exist_is_an_error(settings):
    settings.MAIL_ROUTES = {"welcome": ["resend"], "farewell": ["resend"]}

    [error] = found("mailer.E001")

    assert error.is_serious()
    assert "'farewell' is not one of" in error.msg


def test_routes_of_kinds_pass(settings):
    settings.MAIL_ROUTES = {"welcome": ["resend"]}

    assert not found("mailer.E001")


LEASTS = [(["postmark", "resend"], 25), (["postmark", "amazon_ses"], 28), (["smtp", "postmark"], 60)]


@pytest.mark.parametrize(("names", "least"), LEASTS)
def test_lease_that_a_request_may_outlast_is_an_error(settings, names, least):
    settings.MAIL_PROVIDERS, settings.MAIL_LEASE_SECONDS = names, least - 0.5

    [error] = found("mailer.E002")

    assert error.is_serious()
    assert f"MAIL_LEASE_SECONDS must be at least {least}, since" in error.msg
    assert f"it is {least - 0.5}" in error.msg


@pytest.mark.parametrize(("names", "least"), LEASTS)
def test_least_lease_passes(settings, names, least):
    settings.MAIL_PROVIDERS, settings.MAIL_LEASE_SECONDS = names, least

    assert not found("mailer.E002")


def test_lease_that_nobody_sets_is_enough_for_every_provider(settings):
    settings.MAIL_PROVIDERS = [*PROVIDERS]

    assert not found("mailer.E002")


def test_time_allowed_to_smtp_is_what_its_parts_may_take(settings):
    parts = smtp.REACH + 2 * settings.EMAIL_TIMEOUT + smtp.LAST_REPLY

    assert PROVIDERS["smtp"].slowest == parts


def test_time_allowed_to_ses_is_what_boto3_is_given():
    given = PROVIDERS["amazon_ses"].fixed["AMAZON_SES_CLIENT_PARAMS"]["config"]

    assert PROVIDERS["amazon_ses"].slowest == given["connect_timeout"] + 2 * given["read_timeout"]


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("nowhere.Backend", "cannot be made: ModuleNotFoundError"),
        ("django.core.mail.backends.console.Nothing", "cannot be made: ImportError"),
        (FILES, "cannot be made: TypeError"),
        ("mailer.backends.OutboxBackend", "would queue each mail again, for ever"),
        ("anymail.backends.test.EmailBackend", "is Anymail's"),
        ("tests.mailer.test_checks.NoBackend", "is no backend: it has no send_messages()"),
    ],
)
def test_backend_that_cannot_send_is_an_error(settings, path, fault):
    settings.EMAIL_FILE_PATH = None
    settings.MAIL_BACKENDS = {"archive": path}

    [error] = found("mailer.E003")

    assert error.is_serious()
    assert f"MAIL_BACKENDS: archive={path} {fault}" in error.msg


class NoBackend:
    def __init__(self, *, fail_silently):
        pass


def test_backends_that_can_send_pass(settings, tmp_path):
    settings.EMAIL_FILE_PATH = str(tmp_path)
    settings.MAIL_BACKENDS = {"archive": FILES, "console": "django.core.mail.backends.console.EmailBackend"}

    assert not found("mailer.E003")
