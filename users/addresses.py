"""The canonical form of an address: what makes two spellings one person's."""

import functools
import re
import unicodedata

import idna
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.utils.translation import gettext_lazy as _

MAX_LENGTH = 254  # RFC 5321 4.5.3.1.3: a path of 256 octets, less its angle brackets


# The local part of an address, quoted or not, in any text: 64 octets at most (RFC 5321 4.5.3.1.1).
LOCAL_PART = re.compile(r"""("[^"]{0,64}"|[^\s"<>@]{1,64})(?=@)""")


def mask(text: str) -> str:
    """Return the text with only the first letter left of each address's local part: `a***@example.org`."""
    return LOCAL_PART.sub(lambda found: f"{found[0][0]}***", text)


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
