"""Asking whether a request is Amazon's."""

import pytest

from tests.webhooks.providers.amazon import KEY, TOPIC, certificate
from webhooks.exceptions import Rejected
from webhooks.providers import sns

TOPICS = ["arn:aws:sns:eu-west-1:123456789012:other", TOPIC]
PEM = certificate(KEY)


class Store:
    """Where certificates come from; what it says may change."""

    def __init__(self):
        self.asked = []
        self.answer = PEM

    def fetch(self, url):
        self.asked.append(url)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture(autouse=True)
def store(monkeypatch):
    store = Store()
    monkeypatch.setattr(sns, "CERTIFICATES", sns.Certificates(store.fetch))
    return store


def accepts(request, topics=TOPICS):
    try:
        sns.verify(request, topics)
    except Rejected:
        return False
    return True
