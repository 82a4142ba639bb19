"""What a mail server's reply says: its enhanced status code, and why a mail did not arrive.

https://www.rfc-editor.org/rfc/rfc3463 and https://www.iana.org/assignments/smtp-enhanced-status-codes/. Servers are
careless with codes, and many say a thing in words only, so both are read; a code that names one cause wins.
"""

import re
from typing import Final

# Characters of a reply that are read.
_LIMIT: Final = 2000

# Not a part of an address or a version, such as 192.0.2.5 or 2.11.0; a reply's first lines have `550-5.1.1`.
_ENHANCED: Final = re.compile(r"(?<![\w.])([245]\.[0-7]\.\d{1,3})(?!\.?\d)")
# After a reply code of the same class there is no doubt.
_AFTER_REPLY: Final = re.compile(r"(?<!\d)([245])\d\d[ -]#?(\1\.[0-7]\.\d{1,3})(?!\.?\d)")

# Subject and detail that name one cause.
_CODES: Final[dict[str, str]] = {
    "1.1": "no_mailbox",
    "1.2": "dns",
    "1.3": "no_mailbox",
    "1.6": "no_mailbox",
    "1.10": "no_mailbox",  # RFC 7505: the domain declares that it takes no mail
    "2.2": "mailbox_full",
    "2.3": "policy",  # too long for the mailbox
    "3.1": "unreachable",  # the system's disk is full, not the mailbox
    "3.2": "unreachable",
    "3.4": "policy",  # too big for the system
    "4.3": "dns",
    "4.4": "dns",
}
# What of the words goes before a code that is used for many things, such as 5.7.1 or 5.4.1.
_WORDS_FIRST: Final[tuple[tuple[str, re.Pattern[str]], ...]] = (
    (
        "mailbox_full",
        re.compile(
            r"(mailbox|inbox|account|user|recipient)\b.{0,30}\bfull\b|over ?quota|quota.{0,20}exceed|exceed.{0,30}quota"
            r"|out of (storage|space)|insufficient (system )?storage|storage allocation"
        ),
    ),
    (
        "no_mailbox",
        re.compile(
            r"(unknown|no such|invalid|non-?existent) (local )?(user|mailbox|recipient|address|account|e-?mail)"
            r"|(user|mailbox|recipient|address|account|alias)\b.{0,40}"
            r"\b(unknown|not found|does ?n[o']t exist|not exist|disabled|inactive|deactivated)"
            r"|(user|mailbox|recipient|address|account|alias)\b.{0,40}\bno longer (available|exists)"
            r"|mailbox (is )?unavailable|recipient address rejected: access denied"
            r"|not a valid (mailbox|recipient|user|address)|no mailbox here|undeliverable address"
        ),
    ),
    (
        "spam",
        re.compile(
            r"\bspam|\bjunk\b|unsolicited|black ?list|block ?list|deny ?list|\b(dns|r)bl\b|spamhaus|barracuda|spamcop"
            r"|reputation|bulk mail"
        ),
    ),
)
_SUBJECTS: Final[dict[str, str]] = {"4": "unreachable", "7": "policy"}
_WORDS_LAST: Final[tuple[tuple[str, re.Pattern[str]], ...]] = (
    (
        "dns",
        re.compile(
            r"(domain|host)( name)?\b.{0,40}\b(not found|unknown|does ?n[o']t exist|not exist|invalid)"
            r"|unknown (domain|host)|no such (domain|host)|nxdomain|\bmx\b|\bdns\b|unrout(e)?able"
        ),
    ),
    (
        "unreachable",
        re.compile(
            r"time[d -]*out|connection.{0,20}(refused|reset|lost|dropped|closed|failed)|unreachable|no route to host"
            r"|could ?n[o']t connect|unable to connect|no answer|retry timeout|too old"
            r"|try again later|service unavailable"
        ),
    ),
    (
        "policy",
        re.compile(
            r"policy|policies|dmarc|\bspf\b|dkim|not authori[sz]ed|unauthenticated|authentication"
            r"|virus|malware|too large|too big|size limit|rate limit|too many|gr[ea]ylist|access denied"
            r"|blocked|prohibited"
        ),
    ),
)


def smtp_status_in(text: str) -> str:
    """Return the first enhanced status code (RFC 3463) in a reply, such as `5.1.1`, or nothing."""
    text = text[:_LIMIT]
    if found := _AFTER_REPLY.search(text):
        return found[2]
    found = _ENHANCED.search(text)
    return found[1] if found else ""


def category_of(smtp_status: str, text: str) -> str:
    """Return why a mail did not arrive, one of `base.CATEGORIES`, from a code and a reply; one of them may be empty.

    Nothing where both are, or where the code says that it did arrive; `other` where neither gives a known cause.
    """
    kind, _, code = smtp_status.partition(".")
    if kind == "2" or not (smtp_status or text.strip()):
        return ""
    words = text[:_LIMIT].casefold()
    return (
        _CODES.get(code)
        or _matching(_WORDS_FIRST, words)
        or _SUBJECTS.get(code.partition(".")[0])
        or _matching(_WORDS_LAST, words)
        or "other"
    )


def _matching(table: tuple[tuple[str, re.Pattern[str]], ...], words: str) -> str:
    return next((category for category, pattern in table if pattern.search(words)), "")
