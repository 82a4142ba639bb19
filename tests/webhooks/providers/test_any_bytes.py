"""Whatever a body or a header says: refused, unreadable or read, and nothing else."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from tests.webhooks import payloads
from tests.webhooks.providers import test_brevo, test_mailtrap, test_postal, test_unisender_go
from tests.webhooks.providers.reading import contents_of
from webhooks.exceptions import Rejected
from webhooks.providers import WEBHOOKS, Incoming
from webhooks.providers.base import CATEGORIES

BODIES = {
    "brevo": [test_brevo.EVENT | {"event": "hard_bounce", "reason": test_brevo.NO_SUCH_USER}, test_brevo.EVENT],
    "mailtrap": {"events": [test_mailtrap.EVENT | {"event": "bounce"} | test_mailtrap.NO_SUCH_USER]},
    "postal": test_postal.envelope("MessageBounced", {"original_message": {}, "bounce": test_postal.BOUNCE}),
    "unisender_go": test_unisender_go.envelope(test_unisender_go.status_event(status="hard_bounced")),
    "postmark": payloads.POSTMARK["Bounce"],
    "resend": payloads.RESEND["email.bounced"],
}
SECRETS = {
    "brevo": test_brevo.SECRETS,
    "mailtrap": test_mailtrap.SECRETS,
    "postal": [test_postal.secret()],
    "unisender_go": test_unisender_go.SECRETS,
}
HEADERS = ("authorization", "mailtrap-signature", "x-postal-signature", "x-postal-signature-256")

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([10**400, -(10**18), 1e308, "\0", "\ud800", "9" * 300]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value, path=()):
    """Return where the values of a decoded body are, itself among them."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


def changed(body, path, value):
    if not path:
        return value
    body = copy.deepcopy(body)
    parent = body
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return body


@pytest.mark.parametrize("provider", BODIES)
@limits(max_examples=60, deadline=None)
@given(data=st.data())
def test_body_with_another_value_somewhere(provider, data):
    body = changed(BODIES[provider], data.draw(st.sampled_from(places(BODIES[provider]))), data.draw(values))

    contents = contents_of(provider, body)

    assert all(fact.category in {*CATEGORIES, ""} for fact in contents.facts)


@pytest.mark.parametrize("provider", BODIES)
@limits(max_examples=40, deadline=None)
@given(data=st.data())
def test_body_with_other_bytes_somewhere(provider, data):
    body = json.dumps(BODIES[provider]).encode()
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, min(len(body), start + 8)))

    contents_of(provider, body[:start] + data.draw(st.binary(max_size=8)) + body[end:])


@pytest.mark.parametrize("provider", SECRETS)
@limits(max_examples=60, deadline=None)
@given(data=st.data())
def test_nothing_forged_is_taken(provider, data):
    header = st.text(max_size=60) | st.text("0123456789abcdef", min_size=64, max_size=64)
    headers = data.draw(st.dictionaries(st.sampled_from(HEADERS), header))
    body = data.draw(st.binary(max_size=200) | values.map(json.dumps).map(str.encode))

    with pytest.raises(Rejected):
        WEBHOOKS[provider].verify(Incoming(headers, body), SECRETS[provider])
