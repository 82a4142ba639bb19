"""What a message says: from the mail that was handed over to its frozen form, and from that to what Anymail sends.

Frozen content is either what `kinds.render` made (`text`, `html`), or a whole mail of somebody else's (`body`), which
`freeze` takes apart and `thaw` puts together again, byte for byte. Its files stand in it by their digests.
"""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from anymail.backends.base import BasePayload
from anymail.exceptions import AnymailInvalidAddress
from anymail.message import AnymailMessage
from anymail.utils import UNSET, EmailAddress, parse_address_list
from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage, EmailMultiAlternatives

from mailer import files, parts
from mailer.exceptions import InvalidAddress, Unqueueable
from mailer.models import Message
from mailer.plain import headers, line, moment, plain
from users.addresses import canonical, loosely_canonical

RECIPIENTS: Final = ("to", "cc", "bcc")

# What puts a mail together, by Django: whoever does it otherwise has parts that we do not know of.
BUILDERS: Final = {
    name: {getattr(EmailMessage, name, None), getattr(EmailMultiAlternatives, name)}
    for name in vars(EmailMessage) | vars(EmailMultiAlternatives)
    if name in {"message", "recipients"} or name.startswith("_create_")
}

# What a mail says in one line each: most of it stands in headers, and a newline makes sense in none of it.
LINES: Final = ("subject", "from_email", "content_subtype", "mixed_subtype", "alternative_subtype", "encoding")

# What `thaw` adds to the metadata: by these an event finds its delivery.
OURS: Final = ("message_id", "correlation_id")

# Anymail's additions, by its own list. `send_at` is not among them: the outbox waits, not the provider.
ADDITIONS: Final = tuple(name for name, *_ in BasePayload.anymail_message_attrs if name != "send_at")

# Those that say something of each recipient, by address.
BY_RECIPIENT: Final = frozenset({"merge_data", "merge_metadata", "merge_headers"})


@dataclass(frozen=True, slots=True)
class Frozen:
    """A mail in parts: its content, which has a JSON form, its files by digest, and whom it goes to: bare addresses."""

    content: dict[str, Any]
    files: dict[str, bytes]
    recipients: tuple[str, ...]
    tags: tuple[str, ...]
    send_at: datetime | None


def freeze(email: EmailMessage) -> Frozen:
    """Take a mail apart, its lazy texts resolved in the language that is active.

    Raises `BadHeaderError` for a newline in what becomes a header, `InvalidAddress`, and `Unqueueable` for what has no
    JSON form.
    """
    if any(getattr(type(email), name, None) not in ours for name, ours in BUILDERS.items()):
        raise Unqueueable(f"{type(email).__name__} builds its MIME itself: the outbox could not repeat that")
    kept: dict[str, bytes] = {}
    addresses = {name: _addresses(getattr(email, name), name) for name in (*RECIPIENTS, "reply_to")}
    additions = _additions(email)
    content = {
        **{name: line(getattr(email, name, None), name) for name in LINES},
        **addresses,
        "body": plain(email.body, "body"),
        "alternatives": [parts.take_alternative(part, kept) for part in getattr(email, "alternatives", ())],
        "attachments": [parts.take_attachment(attachment, kept) for attachment in email.attachments],
        # As text, since PostgreSQL's JSON has an order of its own for keys and another form for 1e20.
        "extra_headers": json.dumps(headers(email.extra_headers, "extra_headers")),
        "additions": json.dumps(additions),
    }
    _parsed(content["from_email"], "from_email")
    return Frozen(
        content=content,
        files=kept,
        recipients=_recipients(entry for name in RECIPIENTS for entry in addresses[name]),
        tags=tuple(map(str, additions.get("tags") or ())),
        send_at=moment(getattr(email, "send_at", None), "send_at"),
    )


def thaw(message: Message, recipients: Sequence[str], read: parts.Read = files.read) -> AnymailMessage:
    """Return the mail to those of its recipients who may get it, with our ids in its metadata.

    Reads its files, which takes time. Raises `FileUnavailable`.
    """
    content = message.content or {}
    ours = {"message_id": str(message.pk), "correlation_id": message.correlation_id}
    if "body" not in content:
        return _rendered(content, recipients, tags=[message.kind], metadata=ours)
    email = _whole(content, recipients, read)
    # Ours win, also over what is said for each recipient.
    email.metadata = {**(email.metadata if isinstance(email.metadata, Mapping) else {}), **ours}
    if isinstance(email.merge_metadata, Mapping):
        email.merge_metadata = {address: theirs(metadata) for address, metadata in email.merge_metadata.items()}
    return email


def theirs(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata without what we add to it."""
    return {name: value for name, value in metadata.items() if name not in OURS}


def without(content: Mapping[str, Any], canonical_address: str) -> dict[str, Any]:
    """Return frozen content without an address, in canonical form, as a recipient, and without what is said of it."""
    left: dict[str, Any] = {
        name: [entry for entry in content[name] if loosely_canonical(_bare(entry)) != canonical_address]
        for name in RECIPIENTS
        if name in content
    }
    if "additions" in content:
        additions = json.loads(content["additions"])
        for name in BY_RECIPIENT & additions.keys():
            said = additions[name] or {}
            additions[name] = {each: said[each] for each in said if loosely_canonical(each) != canonical_address}
        left["additions"] = json.dumps(additions)
    return {**content, **left}


def _rendered(content: Mapping[str, Any], recipients: Sequence[str], **additions: Any) -> AnymailMessage:
    """Return the mail that `kinds.render` has made."""
    email = AnymailMessage(
        subject=content["subject"],
        body=content["text"],
        from_email=content["from_email"],
        to=list(recipients),
        **additions,
    )
    email.attach_alternative(content["html"], "text/html")
    return email


def _whole(content: Mapping[str, Any], recipients: Sequence[str], read: parts.Read) -> AnymailMessage:
    """Return the mail that `freeze` took apart, without those recipients who are not given."""
    email = AnymailMessage()
    for name in (*LINES, "body", "reply_to"):
        setattr(email, name, content[name])
    wanted = frozenset(recipients)
    spellings = functools.cache(lambda: frozenset(map(loosely_canonical, recipients)))
    for name in RECIPIENTS:
        kept = [each for each in content[name] if each in wanted or loosely_canonical(_bare(each)) in spellings()]
        setattr(email, name, kept)
    email.alternatives = [parts.give_alternative(part, read) for part in content["alternatives"]]
    email.attachments = [parts.give_attachment(part, read) for part in content["attachments"]]
    email.extra_headers = json.loads(content["extra_headers"])
    for name, value in json.loads(content["additions"]).items():
        setattr(email, name, value)
    return email


def _additions(email: EmailMessage) -> dict[str, Any]:
    found = {name: plain(value, name) for name in ADDITIONS if (value := getattr(email, name, UNSET)) is not UNSET}
    envelope = line(found.get("envelope_sender"), "envelope_sender")
    if envelope is not None and len(_parsed(envelope, "envelope_sender")) > 1:
        raise InvalidAddress("envelope_sender: holds several addresses")
    for of_recipient in (found.get("merge_headers") or {}).values():
        headers(of_recipient, "merge_headers")
    return found


def _addresses(entries: Iterable[Any], field: str) -> list[str]:
    """Return addresses as they are written, one an entry: of several in one, some may turn out to be suppressed."""
    if isinstance(entries, str):
        raise TypeError(f'"{field}" must be a list or tuple')
    found: list[str] = []
    for entry in filter(None, entries):
        text = line(entry, field)
        parsed = _parsed(text, field)
        found += [text] if len(parsed) == 1 else [address.address for address in parsed]
    return found


def _parsed(text: Any, field: str) -> list[EmailAddress]:
    """Return the addresses in a text, at least one. Raises `InvalidAddress`, which says where but not what."""
    try:
        parsed: list[EmailAddress] = parse_address_list([text])
        for address in parsed:
            canonical(address.addr_spec)
    except (AnymailInvalidAddress, ValidationError):
        parsed = []
    if not parsed:
        raise InvalidAddress(f"{field}: holds something that is no address")
    return parsed


def _bare(entry: str) -> str:
    return str(parse_address_list([entry])[0].addr_spec)


def _recipients(entries: Iterable[str]) -> tuple[str, ...]:
    """Return the bare addresses: each once, however often and in whatever spelling it is there."""
    found: dict[str, str] = {}
    for address in map(_bare, entries):
        found.setdefault(canonical(address), address)
    return tuple(found.values())
