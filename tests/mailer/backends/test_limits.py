"""What some providers cannot take goes through the others."""

from dataclasses import replace

import pytest
from anymail.exceptions import AnymailNotSupportedWarning
from anymail.message import AnymailMessage

from mailer import routing, sender
from mailer.exceptions import TooLarge, TooManyRecipients, Unsupported
from mailer.models import Attachment, Message
from mailer.providers import PROVIDERS
from tests.mailer.backends.conftest import mail, queued, templated
from tests.mailer.conftest import change


@pytest.fixture
def limits(monkeypatch):
    """Let a provider take less than it does."""

    def limit(name: str, **facts: int) -> None:
        monkeypatch.setitem(PROVIDERS, name, replace(PROVIDERS[name], **facts))

    return limit


@pytest.fixture
def alone(settings):
    """Let one provider be all there is."""

    def alone(name: str) -> None:
        provider = PROVIDERS[name]
        needed = {each: "https://api.example.com/v1" if each.endswith("_URL") else "value" for each in provider.needs}
        settings.ANYMAIL, settings.MAIL_PROVIDERS = {**provider.fixed, **needed}, [name]

    return alone


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


@pytest.mark.filterwarnings(f"ignore::{AnymailNotSupportedWarning.__module__}.AnymailNotSupportedWarning")
@pytest.mark.parametrize("name", PROVIDERS)
def test_a_plain_mail_may_go_through_any_provider(db, alone, name):
    alone(name)

    assert queued(mail()).context == {}


@pytest.mark.parametrize("name", sorted(name for name, provider in PROVIDERS.items() if provider.lacks))
def test_metadata_that_a_provider_lacks_is_an_error_where_it_is_the_callers(db, alone, name):
    alone(name)

    with pytest.raises(Unsupported, match=f"{name}: .*metadata"):
        AnymailMessage("s", "b", None, ["ada@example.com"], metadata={"order": 7}).send()

    assert not Message.objects.exists()


# Mails that want for one thing each.
WANTING = {
    "to": lambda: mail(to=[], bcc=["ada@example.com", "bob@example.com"]),
    "subject": lambda: mail(subject=""),
    "body": lambda: mail(body="", attachments=[("a.txt", "b", "text/plain")]),
}


@pytest.mark.parametrize("what", WANTING)
@pytest.mark.parametrize("name", ["resend", "postmark"])
def test_a_mail_is_refused_at_the_call_just_where_the_provider_would_refuse_it(db, simulator, settings, name, what):
    settings.MAIL_PROVIDERS = [name]
    email = WANTING[what]()
    if what in PROVIDERS[name].requires:
        with pytest.raises(Unsupported, match=f"{name}: nothing in {what}"):
            email.send()
        settings.MAIL_PROVIDERS = ["smtp", name]
        assert queued(email).context == {"providers": ["smtp"]}
        change(Message.objects.get(), context={"providers": [name]})
    else:
        queued(email)

    sender.drain()

    assert Message.objects.get().state == ("dead" if what in PROVIDERS[name].requires else "sent")


def test_a_template_has_a_subject_and_a_body_of_its_own(db, alone):
    alone("mailersend")

    assert queued(templated()).context == {}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "email", [mail(to=[], cc=["ada@example.com", "bob@example.com"]), mail(to=[], bcc=["ada@example.com"])]
)
def test_who_gets_a_copy_alone_is_who_it_is_to_where_a_provider_wants_somebody(simulator, settings, email):
    settings.MAIL_PROVIDERS = ["resend"]
    message = queued(email)

    sender.drain()

    (accepted,) = simulator.accepted(message.pk)
    assert accepted["to"] == email.recipients()


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
