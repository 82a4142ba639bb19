"""What the environment says about accounts."""

import pytest
from django.core.exceptions import ImproperlyConfigured

from project import accounts
from project.environment import Environment


def environment(**values):
    class Ours(Environment):
        ENVIRON = values

    return Ours()


def names(validators):
    return [validator["NAME"].rpartition(".")[2] for validator in validators]


def test_breaches_are_asked_after_where_that_is_wanted():
    off = accounts.read_password_validators(environment(), "Example", "https://example.com")
    on = accounts.read_password_validators(
        environment(PASSWORD_BREACH_CHECK="1", PASSWORD_BREACH_URL="https://mirror.example/"), "Example", "https://a.b"
    )

    assert "BreachedPasswordValidator" not in names(off)
    assert on[-1]["OPTIONS"] == {"url": "https://mirror.example"}


def test_a_list_of_breaches_that_is_nowhere_stops_the_start():
    with pytest.raises(ImproperlyConfigured, match="PASSWORD_BREACH_URL"):
        accounts.read_password_validators(
            environment(PASSWORD_BREACH_CHECK="1", PASSWORD_BREACH_URL="let-slip"), "x", "https://a.b"
        )


def test_no_domain_is_blocked_unless_that_is_wanted():
    assert accounts.read_blocked_domains(environment()) == frozenset()


@pytest.mark.parametrize(
    "text", ["a.example,b.example", "a.example b.example.", "# ours\na.example # why\r\n\r\nB.Example\n"]
)
def test_domains_are_parted_by_what_comes_naturally(text):
    assert accounts.read_blocked_domains(environment(BLOCKED_DOMAINS=text)) == {"a.example", "b.example"}


def test_domains_may_stand_in_a_file(tmp_path):
    file = tmp_path / "domains"
    file.write_text("bücher.example\n")

    class Ours(Environment):
        ENVIRON = type(Environment.ENVIRON)({"BLOCKED_DOMAINS_FILE": str(file)})

    assert accounts.read_blocked_domains(Ours()) == {"xn--bcher-kva.example"}


@pytest.mark.parametrize("text", ["@example.com", "*.example.com", "exa mple..com"])
def test_what_is_no_domain_stops_the_start(text):
    with pytest.raises(ImproperlyConfigured, match="BLOCKED_DOMAINS"):
        accounts.read_blocked_domains(environment(BLOCKED_DOMAINS=text))


def test_throw_away_domains_are_known_where_that_is_wanted():
    blocked = accounts.read_blocked_domains(environment(BLOCK_DISPOSABLE="1", BLOCKED_DOMAINS="a.example"))

    assert {"yopmail.com", "a.example"} <= blocked
    assert not {"gmail.com", "outlook.com", "proton.me", "web.de"} & blocked
