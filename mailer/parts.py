"""The parts of a mail beside its body: alternatives, attachments, inline images. Each as JSON, its bytes as a file.

A part is either (name, content, type), as Django's `attach` has it, or a MIME object with headers of its own. Of the
latter the headers are kept apart from the body, so that an image which stands in many mails, each time with another
Content-ID, is one file; and its body as it was before it was encoded, so that it is the same one as an attachment.
"""

import re
from base64 import encodebytes
from collections.abc import Callable, Sequence
from email import message_from_bytes
from email.generator import BytesGenerator
from email.message import Message
from email.mime.base import MIMEBase
from email.policy import Policy, compat32
from io import BytesIO
from typing import Any, Final

from anymail.utils import SMTP7BIT
from django.core.mail import EmailAlternative, EmailAttachment, EmailMessage
from django.core.mail.message import MIMEMixin
from django.utils.functional import Promise

from mailer import files
from mailer.exceptions import Unqueueable
from mailer.plain import encoded, line, plain

LINE_END: Final = re.compile(rb"\r\n|\r|\n")

Files = dict[str, bytes]
Read = Callable[[str], bytes]


def take_alternative(part: Sequence[Any], kept: Files) -> dict[str, Any]:
    """Return an alternative of the body as JSON; its bytes, if it is no text, go to `kept`."""
    content, mimetype = part
    kind = line(mimetype, "alternatives")
    if isinstance(content, bytes):
        return {"type": kind, "file": _keep(content, kept)}
    return {"type": kind, "text": plain(content, "alternatives")}


def give_alternative(part: dict[str, Any], read: Read) -> EmailAlternative:
    """Return an alternative as it was."""
    return EmailAlternative(read(part["file"]) if "file" in part else part["text"], part["type"])


def take_attachment(attachment: Any, kept: Files) -> dict[str, Any]:
    """Return an attachment as JSON; its content goes to `kept`.

    Raises `BadHeaderError` for a newline in its name or headers, `Unqueueable` for content that is no bytes or text.
    """
    if isinstance(attachment, MIMEBase):
        return _take_mime(attachment, kept)
    if not isinstance(attachment, tuple | list):
        raise Unqueueable(f"attachments: a {type(attachment).__name__} cannot be kept")
    name, content, mimetype = (*attachment, None, None)[:3]
    name, mimetype = line(name, "attachments"), line(mimetype, "attachments")
    content, mimetype = _by_djangos_rules(name, _content(content), mimetype)
    data = encoded(content, "attachments") if isinstance(content, str) else content
    return {"name": name, "type": mimetype, "text": isinstance(content, str), "file": _keep(data, kept)}


def give_attachment(part: dict[str, Any], read: Read) -> EmailAttachment | MIMEBase:
    """Return an attachment as it was."""
    content = read(part["file"])
    if "headers" in part:
        return _give_mime(part["headers"], encodebytes(content) if part["base64"] else content)
    return EmailAttachment(part["name"], content.decode() if part["text"] else content, part["type"])


def _by_djangos_rules(name: str | None, content: Any, mimetype: str | None) -> tuple[str | bytes, str]:
    """Guess the type, and decode text, as `attach` does: not every attachment came by it."""
    draft = EmailMessage()
    draft.attach(name or "", content, mimetype)
    _, decoded, found = draft.attachments[0]
    return decoded, found


def _content(content: Any) -> Any:
    """Return the bytes or the text of an attachment; a mail becomes the bytes that Anymail makes of it."""
    match content:
        case Promise():
            return str(content)
        case str() | bytes():
            return content
        case bytearray() | memoryview():
            return bytes(content)
        case EmailMessage():
            return _content(content.message())
        case MIMEMixin():
            return content.as_bytes(linesep="\r\n")
        case Message():
            return content.as_bytes(policy=SMTP7BIT)
    raise Unqueueable(f"attachments: a {type(content).__name__} is neither bytes nor text")


def _take_mime(part: MIMEBase, kept: Files) -> dict[str, Any]:
    body = _body(part)
    # Read after the above, which is what gives a multipart its boundary.
    headers = [[name, _header(value)] for name, value in part.raw_items()]
    decoded: Any = b"" if part.is_multipart() else part.get_payload(decode=True) or b""
    in_base64 = encodebytes(decoded) == body
    if not in_base64 and LINE_END.sub(b"\n", decoded) == body:
        body = decoded  # with the line ends it had: those of a calendar are CRLF, and APIs pass them on
    return {"headers": headers, "base64": in_base64, "file": _keep(decoded if in_base64 else body, kept)}


def _body(part: MIMEBase) -> bytes:
    """Return what stands below the headers. Raises `Unqueueable` for text that was never encoded."""
    buffer = BytesIO()
    try:
        BytesGenerator(buffer, mangle_from_=False).flatten(part)
    except UnicodeEncodeError:
        raise Unqueueable("attachments: a part holds text that is not encoded") from None
    return (b"\n" + buffer.getvalue()).partition(b"\n\n")[2]


def _header(value: Any) -> str:
    """Return a header's value. A `Header` is folded as it is encoded, and lets no newline of its text through."""
    if isinstance(value, str):
        return str(line(value, "attachments"))
    return str(value.encode())


class _Part(MIMEBase):
    """A MIME object that a parser fills: Django and Anymail know their own kind by its class."""

    def __init__(self, *, policy: Policy = compat32) -> None:
        Message.__init__(self, policy)


def _give_mime(headers: list[list[str]], body: bytes) -> MIMEBase:
    head = b"".join(compat32.fold_binary(name, value) for name, value in headers)
    part = message_from_bytes(head + b"\n" + body, _class=_Part)
    for name in {name for name, _ in headers}:
        del part[name]
    for name, value in headers:  # as they were: what the parser has read is folded
        part[name] = value
    return part


def _keep(content: bytes, kept: Files) -> str:
    digest = files.digest_of(content)
    kept[digest] = content
    return digest
