"""How the demo fails: each of its claims has a way to be wrong. How it succeeds, `test_stack` shows."""

from types import SimpleNamespace

import pytest

from project import demo
from project.demo import Client, Demo, Failed, Form, Outcome, Person, Screen, play, timeline, verdict

ADA = Person("Ada", "ada@example.org")

PAGE = """
<form action="/search"><input name="q"></form>
<form method="post" action="/verify-email">
  <input type="hidden" name="csrf" value="abc"><input type="submit"><button type="submit">Confirm</button>
</form>
"""


class Service:
    """A client of a service that is as the test wants it."""

    web_url = "http://127.0.0.1:1"

    def __init__(self, verified=(), mails=(), deliveries=()):
        self._verified = iter(verified)
        self._mails = list(mails)
        self._deliveries = list(deliveries)

    def api(self, method, path, expected, token="", **options):
        if path == "accounts/me":
            return {"email_verified_at": next(self._verified)}
        return {"results": self._deliveries}

    def token(self, email, password):
        return "token"

    def mails(self, address):
        return self._mails

    def open(self, method, link):
        return ""

    def press(self, link):
        pass


def play_with(service):
    return Demo(service, Screen(), ("staff@example.com", "secret"), wait=lambda seconds: None)


def test_form_is_the_one_with_the_button():
    form = Form(PAGE)

    assert form.action == "/verify-email"
    assert form.fields == {"csrf": "abc"}


def test_form_without_a_button_is_none():
    assert Form("<form action='/x'><input name=q></form>").action is None


def test_press_without_a_button(monkeypatch):
    client = Client("http://web", "http://simulator")
    monkeypatch.setattr(client, "open", lambda method, link: "<form action='/x'></form>")

    with pytest.raises(Failed, match="no form with a button"):
        client.press("http://web/verify-email")


def test_press_carries_the_forms_fields(monkeypatch):
    client, asked = Client("http://web", "http://simulator"), []
    monkeypatch.setattr(client, "open", lambda method, link: PAGE)
    monkeypatch.setattr(client, "_ask", lambda *words, **options: asked.append((words, options)))

    client.press("http://web/verify-email?token=t")

    [(words, options)] = asked
    assert words == ("POST", "http://web/verify-email", 200)
    assert options["data"] == {"csrf": "abc"}


def test_link_that_verifies_by_being_opened_is_a_failure():
    with pytest.raises(Failed, match="opening the link verified"):
        play_with(Service(verified=["2026-11-21T10:00:00Z"])).scan(ADA, "link")


def test_button_that_does_not_verify_is_a_failure():
    with pytest.raises(Failed, match="still not verified"):
        play_with(Service(verified=[None])).verify(ADA, "link")


def test_mail_that_does_not_come_is_a_failure(monkeypatch):
    monkeypatch.setattr(demo, "WAIT_SECONDS", 0)

    with pytest.raises(Failed, match="no sign of a verification mail to Ada"):
        play_with(Service(mails=[{"text": "Hello!"}])).link_for(ADA)


def test_status_that_is_not_reached_is_a_failure_that_names_the_one_seen(monkeypatch):
    monkeypatch.setattr(demo, "WAIT_SECONDS", 0)
    listed = [{"kind": "verification", "status": "sent", "id": "1"}]

    with pytest.raises(Failed, match=r"no sign of .* it is sent"):
        play_with(Service(deliveries=listed)).follow(Outcome(ADA, "verification", "delivered"))


def test_play_says_why_it_failed(capsys):
    is_right = play("http://127.0.0.1:1", "http://127.0.0.1:1", ("", ""), Screen(), lambda seconds: None)

    assert not is_right
    assert "got no answer" in capsys.readouterr().out


def test_answer_with_another_status_is_a_failure(monkeypatch):
    client = Client("http://web", "http://simulator")
    answer = SimpleNamespace(status_code=500, text="out of\n order")
    monkeypatch.setattr(client._http, "request", lambda *words, **options: answer)

    with pytest.raises(Failed, match="answered 500, not 202: out of order"):
        client.api("POST", "accounts/register", 202)


def test_timeline_is_in_the_order_of_the_events():
    events = [
        {
            "event_type": "delivered",
            "source": "webhook",
            "effect": "changed",
            "occurred_at": "2026-11-21T10:00:01.250Z",
        },
        {"event_type": "queued", "source": "sender", "effect": "changed", "occurred_at": "2026-11-21T10:00:00Z"},
    ]
    screen = Screen()

    with screen.console.capture() as shown:
        screen.console.print(timeline(Outcome(ADA, "welcome", "delivered", {"events": events})))

    words = [line.split() for line in shown.get().splitlines() if "changed" in line]
    assert words == [
        ["10:00:00.000", "0", "queued", "sender", "changed"],
        ["10:00:01.250", "1250", "delivered", "webhook", "changed"],
    ]
    assert max(map(len, shown.get().splitlines())) <= 80 + 8


@pytest.mark.parametrize(("status", "mark"), [("delivered", "✓"), ("bounced", "✗")])
def test_verdict_marks_what_was_expected(status, mark):
    assert mark in verdict(Outcome(ADA, "welcome", "delivered", {"status": status})).plain


def test_screen_has_a_spinner_on_a_terminal_only(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    screen = Screen()

    screen.progress("one")
    screen.progress("two")

    assert screen._spinner is not None
    screen.close()
    assert screen._spinner is None
