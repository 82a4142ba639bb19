"""The canonical form of an address: what makes two spellings one person's."""

import functools
import re
import unicodedata
from typing import Final

import idna
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import EmailValidator
from django.utils.translation import gettext_lazy as _

# Below which service users have their addresses: no mail can ever reach one (RFC 6761, 6.4).
SERVICE_DOMAIN = "service.invalid"

MAX_LENGTH = 254  # RFC 5321 4.5.3.1.3: a path of 256 octets, less its angle brackets


# An @ as text spells it, as a form does (`%40`, or `%2540` within another one), as JSON may, and HTML.
_AT: Final = r"@|%(?:25)*40|\\u0040|&#64;"
_QUOTE: Final = r'"|%(?:25)*22|\\u0022'
# What stands in no local part that is not quoted: white space, quotes, angle brackets, spelled in any of these ways.
_BREAK: Final = rf"[\s<>]|{_QUOTE}|%(?:25)*(?:0[9AD]|20|3C|3E)|\\u00(?:0[9AD]|20|3C|3E)"
# A local part, quoted or not, in full, however long, so that no half of one is left; or what stands between two. No
# piece is given back, so that a text is read in one go, whoever made it. Only `%`, `\` and `&` may begin an escape.
_PIECE: Final = re.compile(
    rf"(?P<local>(?:{_QUOTE})(?:(?!{_QUOTE})[^\r\n])*+(?:{_QUOTE})(?={_AT})"
    rf"|(?:[^\s\"<>@%\\&]|(?!{_AT}|{_BREAK})[%\\&])++)(?P<at>{_AT})?|{_AT}|{_BREAK}",
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


# Letters that no one sees and that NFKC leaves: variation selectors, fillers, joiners (Unicode's
# Default_Ignorable_Code_Point, less what Python does not call printable).
INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")

# Nearly every address is its own canonical form. This short, no label is too long; no two hyphens, no label is encoded.
PLAIN = re.compile(r"(?=.{1,64}\Z)[a-z0-9]+(?:[._+-][a-z0-9]+)*@(?:[a-z0-9]+(?:-[a-z0-9]+)*\.)+[a-z]{2,63}")

_is_address = EmailValidator(allowlist=[])  # nobody registers from this machine


def canonical(address: str) -> str:
    """Return the address in NFKC, its local part case-folded, its domain in IDNA 2008 form.

    Two addresses with one canonical form are one account's. Raises `ValidationError` for what is no address.
    """
    typed = address.strip()
    return typed if PLAIN.fullmatch(typed) else _canonical(typed)


def _canonical(typed: str) -> str:
    local, at, domain = unicodedata.normalize("NFKC", typed).rpartition("@")
    local = unicodedata.normalize("NFKC", local.casefold())
    try:
        # Not folded: with ß and with ss, two domains may have two owners. IDNA maps what is one domain.
        result = f"{local}{at}{_encoded(domain)}"
    except UnicodeError as error:  # idna.IDNAError is one
        raise ValidationError(_("Enter a valid email address."), code="invalid") from error
    # Django's rules are for ASCII: what is beyond it counts as a letter, what is within is held to them.
    _is_address("".join(character if character.isascii() else "x" for character in result))
    # IDNA drops what is invisible in a domain, so what was typed is looked at, too: mail goes there.
    is_seen = typed.isprintable() and result.isprintable() and not INVISIBLE.search(typed + result)
    if max(len(result), len(typed)) > MAX_LENGTH or not is_seen:
        raise ValidationError(_("Enter a valid email address."), code="invalid")
    return result


def of_person(address: str) -> str:
    """Return the canonical form of an address that a person may have. Raises `ValidationError` for any other text."""
    # Nothing that long is looked at closely. Programs have addresses, too, and never come this way.
    found = canonical(address) if len(address) <= MAX_LENGTH else ""
    if not found or found.rpartition("@")[2] == SERVICE_DOMAIN:
        raise ValidationError(_("Enter a valid email address."), code="invalid")
    return found


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


def is_blocked(address: str) -> bool:
    """Tell whether the domain of a canonical address, or one that it is below, is one of `settings.BLOCKED_DOMAINS`."""
    labels = address.rpartition("@")[2].split(".")
    return any(".".join(labels[place:]) in settings.BLOCKED_DOMAINS for place in range(len(labels)))
