"""The canonical form of an address: what makes two spellings one person's."""

import functools
import re
import unicodedata

import idna
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import EmailValidator
from django.utils.translation import gettext_lazy as _

# Below which service users have their addresses: no mail can ever reach one (RFC 6761, 6.4).
SERVICE_DOMAIN = "service.invalid"

MAX_LENGTH = 254  # RFC 5321 4.5.3.1.3: a path of 256 octets, less its angle brackets


# The local part of an address, quoted or not, in any text, however long: found from its beginning, so in linear time.
LOCAL_PART = re.compile(r"""("[^"]{0,254}"|(?<![^\s"<>@])[^\s"<>@]++)(?=@)""")

# The sign as forms, JSON and HTML may spell it, and what of a local part may stand before such a one: what is no
# delimiter, and of a form's escapes those of + - . _ and of letters beyond ASCII.
SIGN = re.compile(r"(%40|\\u0040|&#64;)", re.IGNORECASE)
ESCAPED_LOCAL_PART = re.compile(
    r"""(?:(?<!%)(?<!%[0-9a-f])[^\s"'<>@&=,;:/?(){}\[\]\\%]|%2[bde]|%5f|%[89a-f][0-9a-f])+\Z""", re.IGNORECASE
)

# Letters that no one sees and that NFKC leaves: variation selectors, fillers, joiners (Unicode's
# Default_Ignorable_Code_Point, less what Python does not call printable).
INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")

_is_address = EmailValidator(allowlist=[])  # nobody registers from this machine


def mask(text: str) -> str:
    """Return the text with only the first letter left of each address's local part: `a***@example.org`."""
    masked = LOCAL_PART.sub(lambda found: f"{found[0][0]}***", text)
    parts = SIGN.split(masked)
    # Every other one is a sign, and what stands before it ends in a local part.
    parts[:-1:2] = [_mask_end(part) for part in parts[:-1:2]]
    return "".join(parts)


def _mask_end(text: str) -> str:
    kept, end = text[:-MAX_LENGTH], text[-MAX_LENGTH:]
    return kept + ESCAPED_LOCAL_PART.sub(lambda found: f"{found[0][0]}***", end)


def canonical(address: str) -> str:
    """Return the address in NFKC, its local part case-folded, its domain in IDNA 2008 form.

    Two addresses with one canonical form are one account's. Raises `ValidationError` for what is no address.
    """
    typed = address.strip()
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
