"""Every state of every page, as it is seen: by eye, by what reads it aloud, on a small screen, in the dark."""

from collections.abc import Iterator

import pytest
import requests

from tests.browser.conftest import PAGES, WITH_CHROMIUM, Purpose, violations
from users.views import STATES

pytestmark = WITH_CHROMIUM

GOOD = "seven grey herons over the lock"
# What differs most from each other: the other language is the one with the longer words.
WAYS = {
    "English by light on a wide screen": {"language": "en-GB"},
    "German in the dark on a narrow screen": {"language": "de-DE", "width": 320, "height": 568, "dark": True},
}


def tour(people, reader) -> Iterator[tuple[str, str]]:
    """Lead a reader to every state of every page; tell which page, and which state."""
    address, page = people.register(), reader.page
    people.link(address)
    verify, change, reset = Purpose.VERIFY_EMAIL, Purpose.CHANGE_EMAIL, Purpose.RESET_PASSWORD
    new = people.new_address()
    over = {
        purpose: people.old_link(address, purpose, expired=True, email=new if purpose is change else "")
        for purpose in PAGES
    }
    good = {
        purpose: people.old_link(address, purpose, expired=False, email=new if purpose is change else "")
        for purpose in PAGES
    }

    def here():
        return page.url.split("/", 3)[3].split("?")[0], reader.state

    for purpose in (verify, reset, change):
        reader.open(f"/{PAGES[purpose]}?token=nonsense")
        yield here()
        reader.open(over[purpose])
        yield here()
    for purpose in (verify, reset):
        reader.open(f"/{PAGES[purpose]}/new-link")
        yield here()
        page.locator("#email").fill("no-address-at-all.but.a.very.long.word.as.some.are" * 3)
        reader.press()
        yield here()[0], "refused"
        page.locator("#email").fill("grüße@example.org")
        reader.press()
        yield here()
    reader.open(good[reset])
    yield here()
    page.locator("#password").fill("password1234")
    reader.press()
    yield here()[0], "refused"
    for purpose in (verify, change):
        reader.open(good[purpose])
        yield here()
        reader.press()
        yield here()
        reader.open(good[purpose])
        yield here()
    # Another address ended what there was for the first one.
    link = people.old_link(new, reset, expired=False)
    reader.open(link)
    page.locator("#password").fill(GOOD)
    reader.press()
    yield here()
    reader.open(link)
    yield here()
    another = people.register()
    people.link(another)
    link = people.old_link(another, verify, expired=False)
    for _ in range(31):
        requests.post(f"{reader.origin}/verify-email", headers={"X-Forwarded-For": reader.address}, timeout=20)
    reader.open(link).press()
    yield here()


ALL = {
    *(
        (PAGES[Purpose.VERIFY_EMAIL], state)
        for state in ("ask", "verified", "already_verified", "expired", "invalid", "wait")
    ),
    *((PAGES[Purpose.CHANGE_EMAIL], state) for state in ("ask", "verified", "already_verified", "expired", "invalid")),
    *((PAGES[Purpose.RESET_PASSWORD], state) for state in ("ask", "refused", "done", "used", "expired", "invalid")),
    *(
        (f"{page}/new-link", state)
        for page in ("verify-email", "reset-password")
        for state in ("ask", "refused", "asked")
    ),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_state_of_every_page_is_there_for_everybody(people, visitor, way):
    reader, seen, wrong = visitor(**way), set(), []

    for name, state in tour(people, reader):
        seen.add((name, state))
        wrong += [f"{name} {state}: {each}" for each in looked_at(reader.page)]
        assert reader.heading
        assert reader.page.locator("html").get_attribute("lang") == way["language"][:2]

    assert wrong == []
    assert seen == ALL
    assert {state for _, state in seen} >= {state.name for state in STATES.values()}


def looked_at(page) -> Iterator[str]:
    """Tell what is wrong with a page."""
    yield from violations(page)
    if page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
        yield "is wider than the screen"
    for control in page.locator("button, input:not([type=hidden])").all():
        box = control.bounding_box()
        if box["height"] < 44 or box["width"] < 44:
            yield f"has something smaller than a finger: {box}"
    if "delivered+" in page.content():
        yield "tells an address to who has found the link"
    if len(page.content().encode()) > 15_000:
        yield "is large"


def test_what_is_wrong_would_be_found(visitor):
    page = visitor(width=320).page
    page.set_content("<main><h1>Hello</h1><input><p style='color: #ccc; background: #fff'>pale</p></main>")
    page.add_style_tag(content="input { width: 2000px; height: 10px }")

    found = "\n".join(looked_at(page))

    assert all(each in found for each in ("label", "color-contrast", "html-has-lang", "wider than", "smaller than"))
