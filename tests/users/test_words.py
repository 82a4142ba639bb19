"""What the pages say: of every state something else, in every language, with the same elements."""

import itertools
import re

import pytest
from django.conf import settings
from django.core.exceptions import ValidationError
from django.template.loader import render_to_string
from django.utils.translation import override

from users.views import STATES

PAGES = {
    "verify_email": ["ask", "verified", "already_verified", "expired", "invalid"],
    "change_email": ["ask", "verified", "already_verified", "expired", "invalid"],
    "reset_password": ["ask", "refused", "done", "used", "expired", "invalid"],
    "new_link": ["ask", "refused", "asked"],
    "wait": ["wait"],
}
EVERY = pytest.mark.parametrize(("page", "state"), [(page, state) for page in PAGES for state in PAGES[page]])


def parts(language, page, state):
    """Return heading, words and form of a state."""
    errors = [ValidationError("Wrong.", code=code) for code in ("password_breached", "password_of_service_words")]
    context = {
        "state": "ask" if state == "refused" else state,
        "errors": errors if state == "refused" else [],
        "token": "t",
        "seconds": 40,
    }
    names = ["heading.txt", "words.html", *(["form.html"] if page != "wait" else [])]
    with override(language):
        return [render_to_string(f"users/{language}/{page}/{name}", context) for name in names]


def sentences(html):
    found = {text.strip() for text in re.findall(r"(?:^|>)([^<]+)(?:<|$)", html)} - {""}
    assert found
    return found


def test_there_are_words_for_all_that_a_link_can_come_to():
    assert {state.name for state in STATES.values()} <= set(itertools.chain(*PAGES.values()))


@EVERY
def test_every_language_has_words_of_its_own_in_the_same_elements(page, state):
    default, *others = [code for code, _ in settings.LANGUAGES]
    english = "".join(parts(default, page, state))

    for language in others:
        other = "".join(parts(language, page, state))
        assert re.findall(r"<[^>]+>", other) == re.findall(r"<[^>]+>", english)
        assert not sentences(other) & sentences(english)


@pytest.mark.parametrize("language", [code for code, _ in settings.LANGUAGES])
@pytest.mark.parametrize("page", PAGES)
def test_every_state_has_a_heading_of_its_own(page, language):
    headings = [parts(language, page, state)[0] for state in PAGES[page]]

    assert len(set(headings)) == len(headings)
    assert all(heading == heading.strip() and "<" not in heading for heading in headings)


@pytest.mark.parametrize(
    ("seconds", "said"), [(1, "in 1 second."), (40, "in 40 seconds."), (90, "in 90 seconds."), (91, "in 2 minutes.")]
)
def test_how_long_to_wait_is_said_in_words(seconds, said):
    context = {"seconds": seconds, "minutes": -(-seconds // 60)}

    assert said in render_to_string("users/en/wait/words.html", context)
    assert said[2:-1].split()[0] in render_to_string("users/de/wait/words.html", context)
