"""Reading what a provider posts, without its signature and without a database."""

import json
from uuid import UUID

from webhooks import normal
from webhooks.providers import Incoming

RECEIPT = UUID("01940000-0000-7000-8000-000000000001")
MESSAGE = UUID("01940000-0000-7000-8000-000000000002")


def contents_of(provider, payload):
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return normal.read(provider, Incoming({"content-type": "application/json"}, body), RECEIPT)


def facts_of(provider, payload):
    contents = contents_of(provider, payload)
    assert contents.unreadable == []
    return contents.facts


def fact_of(provider, payload):
    [fact] = facts_of(provider, payload)
    return fact


def without(payload, *names):
    return {name: value for name, value in payload.items() if name not in names}
