"""Hashes that any Argon2 library reads, and that tell when they are to be made anew."""

import argon2
import pytest
from argon2.low_level import Type, hash_secret
from django.contrib.auth.hashers import Argon2PasswordHasher, PBKDF2PasswordHasher, check_password

from users.hashers import SALT_BYTES, Argon2idHasher

PASSWORD = "a violet Zeppelin über Lisbon"
HASHER = Argon2idHasher()


def older(salt=b"0123456789abcdefghijkl", **costs):
    """Return a hash as argon2-cffi makes it."""
    known = {"time_cost": 5, "memory_cost": 7_168, "parallelism": 1, "hash_len": 32, "type": Type.ID}
    return "argon2" + hash_secret(PASSWORD.encode(), salt, **known | costs).decode()


def test_hash_is_what_another_library_makes_of_the_same_salt():
    encoded = HASHER.encode(PASSWORD, "salt")

    salt = HASHER.decode(encoded)["salt"].encode("latin-1")
    assert encoded == older(salt)
    assert argon2.PasswordHasher().verify(encoded.removeprefix("argon2"), PASSWORD)
    assert (len(salt), "m=7168,t=5,p=1" in encoded) == (SALT_BYTES, True)


def test_hash_is_verified():
    encoded = HASHER.encode(PASSWORD, HASHER.salt())

    assert HASHER.verify(PASSWORD, encoded)
    assert not HASHER.verify(PASSWORD + " ", encoded)
    assert not HASHER.must_update(encoded)


def test_hashes_differ_by_salt_and_are_equal_by_the_same():
    assert HASHER.encode(PASSWORD, "one") != HASHER.encode(PASSWORD, "two")
    assert HASHER.encode(PASSWORD, "one") == HASHER.encode(PASSWORD, "one")


@pytest.mark.parametrize(
    "costs",
    [
        {},
        {"time_cost": 1},
        {"memory_cost": 1024},
        {"memory_cost": 19_456, "time_cost": 2},
        {"parallelism": 2},
        {"hash_len": 16},
        {"type": Type.I},
        {"salt": bytes(range(240, 256)), "time_cost": 3},
    ],
    ids=str,
)
def test_other_argon2_is_verified_and_made_anew(costs):
    encoded = older(**costs)

    assert HASHER.verify(PASSWORD, encoded)
    assert not HASHER.verify("another", encoded)
    assert HASHER.must_update(encoded)


@pytest.mark.parametrize("hasher", [Argon2PasswordHasher(), PBKDF2PasswordHasher()], ids=lambda each: each.algorithm)
def test_hash_of_django_is_replaced_at_login(settings, hasher):
    settings.PASSWORD_HASHERS = [
        "users.hashers.Argon2idHasher",
        "django.contrib.auth.hashers.PBKDF2PasswordHasher",
    ]
    made = []

    assert check_password(PASSWORD, hasher.encode(PASSWORD, hasher.salt()), made.append)
    assert made == [PASSWORD]
