"""What each kind of mail says."""

import re
from datetime import timedelta
from html import unescape
from urllib.parse import parse_qs, urlsplit

import pytest
from django.template import TemplateDoesNotExist, TemplateSyntaxError, VariableDoesNotExist
from django.urls import NoReverseMatch

from mailer import kinds
from mailer.exceptions import RenderError
from mailer.kinds import KINDS
from mailer.models import Message
from users import challenges
from users.models import EmailChallenge, User

EVERY = pytest.mark.parametrize("kind", sorted(kind for kind, rules in KINDS.items() if rules.rendered))


@pytest.fixture
def user(db) -> User:
    return User.objects.create_user("ada@example.com")


@pytest.fixture
def challenge(user) -> EmailChallenge:
    return challenges.issue(user, EmailChallenge.Purpose.VERIFY_EMAIL)


@pytest.fixture
def message_of(challenge):
    return lambda kind: Message(kind=kind, context={"challenge_id": str(challenge.pk)})


def as_words(html: str) -> str:
    """Return what a reader sees of an HTML body, one line of words."""
    body = re.search(r"<body.*</body>", html, re.DOTALL)
    assert body
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body[0])).split())


@EVERY
def test_render_has_all_parts(message_of, kind):
    content = kinds.render(message_of(kind))

    assert set(content) == {"subject", "text", "html", "from_email"}
    assert content["from_email"] == "Accounts <accounts@example.com>"
    assert content["subject"]
    assert "\n" not in content["subject"]
    assert content["text"].endswith("\n")


@EVERY
def test_render_says_the_same_in_text_and_html(message_of, kind):
    content = kinds.render(message_of(kind))

    words = as_words(content["html"])
    for line in content["text"].splitlines():
        assert line in words or line in unescape(content["html"])


@EVERY
def test_render_names_the_site_in_every_part(message_of, settings, kind):
    settings.SITE_NAME = "Q&A <here>"

    content = kinds.render(message_of(kind))

    assert "Q&A <here>" in content["subject"]
    assert "Q&A <here>" in content["text"]
    assert "Q&amp;A &lt;here&gt;" in content["html"]
    assert "<here>" not in content["html"]


@EVERY
def test_render_leaves_no_template_syntax(message_of, kind):
    content = kinds.render(message_of(kind))

    assert not re.search(r"{[{%#]", "".join(content.values()))


@EVERY
def test_render_says_the_same_every_time(message_of, kind):
    assert kinds.render(message_of(kind)) == kinds.render(message_of(kind))


@EVERY
def test_every_secret_kind_and_no_other_holds_a_token(message_of, challenge, kind):
    content = kinds.render(message_of(kind))

    assert (challenges.link_token(challenge) in content["text"]) == KINDS[kind].secret


def test_the_link_opens_the_page_with_the_token(message_of, challenge):
    content = kinds.render(message_of("verification"))

    (link,) = re.findall(r"http://\S+", content["text"])
    parts = urlsplit(link)
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == "http://testserver/verify-email"
    assert parse_qs(parts.query) == {"token": [challenges.link_token(challenge)]}
    assert f'href="{link}"' in content["html"]


@pytest.mark.parametrize(("hours", "words"), [(1, "for 1 hour."), (8, "for 8 hours.")])
def test_the_verification_says_how_long_its_link_works(challenge, message_of, hours, words):
    challenge.expires_at = challenge.created_at + timedelta(hours=hours)
    challenge.save()

    assert words in kinds.render(message_of("verification"))["text"]


def test_render_a_message_without_its_challenge(db):
    with pytest.raises(RenderError, match="KeyError"):
        kinds.render(Message(kind="verification"))


def test_render_a_message_whose_challenge_is_gone(message_of, challenge):
    message = message_of("verification")
    challenge.delete()

    with pytest.raises(RenderError, match="its challenge is gone"):
        kinds.render(message)


def test_render_an_unknown_kind(db):
    with pytest.raises(RenderError, match="KeyError"):
        kinds.render(Message(kind="chain_letter"))


@pytest.mark.parametrize(
    "error",
    [TemplateDoesNotExist, TemplateSyntaxError, VariableDoesNotExist, NoReverseMatch, TypeError, ZeroDivisionError],
)
def test_render_with_a_template_that_breaks(message_of, monkeypatch, error):
    def breaks(*_):
        raise error("it")

    monkeypatch.setattr(kinds, "render_to_string", breaks)

    with pytest.raises(RenderError, match=error.__name__):
        kinds.render(message_of("welcome"))


def test_render_with_a_challenge_id_that_is_none(db):
    with pytest.raises(RenderError, match="ValidationError"):
        kinds.render(Message(kind="verification", context={"challenge_id": "seven"}))


def test_render_what_is_given_not_rendered_says_that_it_is_gone():
    with pytest.raises(RenderError, match="custom: its content is gone"):
        kinds.render(Message(kind="custom"))
