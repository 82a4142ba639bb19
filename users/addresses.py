"""The canonical form of an address: what makes two spellings one person's."""

import functools
import re
import unicodedata
from typing import Final

import idna
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.utils.translation import gettext_lazy as _

MAX_LENGTH = 254  # RFC 5321 4.5.3.1.3: a path of 256 octets, less its angle brackets


# An @ as text spells it, as a form does (`%40`, or `%2540` within another one), and as JSON may.
_AT: Final = r"@|%(?:25)*40|\\u0040"
_QUOTE: Final = r'"|%(?:25)*22|\\u0022'
# What stands in no local part that is not quoted: white space, quotes, angle brackets, spelled in any of these ways.
_BREAK: Final = rf"[\s<>]|{_QUOTE}|%(?:25)*(?:0[9AD]|20|3C|3E)|\\u00(?:0[9AD]|20|3C|3E)"
# A local part, quoted or not, in full, however long, so that no half of one is left; or what stands between two. No
# piece is given back, so that a text is read in one go, whoever made it. Only `%` and `\` may begin an escape.
_PIECE: Final = re.compile(
    rf"(?P<local>(?:{_QUOTE})(?:(?!{_QUOTE})[^\r\n])*+(?:{_QUOTE})(?={_AT})"
    rf"|(?:[^\s\"<>@%\\]|(?!{_AT}|{_BREAK})[%\\])++)(?P<at>{_AT})?|{_AT}|{_BREAK}",
    re.IGNORECASE,
)


def mask(text: str) -> str:
    """Return the text with only the first letter left of each address's local part: `a***@example.org`.

    Also of one in the body of a form or in JSON, with its escapes.
    """
    return _PIECE.sub(_masked, text)


def _masked(found: re.Match[str]) -> str:
    local, at = found["local"], found["at"]
    if not at:
        return found[0]
    # In a form a name stands before the local part, whose own & and = are spelled %26 and %3D.
    begin = max(local.rfind("&"), local.rfind("=")) + 1 if at.startswith("%") else 0
    first = local[begin : begin + 1].strip("%\\")  # not the first half of an escape
    return f"{local[:begin]}{first}***{at}"


def canonical(address: str) -> str:
    """Return the address in NFKC, case-folded, its domain in IDNA 2008 form.

    Two addresses with one canonical form are one account's. Raises `ValidationError` for what is no address.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", address).casefold()).strip()
    local, at, domain = folded.rpartition("@")
    try:
        result = f"{local}{at}{_encoded(domain)}"
    except UnicodeError as error:  # idna.IDNAError is one
        raise ValidationError(_("Enter a valid email address."), code="invalid") from error
    # Django's rules are for ASCII: what is beyond it counts as a letter, what is within is held to them.
    validate_email("".join(character if character.isascii() else "x" for character in result))
    if max(len(result), len(address.strip())) > MAX_LENGTH or not result.isprintable():
        raise ValidationError(_("Enter a valid email address."), code="invalid")
    return result


@functools.lru_cache(maxsize=4096)  # most people share a few domains
def _encoded(domain: str) -> str:
    """Return a domain in IDNA form, by the UTS 46 mapping, as browsers and mail programs do it before the lookup."""
    return idna.encode(domain, uts46=True).decode("ascii")


def loosely_canonical(address: str) -> str:
    """Return the canonical form, or the case-folded text where a provider reports something else.

    For matching what comes from outside against what we sent; never raises.
    """
    try:
        return canonical(address)
    except ValidationError:
        return address.strip().casefold()
