"""Mails to frozen content and back: the same MIME, and the same request at a provider."""

import copy
import json
import re
from datetime import UTC, date, datetime
from email.mime.application import MIMEApplication
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.utils import formataddr
from functools import partial

import pytest
from anymail.exceptions import AnymailError
from anymail.message import AnymailMessage, attach_inline_image
from anymail.utils import UNSET
from django.core.mail import BadHeaderError, EmailAlternative, EmailMessage, EmailMultiAlternatives, get_connection
from django.db import connection
from django.utils import translation
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st

from mailer import content
from mailer.exceptions import InvalidAddress, Unqueueable
from mailer.models import Message
from mailer.providers import PROVIDERS

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 3
RANDOM = [
    (rb"={15}\d{19}==", b"BOUNDARY"),
    (rb"(?m)^Date: .*$", b"Date: now"),
    (rb"(?m)^Message-ID:\s.*$", b"Message-ID: one"),
]


def thawed(email: EmailMessage) -> AnymailMessage:
    """Return what is sent once a mail was frozen, was a row, and its files were read."""
    frozen = content.freeze(email)
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::jsonb::text", [json.dumps(frozen.content)])
        kept = json.loads(cursor.fetchone()[0])
    message = Message(kind="custom", content=kept, correlation_id="story")
    email.metadata = {
        **(email.metadata if isinstance(getattr(email, "metadata", UNSET), dict) else {}),
        "message_id": str(message.pk),
        "correlation_id": "story",
    }
    return content.thaw(message, frozen.recipients, frozen.files.__getitem__)


def mime(email: EmailMessage) -> bytes:
    """Return the MIME of a mail without what is drawn anew each time."""
    result = email.message().as_bytes()
    for pattern, fixed in RANDOM:
        result = re.sub(pattern, fixed, result)
    return result


def request(email: EmailMessage, provider: str) -> object:
    """Return what a provider would be asked, or with which words Anymail refuses to ask it."""
    backend = get_connection(PROVIDERS[provider].backend)
    try:
        parameters = backend.build_message_payload(email, {}).get_request_params(backend.api_url)
    except AnymailError as error:
        return type(error), error.args
    return {**parameters, "data": json.loads(parameters["data"])}


def assert_kept(email: EmailMessage) -> AnymailMessage:
    """Check that nothing of a mail is lost between the call and the provider."""
    other = thawed(email)
    assert mime(other) == mime(email)
    for provider in PROVIDERS:
        assert request(other, provider) == request(email, provider)
    for name in (*content.ADDITIONS, "subject", "body", "from_email", "to", "cc", "bcc", "reply_to", "extra_headers"):
        assert getattr(other, name) == getattr(email, name, UNSET), name
    return other


def mail(**fields) -> AnymailMessage:
    return AnymailMessage(**{"subject": "s", "body": "b", "from_email": "a@example.com", "to": ["b@example.com"]} | fields)


# --- Kept, whatever it is -------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
lines = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=120)
words = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12)
bare = st.builds("{}@{}.example".format, words, st.sampled_from(["a", "b-c", "bücher"]))
entries = bare | st.builds(lambda name, address: formataddr((name, address)), st.sampled_from(["Ada", "Adä, \"x\"", "a.b"]), words.map("{}@a.example".format))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
named = st.dictionaries(words, values, max_size=4)
by_recipient = st.dictionaries(bare, named, max_size=2)
header_names = words.map("X-{}".format)
header_values = lines | st.integers()
additions = st.fixed_dictionaries(
    {},
    optional={
        "tags": st.lists(lines, max_size=3),
        "metadata": named,
        "template_id": words | st.integers(1, 99),
        "merge_data": by_recipient,
        "merge_global_data": named,
        "merge_metadata": by_recipient,
        "merge_headers": st.dictionaries(bare, st.dictionaries(header_names, lines, max_size=2), max_size=2),
        "track_opens": st.booleans(),
        "track_clicks": st.booleans() | st.none(),
        "envelope_sender": bare,
        "esp_extra": named,
    },
)


def mime_part(headers: dict[str, str], payload: bytes, multipart: bool) -> MIMEBase:
    part = MIMEApplication(payload, Name="a.bin")
    if multipart:
        part = MIMEMultipart("related", None, [part, MIMEText("tëxt\n.\nFrom here"), MIMEText("plain")])
    for name, value in headers.items():
        part[name] = value
    return part


attachments = st.lists(
    st.tuples(lines, texts, st.sampled_from([None, "text/plain", "application/json", "text/calendar"]))
    | st.tuples(lines, st.binary(max_size=200), st.sampled_from([None, "text/plain", "image/png"]))
    | st.tuples(st.none(), st.binary(max_size=200), st.sampled_from(["text/plain", "application/pdf"]))
    | st.tuples(words, st.builds(EmailMessage, subject=lines, body=texts, to=st.just(["c@example.com"]),
                headers=st.just({"Message-ID": "<1@x>", "Date": "now"})), st.just("message/rfc822"))
    | st.builds(mime_part, st.dictionaries(header_names, lines, max_size=3), st.binary(max_size=200), st.booleans()),
    max_size=3,
)


recipes = st.fixed_dictionaries(
    {
        "cls": st.sampled_from([EmailMessage, EmailMultiAlternatives, AnymailMessage]),
        "subtype": st.sampled_from(["plain", "html"]),
        "fields": st.fixed_dictionaries(
            {
                "subject": lines,
                "body": texts,
                "from_email": entries,
                "to": st.lists(entries, max_size=3),
                "cc": st.lists(entries, max_size=2),
                "bcc": st.lists(entries, max_size=2),
                "reply_to": st.lists(entries, max_size=2),
                "headers": st.dictionaries(header_names, header_values, max_size=4),
            }
        ),
        "attachments": attachments,
        "images": st.lists(words, max_size=2),
        "alternatives": st.lists(st.tuples(texts, st.sampled_from(["text/html", "text/x-amp-html"])), max_size=2),
        "additions": additions,
    }
)


def cooked(recipe: dict) -> EmailMessage:
    email = recipe["cls"](**recipe["fields"])
    email.content_subtype = recipe["subtype"]
    for attachment in recipe["attachments"]:
        email.attach(*(attachment if isinstance(attachment, tuple) else [attachment]))
    for name in recipe["images"]:
        attach_inline_image(email, PNG, f"{name}.png")
    if isinstance(email, EmailMultiAlternatives):
        email.alternatives = [EmailAlternative(*alternative) for alternative in recipe["alternatives"]]
    for name, value in recipe["additions"].items():
        setattr(email, name, value)
    return email


@pytest.mark.django_db
@given(recipes)
def test_freeze_and_thaw_lose_nothing(recipe):
    assert_kept(cooked(recipe))
