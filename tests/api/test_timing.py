"""Whether an address has an account cannot be told by the time an answer takes."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from math import sqrt
from statistics import NormalDist

import pytest
from django.conf import settings as service
from django.contrib.auth.hashers import make_password
from rest_framework.test import APIClient

from tests.api.conftest import PASSWORD
from users.models import User

# Tracing, which coverage does, makes lines dear that cost the service nothing.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.no_cover]

TRIES = 100  # of each of the two kinds, in turns
# By chance alone two equal distributions differ by more once in 16,000 times.
GENEROUS = 4.0
VERIFIED = datetime(2026, 1, 1, tzinfo=UTC)


def ranks_apart(one: list[float], other: list[float]) -> float:
    """Return how many standard deviations the ranks of two samples are apart (Mann and Whitney's test).

    Ranks, since one slow answer on a busy machine says nothing; in turns, since a slow minute says nothing either.
    """
    wins = sum((a > b) + (a == b) / 2 for a in one for b in other)
    pairs = len(one) * len(other)
    return (wins - pairs / 2) / sqrt(pairs * (len(one) + len(other) + 1) / 12)


def test_equal_samples_are_close_and_shifted_ones_apart():
    even, odd = [float(number) for number in range(0, 200, 2)], [float(number) for number in range(1, 200, 2)]

    assert abs(ranks_apart(even, odd)) < 1
    assert ranks_apart([number + 100 for number in even], odd) > GENEROUS
    assert 2 * NormalDist().cdf(-GENEROUS) < 1 / 15_000


@pytest.fixture
def apart(settings) -> Callable[..., float]:
    """Return how far apart the times of a request are, about addresses with an account and without."""
    settings.PASSWORD_HASHERS = ["users.hashers.Argon2idHasher", *service.PASSWORD_HASHERS]

    def apart(path: str, *, expect: int, verified_at: datetime | None = VERIFIED, **fields: object) -> float:
        names = [f"taken{number}@example.com" for number in range(-5, TRIES)]
        verified = {"password": make_password(PASSWORD), "email_verified_at": verified_at}
        User.objects.bulk_create([User(email=name, email_canonical=name, **verified) for name in names])
        client, times = APIClient(), {"taken": [], "free": []}
        for number in range(-5, TRIES):  # the first ones fill caches
            # Now the one first and now the other: else what the process or the machine does at intervals hits one more.
            for kind in sorted(times, reverse=number % 2 == 0):
                body = {"email": f"{kind}{number}@example.com", **fields}
                begun = time.perf_counter()
                response = client.post(path, body)
                times[kind].append(time.perf_counter() - begun)
                assert response.status_code == expect
        samples = {kind: spent[5:] for kind, spent in times.items()}
        return ranks_apart(samples["taken"], samples["free"])

    return apart


@pytest.mark.parametrize("verified_at", [VERIFIED, None], ids=["verified", "unverified"])
def test_register_takes_as_long_for_a_taken_address(apart, verified_at):
    # Somebody else's password: with the owner's own, it is the same registration.
    given = {"password": "another horse battery", "verified_at": verified_at}

    assert abs(apart("/api/v1/accounts/register", expect=202, **given)) < GENEROUS


@pytest.mark.parametrize("verified_at", [VERIFIED, None], ids=["verified", "unverified"])
def test_resend_takes_as_long_for_a_taken_address(apart, verified_at):
    assert abs(apart("/api/v1/accounts/verify-email/resend", expect=202, verified_at=verified_at)) < GENEROUS


def test_reset_takes_as_long_for_a_taken_address(apart):
    assert abs(apart("/api/v1/accounts/password-reset", expect=202)) < GENEROUS


def test_login_takes_as_long_for_a_taken_address(apart):
    assert abs(apart("/api/v1/auth/tokens", expect=401, password="not the right one")) < GENEROUS
