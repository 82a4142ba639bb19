"""What each kind of mail says, in every language shipped."""

import re
from collections.abc import Callable
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.conf import settings as service
from django.db import InterfaceError, OperationalError, connection

from mailer import kinds, sender
from mailer.exceptions import RenderError
from mailer.kinds import KINDS, PARTS, PRIORITY, Kind
from mailer.models import Message
from tests.mailer.conftest import enqueue, read
from users import challenges
from users.models import EmailChallenge, User

LANGUAGES = [code for code, _ in service.LANGUAGES]
TRANSLATED = [code for code in LANGUAGES if code != service.LANGUAGE_CODE]
EVERY = pytest.mark.parametrize("kind", sorted(kind for kind, rules in KINDS.items() if rules.rendered))
EVERY_LANGUAGE = pytest.mark.parametrize("locale", LANGUAGES)
# What would make a mail program fetch something, or run it.
FETCHES = {"src", "srcset", "background", "data", "poster", "action", "formaction", "xlink:href"}


@pytest.fixture
def user(db) -> User:
    return User.objects.create_user("ada@example.com")


@pytest.fixture
def challenge(user) -> EmailChallenge:
    return challenges.issue(user, EmailChallenge.Purpose.VERIFY_EMAIL)


@pytest.fixture
def message_of(challenge) -> Callable[..., Message]:
    def message_of(kind: str, locale: str = "en") -> Message:
        return Message(kind=kind, locale=locale, context={"challenge_id": str(challenge.pk)})

    return message_of


class Page(HTMLParser):
    """An HTML body as a reader meets it: its visible words, the hidden ones, its elements with their attributes."""

    VOID = {"meta", "br", "img", "hr", "input", "link"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[tuple[str, bool]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.shown: list[str] = []
        self.hidden: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, "an element is not closed"

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag not in self.VOID:
            hides = tag in {"head", "style"} or "display:none" in (attributes.get("style") or "")
            self.open.append((tag, hides or (bool(self.open) and self.open[-1][1])))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        (self.hidden if self.open and self.open[-1][1] else self.shown).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def words(text: str) -> list[str]:
    """Return the words of a text; the colon that leads to a link in plain text is a button's shape in HTML."""
    return [word.rstrip(":") for word in text.split()]


# --- Every kind, every language -----------------------------------------------------------------------


@EVERY
@EVERY_LANGUAGE
def test_render_has_all_parts(message_of, kind, locale):
    content = kinds.render(message_of(kind, locale))

    assert set(content) == {"subject", "text", "html", "from_email"}
    assert content["from_email"] == "Accounts <accounts@example.com>"
    assert content["subject"]
    assert len(content["subject"].splitlines()) == 1
    assert content["text"].endswith("\n")
    assert not re.search(r"{[{%#]", "".join(content.values()))


@EVERY
@EVERY_LANGUAGE
def test_text_and_html_say_the_same(message_of, kind, locale):
    content = kinds.render(message_of(kind, locale))

    assert words(" ".join(Page(content["html"]).shown)) == words(content["text"])


@EVERY
@EVERY_LANGUAGE
def test_text_and_html_link_to_the_same(message_of, kind, locale):
    content = kinds.render(message_of(kind, locale))

    in_html = {link["href"] for link in Page(content["html"]).all("a")}
    assert in_html == set(re.findall(r"https?://\S+", content["text"]))


@EVERY
@EVERY_LANGUAGE
def test_html_names_its_language_and_direction(message_of, kind, locale):
    (html,) = Page(kinds.render(message_of(kind, locale))["html"]).all("html")

    assert html == {"lang": locale, "dir": "ltr"}


@EVERY
@EVERY_LANGUAGE
def test_html_fetches_and_runs_nothing(message_of, kind, locale):
    html = kinds.render(message_of(kind, locale))["html"]

    page = Page(html)
    assert not {name for name, _ in page.elements} & {"script", "link", "img", "iframe", "object", "form"}
    assert not {attribute for _, attributes in page.elements for attribute in attributes} & FETCHES
    assert not re.search(r"url\(|@import", html)


@EVERY
@EVERY_LANGUAGE
def test_html_has_one_heading_a_title_and_words_for_the_list_of_mails(message_of, kind, locale):
    content = kinds.render(message_of(kind, locale))

    page = Page(content["html"])
    assert len(page.all("h1")) == 1
    assert " ".join(page.hidden).split()[: len(content["subject"].split())] == content["subject"].split()
    (preheader,) = [attributes for attributes in page.all("div") if attributes.get("class") == "preheader"]
    assert "display:none" in preheader["style"]
    assert re.search(r'class="preheader"[^>]*>\w[^<]+<', content["html"])


@EVERY
@EVERY_LANGUAGE
def test_render_names_the_site_in_every_part(message_of, settings, kind, locale):
    settings.SITE_NAME = "Q&A <here>"

    content = kinds.render(message_of(kind, locale))

    assert "Q&A <here>" in content["subject"]
    assert "Q&A <here>" in content["text"]
    assert "Q&amp;A &lt;here&gt;" in content["html"]
    assert "<here>" not in content["html"]
    assert words(" ".join(Page(content["html"]).shown)) == words(content["text"])


@EVERY
@EVERY_LANGUAGE
def test_a_site_name_of_two_lines_adds_no_header(message_of, settings, kind, locale):
    settings.SITE_NAME = "Example\r\nBcc: eve@example.org"

    assert "Example Bcc: eve@example.org" in kinds.render(message_of(kind, locale))["subject"]


@EVERY
@EVERY_LANGUAGE
def test_render_says_the_same_every_time(message_of, kind, locale):
    assert kinds.render(message_of(kind, locale)) == kinds.render(message_of(kind, locale))


@EVERY
@EVERY_LANGUAGE
def test_every_secret_kind_and_no_other_holds_a_token(message_of, challenge, kind, locale):
    content = kinds.render(message_of(kind, locale))

    assert (challenges.link_token(challenge) in content["text"]) == KINDS[kind].secret
    assert (challenges.link_token(challenge) in content["html"]) == KINDS[kind].secret


# --- Languages ----------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("locale", TRANSLATED)
@pytest.mark.parametrize("part", PARTS)
def test_a_translation_uses_what_the_original_uses(message_of, kind, locale, part):
    message = message_of(kind)
    names = {"site_name", *KINDS[kind].variables(message, kinds.gather([message]).get(message.pk))}

    used = {name for name in names if re.search(rf"\b{name}\b", source(kind, part))}
    assert used == {name for name in names if re.search(rf"\b{name}\b", source(f"{kind}/{locale}", part))}
    assert source(kind, part) != source(f"{kind}/{locale}", part)


def source(folder: str, part: str) -> str:
    return (service.BASE_DIR / "templates" / "mailer" / folder / part).read_text()


@pytest.mark.parametrize(
    ("locale", "language", "subject"),
    [
        ("en", "en", "Welcome to Example"),
        ("en-gb", "en", "Welcome to Example"),
        ("de", "de", "Willkommen bei Example"),
        ("de-AT", "de", "Willkommen bei Example"),
        ("de_CH", "de", "Willkommen bei Example"),
        ("tlh", "en", "Welcome to Example"),
        ("", "en", "Welcome to Example"),
        ("../welcome/de", "en", "Welcome to Example"),
    ],
)
def test_render_in_the_language_that_comes_closest(db, locale, language, subject):
    content = kinds.render(Message(kind="welcome", locale=locale))

    assert content["subject"] == subject
    assert Page(content["html"]).all("html")[0]["lang"] == language


@pytest.fixture
def written(settings, tmp_path) -> Callable[[str, str], None]:
    """Write a template that comes before the shipped ones."""
    settings.TEMPLATES = [{**service.TEMPLATES[0], "DIRS": [tmp_path, *service.TEMPLATES[0]["DIRS"]]}]

    def written(path: str, content: str) -> None:
        file = Path(tmp_path, "mailer", path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode("latin-1"))  # which is UTF-8 where it is ASCII, and broken where it is not

    return written


def test_a_region_may_have_words_of_its_own(db, settings, written):
    settings.LANGUAGES = [*service.LANGUAGES, ("de-at", "Austrian")]
    for part in PARTS:
        written(f"welcome/de-at/{part}", "Servas")

    assert kinds.render(Message(kind="welcome", locale="de-AT"))["subject"] == "Servas"
    assert kinds.render(Message(kind="test", locale="de-AT"))["subject"] == "Testmail von Example"


@pytest.mark.parametrize("part", PARTS)
def test_a_language_that_lacks_a_part_is_not_used_at_all(db, settings, written, part):
    settings.LANGUAGES = [*service.LANGUAGES, ("fr", "French")]
    for other in {*PARTS} - {part}:
        written(f"welcome/fr/{other}", "Bienvenue")

    content = kinds.render(Message(kind="welcome", locale="fr"))

    assert content == kinds.render(Message(kind="welcome", locale="en"))


def test_a_language_that_is_read_from_the_right(db, settings, written):
    settings.LANGUAGES = [*service.LANGUAGES, ("ar", "Arabic")]
    for part in PARTS:
        written(f"welcome/ar/{part}", '{% extends "mailer/base.html" %}')

    assert Page(kinds.render(Message(kind="welcome", locale="ar"))["html"]).all("html") == [
        {"lang": "ar", "dir": "rtl"}
    ]


# --- The link -----------------------------------------------------------------------------------------


@EVERY_LANGUAGE
def test_the_link_opens_the_page_with_the_token(message_of, challenge, locale):
    content = kinds.render(message_of("verification", locale))

    (link,) = re.findall(r"http://\S+", content["text"])
    parts = urlsplit(link)
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == "http://testserver/verify-email"
    assert parse_qs(parts.query) == {"token": [challenges.link_token(challenge)]}
    assert f'href="{link}"' in content["html"]
    assert f">{link}</a>" in content["html"]


@EVERY_LANGUAGE
def test_the_notice_of_another_password_leads_to_where_one_is_asked_for(client, message_of, locale):
    content = kinds.render(message_of("password_changed", locale))

    (link,) = re.findall(r"http://\S+", content["text"])
    assert link == "http://testserver/reset-password/new-link"
    assert f'href="{link}"' in content["html"]
    assert client.get(link).status_code == 200


@pytest.mark.parametrize(
    ("lifetime", "english", "german"),
    [
        (timedelta(minutes=1), "for 1 minute.", "gelten 1 Minute lang."),
        (timedelta(minutes=45), "for 45 minutes.", "gelten 45 Minuten lang."),
        (timedelta(hours=1), "for 1 hour.", "gelten 1 Stunde lang."),
        (timedelta(hours=1, minutes=50), "for 1 hour.", "gelten 1 Stunde lang."),
        (timedelta(hours=8), "for 8 hours.", "gelten 8 Stunden lang."),
    ],
    ids=str,
)
def test_the_verification_says_how_long_its_link_works(challenge, message_of, lifetime, english, german):
    challenge.expires_at = challenge.created_at + lifetime
    challenge.save()

    assert english in kinds.render(message_of("verification"))["text"]
    assert german in kinds.render(message_of("verification", "de"))["text"]


# --- What does not render -----------------------------------------------------------------------------


def test_render_a_message_without_its_challenge(db):
    with pytest.raises(RenderError, match="its challenge is gone"):
        kinds.render(Message(kind="verification"))


def test_render_a_message_whose_challenge_is_gone(message_of, challenge):
    message = message_of("verification")
    challenge.delete()

    with pytest.raises(RenderError, match="its challenge is gone"):
        kinds.render(message)


def test_render_an_unknown_kind(db):
    with pytest.raises(RenderError, match="KeyError"):
        kinds.render(Message(kind="chain_letter"))


def test_render_with_a_challenge_id_that_is_none(db):
    with pytest.raises(RenderError, match="its challenge is gone"):
        kinds.render(Message(kind="verification", context={"challenge_id": "seven"}))


def test_render_what_is_given_not_rendered_says_that_it_is_gone():
    with pytest.raises(RenderError, match="custom: its content is gone"):
        kinds.render(Message(kind="custom"))


class Unforeseen(Exception):
    """What nobody who wrote `kinds` could know of."""


def fail() -> None:
    raise Unforeseen


# What breaks -> a body that breaks so, given the variables below.
BREAKS = {
    "TemplateDoesNotExist": '{% include "mailer/nowhere.html" %}',
    "TemplateSyntaxError": "{% nonsense %}",
    "VariableDoesNotExist": "{{ site_name|add:nobody }}",
    "NoReverseMatch": '{% url "nowhere" %}',
    "ZeroDivisionError": "{{ number|divisibleby:0 }}",
    "AttributeError": "{{ number|timesince }}",
    "TypeError": "{% for each in number %}{% endfor %}",
    "ValueError": '{% for a, b in "xy" %}{% endfor %}',
    "UnicodeDecodeError": "für",
    "RecursionError": '{% include "mailer/broken/body.html" %}',
    "Unforeseen": "{{ fail }}",
}


@pytest.fixture
def broken(monkeypatch) -> None:
    variables: dict[str, Any] = {"number": 7, "fail": fail}
    monkeypatch.setitem(KINDS, "broken", Kind(PRIORITY["now"], variables=lambda *_: variables))


@pytest.mark.parametrize(("error", "body"), BREAKS.items(), ids=BREAKS)
def test_what_does_not_render_is_dead_and_stops_nothing_else(db, simulator, written, broken, error, body):
    for part in PARTS:
        written(f"broken/{part}", body if part == "body.html" else "fine")
    before, dead, after = enqueue(kind="test"), enqueue(kind="broken"), enqueue(kind="welcome")

    assert sender.drain() == 3

    assert [read(message).state for message in (before, dead, after)] == ["sent", "dead", "sent"]
    assert read(dead).error_class == "does_not_render"
    assert simulator.accepted(dead.pk) == []
    (told,) = dead.deliveries.get().events.filter(event_type="failed")
    assert told.detail == f"broken: {error}"


@pytest.mark.parametrize("lost", [OperationalError, InterfaceError])
def test_a_lost_database_kills_no_message(db, monkeypatch, lost):
    def render(*_: Any) -> dict[str, Any]:
        raise lost("gone")

    monkeypatch.setitem(KINDS, "verification", Kind(PRIORITY["now"], variables=render))

    with pytest.raises(lost):
        kinds.render(Message(kind="verification"))


def test_a_query_that_the_database_refuses_kills_the_message(db, monkeypatch):
    def render(*_: Any) -> dict[str, Any]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")
        return {}

    monkeypatch.setitem(KINDS, "verification", Kind(PRIORITY["now"], variables=render))

    with pytest.raises(RenderError, match="DataError"):
        kinds.render(Message(kind="verification"))


def test_challenges_of_many_mails_are_fetched_at_once(message_of, django_assert_num_queries):
    messages = [message_of("verification") for _ in range(3)]
    messages.append(Message(kind="verification", context={"challenge_id": "no id"}))

    with django_assert_num_queries(1):
        found = kinds.gather(messages)
        texts = [kinds.render(message, found)["text"] for message in messages[:3]]

    assert all("token=" in text for text in texts)
    assert [*found] == [message.pk for message in messages[:3]]
