"""Issue and consume challenges.

A link's token is the challenge's id and a signature over id, purpose, address and expiry; its code is a few digits of
an HMAC over the same. Both are derived when a mail is rendered and when somebody comes with them, so that nothing
secret is stored or queued, and a mail that is rendered twice says the same.

Whoever consumes a challenge holds its user's row first, and so does whoever supersedes one: what is decided about a
user is decided by one at a time.
"""

from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from django.conf import settings
from django.core.signing import BadSignature, Signer
from django.db import connection, transaction
from django.db.models import Count, F, Q
from django.db.models.functions import Now
from django.utils.crypto import constant_time_compare, salted_hmac
from uuid_utils.compat import uuid7

from users.models import ChallengeQuerySet, EmailChallenge, User

# A person who asks again within this time is served by the mail already on its way.
RESEND_AFTER: Final = timedelta(seconds=60)
# Mails of one purpose that anybody can have sent to an address in a day.
MAILS_A_DAY: Final = 5
DAY: Final = timedelta(days=1)

# Eight digits, as easily typed as six: five tries hit one in twenty million.
CODE_DIGITS: Final = 8
CODE_TRIES: Final = 5

Purpose = EmailChallenge.Purpose

_SALT: Final = "users.challenges"
_SIGNER = Signer(salt=_SALT)
# Tells our advisory locks from others'; the second number is the address's.
_LOCK: Final = 0x61646472


class Outcome(StrEnum):
    """What became of the attempt to use a link or a code."""

    VERIFIED = "verified"
    ALREADY_VERIFIED = "already_verified"
    DONE = "done"
    USED = "used"
    EXPIRED = "expired"
    SPENT = "spent"
    INVALID = "invalid"


# What follows from a consumed challenge, in its transaction.
Effect = Callable[[User, EmailChallenge], Outcome]


# --- Ask ------------------------------------------------------------------------------------------------


def hold(email: str) -> None:
    """Have this transaction wait for others that ask about an address, and those that come after for it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [_LOCK, email])


def may_ask_again(asked: ChallengeQuerySet) -> bool:
    """Tell whether there may be another mail, after those of these challenges that are of the last day."""
    counts = asked.filter(created_at__gt=Now() - DAY).aggregate(
        today=Count("pk"), lately=Count("pk", filter=Q(created_at__gt=Now() - RESEND_AFTER))
    )
    return not counts["lately"] and counts["today"] < MAILS_A_DAY


def issue(
    user: User | None,
    purpose: Purpose,
    *,
    email: str = "",
    typed: str = "",
    password: str = "",
    renews: EmailChallenge | None = None,
) -> EmailChallenge:
    """Save and return a new challenge, for the user's present address unless `email`, a canonical one, is given."""
    values: list[object] = [
        *(uuid7(), user and user.pk, renews and renews.pk, str(purpose)),
        *(email or (user.email_canonical if user else ""), typed, password, settings.EMAIL_CHALLENGE_LIFETIME),
    ]
    [challenge] = EmailChallenge.objects.raw(_ISSUE, values)
    challenge.user, challenge.renews = user, renews
    return challenge


# The database's clock sets the expiry, and the link's signature covers it: so it is read back, by the same statement.
_ISSUE: Final = f"""
INSERT INTO {EmailChallenge._meta.db_table}
    (id, user_id, renews_id, purpose, email, typed, password, created_at, expires_at, attempts)
VALUES (%s, %s, %s, %s, %s, %s, %s, statement_timestamp(), statement_timestamp() + %s, 0)
RETURNING *"""


# --- What the mail holds ----------------------------------------------------------------------------------


def link_token(challenge: EmailChallenge) -> str:
    """Return the token for the link in a mail: the same one every time."""
    return f"{challenge.pk.hex}.{_SIGNER.signature(_signed_text(challenge))}"


def code(challenge: EmailChallenge) -> str:
    """Return the code in a mail, of CODE_DIGITS digits: the same one every time."""
    return _code(challenge, settings.SECRET_KEY)


def _code(challenge: EmailChallenge, key: str) -> str:
    digest = salted_hmac(f"{_SALT}.code", _signed_text(challenge), secret=key, algorithm="sha256").digest()
    return f"{int.from_bytes(digest[:8]) % 10**CODE_DIGITS:0{CODE_DIGITS}}"


def _signed_text(challenge: EmailChallenge) -> str:
    parts = (challenge.pk.hex, challenge.purpose, challenge.email, challenge.expires_at.isoformat())
    return "|".join(parts)


# --- Consume ----------------------------------------------------------------------------------------------


def look_up(token: str, purpose: Purpose = Purpose.VERIFY_EMAIL) -> tuple[EmailChallenge | None, Outcome | None]:
    """Return the challenge a token belongs to, and why it cannot be consumed, if it cannot. Changes nothing."""
    challenge = _challenge_of(token, purpose)
    return challenge, Outcome.INVALID if challenge is None else _obstacle(challenge, challenge.user)


def consume(token: str, purpose: Purpose, effect: Effect) -> Outcome:
    """Use a link for what it was made for; of many callers at once, one has its effect."""
    challenge = _challenge_of(token, purpose)
    return Outcome.INVALID if challenge is None else _settle(challenge, effect)


def consume_code(challenge: EmailChallenge | None, given: str, effect: Effect) -> Outcome:
    """Use a code in the place of its link.

    A try is paid for before it is judged, by one conditional UPDATE: however many come at once, CODE_TRIES are
    compared. Then the code is `SPENT`, and the link still works. Only who knows the code learns more than that.
    """
    if challenge is None:
        return Outcome.INVALID
    row = EmailChallenge.objects.filter(pk=challenge.pk)
    if not row.filter(attempts__lt=CODE_TRIES, expires_at__gt=Now()).update(attempts=F("attempts") + 1):
        return Outcome.EXPIRED if row.filter(expires_at__lte=Now()).exists() else Outcome.SPENT
    keys = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    if True not in [constant_time_compare(given, _code(challenge, key)) for key in keys]:
        return Outcome.INVALID
    return _settle(challenge, effect)


def _settle(challenge: EmailChallenge, effect: Effect) -> Outcome:
    """Consume a challenge whose link or code was shown, if nothing stands in the way."""
    with transaction.atomic():
        user = User.objects.select_for_update(no_key=True).filter(challenges=challenge).first()
        present = EmailChallenge.objects.select_related("renews").filter(pk=challenge.pk).first()
        if present is None:
            return Outcome.INVALID
        obstacle = _obstacle(present, user)
        if obstacle or user is None:
            return obstacle or Outcome.INVALID
        # It holds for one, also where somebody came to it without the user's lock.
        if not EmailChallenge.objects.filter(pk=present.pk).live().update(used_at=Now()):
            return Outcome.EXPIRED
        present.refresh_from_db(fields=["used_at"])
        return effect(user, present)


def _challenge_of(token: str, purpose: Purpose) -> EmailChallenge | None:
    identifier, _, signature = token.partition(".")
    try:
        found = EmailChallenge.objects.select_related("user").filter(pk=UUID(hex=identifier), purpose=purpose)
        challenge = found.first()
        if challenge is not None:
            # `unsign` compares in constant time and tries SECRET_KEY_FALLBACKS.
            _SIGNER.unsign(f"{_signed_text(challenge)}:{signature}")
    except (ValueError, BadSignature):
        return None
    return challenge


def _obstacle(challenge: EmailChallenge, user: User | None) -> Outcome | None:
    """Return why a challenge cannot be consumed, for one who has shown its link or code."""
    if user is None or not user.is_active:
        return Outcome.INVALID
    is_theirs = user.email_canonical == challenge.email
    is_done = challenge.used_at if challenge.purpose == Purpose.CHANGE_EMAIL else user.email_verified_at
    if is_theirs and is_done and challenge.purpose != Purpose.RESET_PASSWORD:
        return Outcome.ALREADY_VERIFIED
    if challenge.superseded_at or not (is_theirs or challenge.purpose == Purpose.CHANGE_EMAIL):
        return Outcome.INVALID
    if challenge.used_at:
        # Of another purpose: what it brought was taken back.
        return Outcome.USED if challenge.purpose == Purpose.RESET_PASSWORD else Outcome.INVALID
    expired = EmailChallenge.objects.filter(pk=challenge.pk, expires_at__lte=Now()).exists()
    return Outcome.EXPIRED if expired else None
