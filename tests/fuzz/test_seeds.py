"""What fuzzing begins with, and what it has found, in each run of the tests."""

import pytest

from tests.fuzz import SEEDS
from tests.fuzz.requests import SECRETS, check, fetch_nothing
from webhooks.providers import WEBHOOKS, sns

FILES = sorted(file for directory in SEEDS.iterdir() for file in directory.iterdir())
pytestmark = pytest.mark.filterwarnings("ignore::anymail.exceptions.AnymailNotSupportedWarning")


@pytest.fixture(autouse=True)
def _no_amazon(monkeypatch):
    monkeypatch.setattr(sns, "CERTIFICATES", sns.Certificates(fetch_nothing))


def test_every_provider_has_seeds_and_a_secret():
    assert {directory.name for directory in SEEDS.iterdir()} == WEBHOOKS.keys() == SECRETS.keys()
    assert all(WEBHOOKS[name].is_secret(secret) for name, secret in SECRETS.items())


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.name}")
def test_seed_is_read_and_a_find_harms_nothing(file):
    contents = check(file.parent.name, file.read_bytes())

    if not file.name.startswith("find-"):
        assert contents.facts
        assert not contents.unreadable
