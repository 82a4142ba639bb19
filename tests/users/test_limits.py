"""Limits: exact under any number at once, by Redis' clock, and gone with Redis."""

import itertools
import socket
import time
import uuid

import pytest
import redis
from django.conf import settings as django_settings

from tests.conftest import free_port, in_threads, wait_until
from users import limits
from users.outages import Outage

KEYS = (f"key {uuid.uuid4()}" for _ in itertools.count())


@pytest.fixture
def key():
    """One that no other test has charged."""
    return next(KEYS)


@pytest.fixture
def outage(monkeypatch):
    """The memory of a process that knows of no outage; given back afterwards."""
    fresh = Outage("limits_not_held", "limits_held_again", limits.DOWN)
    monkeypatch.setattr(limits, "_outage", fresh)
    return fresh


@pytest.fixture
def away(settings, outage):
    """A Redis that nothing listens for."""
    settings.THROTTLES = {"some": ((1, 60.0),)}
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"


def names(caplog):
    return [record.msg["event"] for record in caplog.records if isinstance(record.msg, dict)]


def raw():
    return redis.Redis.from_url(django_settings.REDIS_URL)


def test_as_many_pass_as_may_and_the_rest_is_told_how_long_to_wait(settings, key):
    settings.THROTTLES = {"some": ((3, 60.0),)}

    waits = [limits.wait("some", key) for _ in range(5)]

    assert waits[:3] == [0, 0, 0]
    assert all(59 < wait <= 60 for wait in waits[3:])


def test_who_has_to_wait_is_not_charged(settings, key):
    settings.THROTTLES = {"some": ((1, 0.3),)}
    assert limits.permits("some", key)

    wait_until(lambda: limits.permits("some", key))

    assert not limits.permits("some", key)


def test_no_period_holds_more_than_may_wherever_it_begins(settings, key):
    settings.THROTTLES = {"some": ((5, 0.5),)}
    passed = []
    end = time.monotonic() + 2

    while time.monotonic() < end:
        before = time.monotonic()
        if limits.permits("some", key):
            passed.append((before, time.monotonic()))

    assert len(passed) >= 10
    # From before the first was asked for to after the last: so long at least, since Redis looked in between.
    assert all(last[1] - first[0] >= 0.5 for first, last in zip(passed, passed[5:], strict=False))


def test_all_rates_of_a_limit_hold_and_none_is_charged_where_one_does_not(settings, key):
    settings.THROTTLES = {"some": ((1, 0.2), (2, 60.0))}

    assert limits.permits("some", key)
    assert not limits.permits("some", key)
    wait_until(lambda: limits.permits("some", key))

    assert limits.wait("some", key) > 50


def test_keys_and_limits_are_apart(settings, key):
    settings.THROTTLES = {"some": ((1, 60.0),), "other": ((1, 60.0),)}

    assert limits.permits("some", key)
    assert limits.permits("some", next(KEYS))
    assert limits.permits("other", key)
    assert not limits.permits("some", key)


def test_a_limit_that_is_off_or_not_there_lets_everything_pass(settings, key):
    settings.THROTTLES = {"some": ()}

    assert all(limits.permits(name, key) for name in ("some", "none") for _ in range(20))


def test_a_limit_may_be_lowered_and_raised_while_it_is_charged(settings, key):
    settings.THROTTLES = {"some": ((4, 60.0),)}
    assert all(limits.permits("some", key) for _ in range(3))

    settings.THROTTLES = {"some": ((2, 60.0),)}
    assert not limits.permits("some", key)
    settings.THROTTLES = {"some": ((4, 60.0),)}

    assert [limits.permits("some", key) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("limit", [1, 10])
def test_fifty_at_once_never_exceed_it(settings, key, limit):
    settings.THROTTLES = {"some": ((limit, 60.0),)}

    passed = in_threads(50, lambda _: limits.permits("some", key))

    assert passed.count(True) == limit


def test_redis_learns_no_key_and_forgets_what_is_over(settings):
    settings.THROTTLES = {"secret": ((2, 0.4),)}
    limits.wait("secret", "ada@example.com")

    [name] = [*raw().scan_iter("limit:secret:*")]

    assert b"ada" not in name
    assert b"example" not in name
    wait_until(lambda: not raw().exists(name))


def test_a_script_that_redis_forgot_is_loaded_again(settings, key):
    settings.THROTTLES = {"some": ((1, 60.0),)}
    limits.wait("some", next(KEYS))

    raw().script_flush()

    assert [limits.permits("some", key) for _ in range(2)] == [True, False]


def test_without_redis_everything_passes_and_the_log_says_so_once(away, key, caplog):
    assert all(limits.permits("some", key) for _ in range(50))

    assert names(caplog) == ["limits_not_held"]


def test_fifty_at_once_without_redis_pass_and_the_log_says_so_once(away, key, caplog):
    assert all(in_threads(50, lambda _: limits.permits("some", key)))

    assert names(caplog) == ["limits_not_held"]


def test_a_redis_that_hangs_costs_one_short_wait(settings, outage, key, caplog):
    settings.THROTTLES = {"some": ((1, 60.0),)}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.REDIS_URL = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        begin = time.monotonic()

        assert all(limits.permits("some", key) for _ in range(100))

        # A hundred waits would be 25 seconds.
        assert time.monotonic() - begin < 5
    assert names(caplog) == ["limits_not_held"]


def test_a_redis_that_refuses_is_as_good_as_away(settings, outage, key, caplog):
    settings.THROTTLES = {"refused": ((1, 60.0),)}
    limits.wait("refused", key)
    [name] = [*raw().scan_iter("limit:refused:*")]
    raw().set(name, "no list")

    assert all(limits.permits("refused", key) for _ in range(3))

    assert names(caplog) == ["limits_not_held"]


def test_limits_hold_again_once_redis_is_back(settings, outage, key, caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setattr(outage, "_pause", 0.0)
    settings.THROTTLES = {"some": ((1, 60.0),)}
    there, settings.REDIS_URL = settings.REDIS_URL, f"redis://127.0.0.1:{free_port()}/0"
    assert all(limits.permits("some", key) for _ in range(3))

    settings.REDIS_URL = there

    assert [limits.permits("some", key) for _ in range(2)] == [True, False]
    assert names(caplog) == ["limits_not_held", "limits_held_again"]


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", ""),
        ("unix:", "unix:"),
    ],
)
def test_a_client_is_an_address_or_a_network(address, key):
    assert limits.client_key(address) == key


def test_hosts_behind_one_mapped_prefix_are_apart():
    assert limits.client_key("::ffff:192.0.2.7") != limits.client_key("::ffff:192.0.2.8")
