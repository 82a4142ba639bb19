"""Which passwords are refused: those of the service's own words, and those known from breaches."""

import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django.contrib.auth import password_validation
from django.core.exceptions import ValidationError
from rest_framework.test import APIClient

from tests.api.conftest import places, problem_of
from tests.conftest import free_port, wait_until
from users import passwords
from users.models import User
from users.outages import Outage
from users.passwords import BreachedPasswordValidator, ServiceWordValidator, service_words

BREACHED = "correct horse battery staple"


def codes(password):
    """Return why the service's settings refuse a password, for Ada."""
    try:
        password_validation.validate_password(password, User(email="ada@example.com"))
    except ValidationError as error:
        return [each.code for each in error.error_list]
    return []


# --- What the settings say ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery",
        "a phrase of many small words, which is easily kept in mind " * 5,
        "ÄÖÜ und ein Leerzeichen",
        "пароль из нескольких слов",
        "密码密码一二三四五六七八九十",
        "aaaaaaaaaaaa bbbbbbbbbbb",
        "onlylowercaseletters",
        "🙂🙃🙂🙃🙂🙃🙂🙃🙂🙃🙂🙃 x",
    ],
)
def test_nobody_is_told_what_to_compose_a_password_of(password):
    assert codes(password) == []


@pytest.mark.parametrize(
    ("password", "code"),
    [
        ("elevenchars", "password_too_short"),
        ("password1234", "password_too_common"),
        ("ada@example.com", "password_too_similar"),
        ("examples.example", "password_of_service_words"),
    ],
)
def test_what_is_refused(password, code):
    assert code in codes(password)


# --- The service's own words --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "url", "words"),
    [
        ("Example", "https://accounts.example.com", ["accounts", "example"]),
        ("Ada & Grace's Shop", "https://ag.shop", ["grace", "shop"]),
        ("Bücherstube", "https://xn--bcher-kva.example:8443", ["bücher", "bücherstube"]),
        ("x", "http://localhost", ["localhost"]),
        ("1 & 1", "http://[::1]", []),
        ("", "http://a_b_service.example", ["service"]),
    ],
)
def test_words_are_of_the_name_and_the_domain(name, url, words):
    assert service_words(name, url) == words


@pytest.mark.parametrize(
    "password",
    [
        "example",
        "Example1234567!!",
        "ExampleExampleExample",
        "3x4mp13-2026-2026",
        "ＥＸＡＭＰＬＥ-123456",
        "my.example.pass",
        "example-password1",
        "12345EXAMPLE67890",
        "accounts example 2026",
        "!!!!!!example-qwerty123",
    ],
)
def test_little_more_than_a_word_of_the_service_is_refused(password):
    with pytest.raises(ValidationError) as refused:
        ServiceWordValidator(["example", "accounts"]).validate(password)

    assert refused.value.code == "password_of_service_words"


@pytest.mark.parametrize(
    "password",
    ["correct horse battery", "for example a violet zeppelin", "exam tomorrow, please", "", "examp1 violet zebra"],
)
def test_a_word_of_the_service_among_others_is_fine(password):
    ServiceWordValidator(["example", "accounts"]).validate(password)


def test_a_service_without_words_refuses_nothing():
    ServiceWordValidator([]).validate("anything")


# --- Breaches ------------------------------------------------------------------------------------------


class List:
    """A list of breached passwords, as its range API answers; `answer` may be replaced."""

    def __init__(self):
        self.asked = []
        self.known = {BREACHED: 7}

    def answer(self, prefix):
        rows = [(hashlib.sha1(word.encode()).hexdigest().upper(), count) for word, count in self.known.items()]
        found = [f"{digest[5:]}:{count}" for digest, count in rows if digest.startswith(prefix)]
        return 200, "\r\n".join([f"{number:035X}:0" for number in range(800)] + found).encode()


@contextmanager
def serving(known):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            known.asked.append((self.path, dict(self.headers)))
            status, body = known.answer(self.path.rpartition("/")[2])
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def outage(monkeypatch):
    fresh = Outage("breach_check_failed", "breach_check_works_again", passwords.DOWN)
    monkeypatch.setattr(passwords, "_outage", fresh)
    return fresh


@pytest.fixture
def known():
    return List()


@pytest.fixture
def check(known):
    with serving(known) as url:
        yield BreachedPasswordValidator(url).validate


def events(caplog):
    return [record.msg for record in caplog.records if isinstance(record.msg, dict)]


def test_a_password_that_is_in_the_list_is_refused(check):
    with pytest.raises(ValidationError) as refused:
        check(BREACHED)

    assert refused.value.code == "password_breached"


@pytest.mark.parametrize("password", ["another one that nobody has", "", "пароль", "x" * 1024, "\ud800"])
def test_one_that_is_not_passes(check, password):
    check(password)


def test_what_is_padding_passes(check, known):
    known.known = {BREACHED: 0}

    check(BREACHED)


@pytest.mark.parametrize("count", [1, 10, "1,234"])
def test_any_count_but_zero_is_one(check, known, count):
    known.known = {BREACHED: count}

    with pytest.raises(ValidationError):
        check(BREACHED)


def test_the_list_learns_five_digits_and_is_asked_for_padding(check, known):
    check("another one that nobody has")

    [(path, headers)] = known.asked
    digest = hashlib.sha1(b"another one that nobody has").hexdigest().upper()
    assert path == f"/range/{digest[:5]}"
    assert headers["Add-Padding"] == "true"
    assert digest[5:15] not in str(known.asked)


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: (500, b""),
        lambda _: (429, b""),
        lambda _: (302, b""),
        lambda _: (200, b"x" * 2_000_000),
    ],
)
def test_a_list_that_fails_lets_everything_pass_and_the_log_says_so_once(check, known, caplog, answer):
    known.answer = answer

    check(BREACHED)
    check(BREACHED)

    assert [line["event"] for line in events(caplog)] == ["breach_check_failed"]
    assert len(known.asked) == 1
    assert BREACHED not in str(events(caplog))


def test_a_list_that_nobody_serves_lets_everything_pass(caplog):
    BreachedPasswordValidator(f"http://127.0.0.1:{free_port()}").validate(BREACHED)

    [line] = events(caplog)
    assert (line["event"], line["error_class"]) == ("breach_check_failed", "ConnectionError")
    assert hashlib.sha1(BREACHED.encode()).hexdigest()[:5].upper() not in str(line)


def test_a_list_that_hangs_is_waited_for_no_longer_than_its_time(check, known, monkeypatch):
    monkeypatch.setattr(passwords, "TIMEOUT", 0.1)
    go_on = threading.Event()
    known.answer = lambda _: (go_on.wait(30), (200, b""))[1]

    check(BREACHED)

    assert not go_on.is_set()
    go_on.set()
    wait_until(lambda: known.asked)


def test_it_is_asked_again_once_it_is_back(check, known, outage, caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setattr(outage, "_pause", 0.0)
    answer, known.answer = known.answer, lambda _: (500, b"")
    check(BREACHED)

    known.answer = answer
    with pytest.raises(ValidationError):
        check(BREACHED)

    ours = [line["event"] for line in events(caplog) if line["event"].startswith("breach")]
    assert ours == ["breach_check_failed", "breach_check_works_again"]


@pytest.mark.django_db
def test_a_registration_with_it_is_told_why(known, settings):
    with serving(known) as url:
        settings.AUTH_PASSWORD_VALIDATORS = [
            {"NAME": "users.passwords.BreachedPasswordValidator", "OPTIONS": {"url": url}}
        ]
        answer = APIClient().post("/api/v1/accounts/register", {"email": "ada@example.com", "password": BREACHED})

    problem = problem_of(answer, 400, "invalid")
    assert places(problem) == [("#/password", "password_breached")]
    assert not User.objects.exists()
