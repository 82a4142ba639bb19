"""Mails to frozen content and back: the same MIME, and the same request at a provider."""

import json
import re
from email import encoders
from email.header import Header
from email.message import EmailMessage as PythonsMessage
from email.mime.application import MIMEApplication
from email.mime.base import MIMEBase
from email.mime.message import MIMEMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.utils import formataddr

import pytest
from anymail.exceptions import AnymailNotSupportedWarning
from anymail.message import AnymailMessage, attach_inline_image
from anymail.utils import UNSET
from django.core.mail import EmailAlternative, EmailMessage, EmailMultiAlternatives, get_connection
from django.db import connection
from django.utils import translation
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from mailer import content
from mailer.models import Message
from mailer.providers import PROVIDERS

# Those that take a mail as fields; the others take its MIME.
HTTP = [name for name, provider in PROVIDERS.items() if provider.over_http]
# Anymail says of SendGrid that it no longer supports it.
pytestmark = pytest.mark.filterwarnings(f"ignore::{AnymailNotSupportedWarning.__module__}.AnymailNotSupportedWarning")

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 3
RANDOM = [
    (rb"={15}\d{19}==", b"BOUNDARY"),
    (rb"(?m)^Date: .*$", b"Date: now"),
    (rb"(?m)^Message-ID:\s.*$", b"Message-ID: one"),
]


@pytest.fixture(autouse=True)
def every_provider(settings):
    """Give Anymail what each provider needs, and let it draw no ids of its own."""
    needed = {name for provider in PROVIDERS.values() for name in provider.needs}
    settings.ANYMAIL = {
        "SENDGRID_GENERATE_MESSAGE_ID": False,
        "UNISENDER_GO_GENERATE_MESSAGE_ID": False,
        **{name: "https://api.example.com/v1" if name.endswith("_URL") else "value" for name in needed},
    }


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
    except Exception as error:  # noqa: BLE001  # some payloads stumble over what is not there, and not all by Anymail's errors
        return type(error), error.args
    data = parameters["data"]
    return {**parameters, "data": json.loads(data) if isinstance(data, str) else data}


def assert_kept(email: EmailMessage) -> AnymailMessage:
    """Check that nothing of a mail is lost between the call and the provider."""
    other = thawed(email)
    assert mime(other) == mime(email)
    for provider in HTTP:
        assert request(other, provider) == request(email, provider)
    for name in (*content.ADDITIONS, "subject", "body", "from_email", "to", "cc", "bcc", "reply_to", "extra_headers"):
        assert getattr(other, name) == getattr(email, name, UNSET), name
    return other


def mail(**fields) -> AnymailMessage:
    return AnymailMessage(
        **{"subject": "s", "body": "b", "from_email": "a@example.com", "to": ["b@example.com"]} | fields
    )


PDF = bytes(range(256))


# --- Kept, whatever it is -------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
lines = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=120)
words = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12)
bare = st.builds("{}@{}.example".format, words, st.sampled_from(["a", "b-c", "bücher"]))
entries = bare | st.builds(
    lambda name, address: formataddr((name, address)),
    st.sampled_from(["Ada", 'Adä, "x"', "a.b"]),
    words.map("{}@a.example".format),
)
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


def mime_part(headers: dict[str, str], payload: bytes, *, multipart: bool) -> MIMEBase:
    part = MIMEApplication(payload, Name="a.bin")
    if multipart:
        part = MIMEMultipart("related", None, [part, MIMEText("tëxt\n.\nFrom here"), MIMEText("plain")])
    elif not payload:
        part = MIMEText("plain\r\nlines\rof all\nkinds")
    for name, value in headers.items():
        part[name] = value
    return part


attachments = st.lists(
    st.tuples(lines, texts, st.sampled_from([None, "text/plain", "application/json", "text/calendar"]))
    | st.tuples(lines, st.binary(max_size=200), st.sampled_from([None, "text/plain", "image/png"]))
    | st.tuples(st.none(), st.binary(max_size=200), st.sampled_from(["text/plain", "application/pdf"]))
    | st.tuples(
        words,
        st.builds(
            EmailMessage,
            subject=lines,
            body=texts,
            to=st.just(["c@example.com"]),
            headers=st.just({"Message-ID": "<1@x>", "Date": "now"}),
        ),
        st.just("message/rfc822"),
    )
    | st.builds(
        mime_part,
        st.dictionaries(header_names, lines, max_size=3),
        st.binary(max_size=200),
        multipart=st.booleans(),
    ),
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
@limits(deadline=None)
@given(recipes)
def test_freeze_and_thaw_lose_nothing(recipe):
    assert_kept(cooked(recipe))


# --- What chance would hardly find ----------------------------------------------------------------------

WHEN = {"Date": "now", "Message-ID": "<1@example.com>"}


def with_header(part: MIMEBase, name: str, value: object) -> MIMEBase:
    part[name] = value
    return part


MAILS = {
    "html alone": lambda: as_html(mail(body="<p>Hello")),
    "headers in an order of their own": lambda: mail(headers={"Z": "1", "A": "2", "M": "3"}),
    "numbers as they were written": lambda: mail(metadata={"big": 1e20, "small": 1.0, "zero": -0.0, "long": 2**70}),
    "a header for the sender": lambda: mail(headers={"From": "Desk <desk@example.com>", "reply-to": "r@example.com"}),
    "None, which suppresses a default": lambda: mail(tags=None, track_opens=None),
    "a letter set": lambda: with_attributes(mail(body="ü", subject="ü"), encoding="iso-8859-1"),
    "parts that belong together": lambda: with_attributes(
        mail(attachments=[("a.txt", "b", None)]), mixed_subtype="related"
    ),
    "two alternatives of one kind": lambda: with_attributes(
        mail(), alternatives=[EmailAlternative("<p>a", "text/html"), EmailAlternative("<p>b", "text/html")]
    ),
    "an alternative in bytes": lambda: with_attributes(mail(), alternatives=[EmailAlternative(b"\0\xff", "a/b")]),
    "bytes that are no text": lambda: mail(attachments=[("a.txt", b"\xff\xfe", "text/plain")]),
    "NUL in a file": lambda: mail(attachments=[("a.txt", "a\0b", "text/plain")]),
    "text of another type": lambda: mail(attachments=[("a.json", '{"ü": 1}', "application/json")]),
    "a name beyond ASCII": lambda: mail(attachments=[("Rechnung für Ada.pdf", PDF, "application/pdf")]),
    "a long header of a part": lambda: mail(
        attachments=[with_header(MIMEApplication(PDF, Name="n" * 200), "Content-Description", "d " * 100)]
    ),
    "an encoded header of a part": lambda: mail(
        attachments=[with_header(MIMEApplication(PDF), "Content-Description", Header("ü", "utf-8"))]
    ),
    "a part in another encoding": lambda: mail(
        attachments=[MIMEApplication(b"a=b \xff", _encoder=encoders.encode_quopri)]
    ),
    "a line that a mailbox would escape": lambda: mail(attachments=[MIMEText("a\nFrom here\n")]),
    "lines that end as the standard of their type has it": lambda: mail(
        attachments=[MIMEText("BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n", "calendar"), MIMEText("a\rb\n\r\n")]
    ),
    "the same beyond ASCII": lambda: mail(attachments=[MIMEApplication(b"\xff\r\n", _encoder=encoders.encode_noop)]),
    "a part as it is": lambda: mail(attachments=[MIMEApplication(b"a \xff b", _encoder=encoders.encode_noop)]),
    "parts in a part": lambda: mail(attachments=[MIMEMultipart("mixed", None, [MIMEText("ü"), MIMEApplication(PDF)])]),
    "a mail in a part": lambda: mail(attachments=[MIMEMessage(mail(headers=WHEN).message())]),
    "a mail of Django's": lambda: mail(attachments=[(None, mail(headers=WHEN, body="ü"), "message/rfc822")]),
}


def as_html(email: EmailMessage) -> EmailMessage:
    email.content_subtype = "html"
    return email


def with_attributes(email: EmailMessage, **attributes: object) -> EmailMessage:
    for name, value in attributes.items():
        setattr(email, name, value)
    return email


@pytest.mark.parametrize("case", sorted(MAILS))
def test_freeze_and_thaw_keep(db, case):
    assert_kept(MAILS[case]())


@pytest.mark.parametrize("as_mime", [False, True])
def test_freeze_a_mail_with_files_of_its_own(db, as_mime):
    inner = mail(headers=WHEN, body="ü", attachments=[("a.pdf", PDF, None)])
    email = mail(attachments=[(None, inner.message() if as_mime else inner, "message/rfc822")])

    assert mime(thawed(email)) == mime(email)


def test_freeze_a_part_with_nothing_in_it(db):
    email = mail(attachments=[MIMEBase("application", "x-nothing")])

    assert mime(thawed(email)) == mime(email)


def test_freeze_attached_files(db, tmp_path):
    (tmp_path / "logo.png").write_bytes(PNG)
    (tmp_path / "note.txt").write_text("a note")
    email = mail()
    email.attach_file(tmp_path / "logo.png")
    email.attach_file(tmp_path / "note.txt")
    email.attach_inline_image_file(tmp_path / "logo.png")

    assert_kept(email)

    assert {*content.freeze(email).files.values()} == {PNG, b"a note"}


@pytest.mark.parametrize(
    ("attachment", "kept"),
    [
        (("a.txt", b"text"), ("a.txt", "text", "text/plain")),
        (["a.pdf", bytearray(b"x"), None], ("a.pdf", b"x", "application/pdf")),
        ((None, memoryview(b"x")), (None, b"x", "application/octet-stream")),
        ((gettext_lazy("Yes"), gettext_lazy("No"), "text/plain"), ("Ja", "Nein", "text/plain")),
    ],
)
def test_freeze_what_was_attached_by_hand_as_attach_would(db, attachment, kept):
    email = mail()
    email.attachments.append(attachment)

    with translation.override("de"):
        frozen = thawed(email)

    assert frozen.attachments == [kept]


def test_freeze_a_mail_of_pythons_as_anymail_writes_it(db):
    inner = PythonsMessage()
    inner["Subject"] = "ü"
    inner.set_content("ü")
    email = mail(attachments=[("a.eml", inner, "message/rfc822")])

    other = thawed(email)

    for provider in HTTP:
        assert request(other, provider) == request(email, provider)


def test_freeze_resolves_lazy_texts_wherever_they_are(db):
    email = mail(
        tags=[gettext_lazy("Yes")],
        metadata={gettext_lazy("Yes"): {"in": [gettext_lazy("No")]}},
        headers={"X-A": gettext_lazy("Yes")},
        alternatives=[(gettext_lazy("No"), "text/html")],
    )

    with translation.override("de"):
        other = thawed(email)

    assert (other.tags, other.extra_headers, other.alternatives) == (["Ja"], {"X-A": "Ja"}, [("Nein", "text/html")])
    assert other.metadata["Ja"] == {"in": ["Nein"]}


def test_freeze_parts_several_addresses_in_one(db):
    other = thawed(mail(to=['"Ada, A." <a@example.com>, b@example.com', "", None, "Carl <c@example.com>"]))

    assert other.to == ['"Ada, A." <a@example.com>', "b@example.com", "Carl <c@example.com>"]


def test_freeze_names_each_recipient_once(db):
    frozen = content.freeze(mail(to=["Ada <Ada@example.com>"], cc=["b@example.com"], bcc=["ada@EXAMPLE.com"]))

    assert frozen.recipients == ("Ada@example.com", "b@example.com")


def test_without_an_address_nothing_is_said_of_it():
    by_recipient = {"Ada@example.com": {"X-Name": "Ada"}, "bob@example.com": {"X-Name": "Bob"}}
    email = mail(
        to=["Ada <ada@example.com>", "bob@example.com"],
        merge_data=by_recipient,
        merge_metadata=by_recipient,
        merge_headers=by_recipient,
        merge_global_data={"shop": "Tea"},
    )

    left = content.without(content.freeze(email).content, "ada@example.com")

    assert "ada@" not in json.dumps(left).casefold()
    other = content.thaw(Message(kind="custom", content=left), ["bob@example.com"])
    assert (other.to, other.merge_global_data) == (["bob@example.com"], {"shop": "Tea"})
    assert other.merge_data == other.merge_metadata == other.merge_headers == {"bob@example.com": {"X-Name": "Bob"}}


# --- Thaw -----------------------------------------------------------------------------------------------


def message_of(email: EmailMessage) -> Message:
    return Message(kind="custom", content=content.freeze(email).content, correlation_id="story")


def test_thaw_leaves_out_whoever_may_not_get_it():
    message = message_of(
        mail(
            to=["Ada <ada@example.com>", "bob@example.com"],
            cc=["Carl <carl@example.com>"],
            bcc=["BOB@example.com", "dora@bücher.example"],
            headers={"X-A": "b"},
        )
    )

    email = content.thaw(message, ["Ada@example.com", "dora@bücher.example"])

    assert (email.to, email.cc, email.bcc) == (["Ada <ada@example.com>"], [], ["dora@bücher.example"])
    assert email.extra_headers == {"X-A": "b"}


def test_thaw_adds_our_ids_to_the_metadata():
    message = message_of(mail(metadata={"order": 7, "message_id": "theirs"}))

    email = content.thaw(message, ["b@example.com"])

    assert email.metadata == {"order": 7, "message_id": str(message.pk), "correlation_id": "story"}


@pytest.mark.parametrize("metadata", [None, UNSET])
def test_thaw_adds_our_ids_where_there_is_no_metadata(metadata):
    message = message_of(mail(metadata=metadata))

    assert content.thaw(message, ["b@example.com"]).metadata == {
        "message_id": str(message.pk),
        "correlation_id": "story",
    }


def test_thaw_lets_no_recipients_metadata_hide_our_ids():
    message = message_of(mail(merge_metadata={"b@example.com": {"order": 7, "message_id": "theirs"}}))

    assert content.thaw(message, ["b@example.com"]).merge_metadata == {"b@example.com": {"order": 7}}


def test_thaw_what_was_rendered():
    message = Message(kind="welcome", content={"subject": "s", "text": "t", "html": "h", "from_email": "a@example.com"})

    email = content.thaw(message, ["b@example.com"])

    assert (email.subject, email.body, email.alternatives) == ("s", "t", [("h", "text/html")])
    assert (email.to, email.from_email, email.tags) == (["b@example.com"], "a@example.com", ["welcome"])
    assert email.metadata == {"message_id": str(message.pk), "correlation_id": ""}
