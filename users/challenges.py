"""Issue and consume challenges.

A link's token is the challenge's id and a signature over id, purpose, address and expiry. It is derived when a
mail is rendered and when a link is opened, so that nothing secret is stored or queued, and a mail that is
rendered twice carries the same link.
"""

from datetime import timedelta
from enum import StrEnum
from uuid import UUID

from django.conf import settings
from django.core.signing import BadSignature, Signer
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from users import limits
from users.models import EmailChallenge, User
from users.signals import challenge_requested

# A person who asks again within this time is served by the mail already on its way.
RESEND_AFTER = timedelta(seconds=60)

_SIGNER = Signer(salt="users.challenges")


class Outcome(StrEnum):
    """What became of the attempt to use a link."""

    VERIFIED = "verified"
    ALREADY_VERIFIED = "already_verified"
    EXPIRED = "expired"
    INVALID = "invalid"


def issue(user: User, purpose: EmailChallenge.Purpose) -> EmailChallenge:
    """Save and return a new challenge for the user's present address."""
    challenge = EmailChallenge.objects.create(
        user=user,
        purpose=purpose,
        email=user.email_canonical,
        expires_at=Now() + settings.EMAIL_CHALLENGE_LIFETIME,
    )
    # The database's clock set the expiry, and the link's signature covers it.
    challenge.refresh_from_db(fields=["created_at", "expires_at"])
    return challenge


def request_verification(email_canonical: str) -> None:
    """Issue a new challenge to the unverified owner of an address and tell `challenge_requested`.

    Does nothing, silently, where no active and unverified user has the address, or the last challenge is younger
    than `RESEND_AFTER`: whoever asks learns nothing about the address.
    """
    with transaction.atomic():
        user = (
            User.objects.select_for_update(no_key=True)
            .filter(email_canonical=email_canonical, email_verified_at=None, is_active=True)
            .first()
        )
        if user is None or user.challenges.filter(created_at__gt=Now() - RESEND_AFTER).exists():
            return
        if not limits.permits("resend_address", email_canonical):
            return
        challenge = issue(user, EmailChallenge.Purpose.VERIFY_EMAIL)
        challenge_requested.send(EmailChallenge, challenge=challenge)


def link_token(challenge: EmailChallenge) -> str:
    """Return the token for the link in a mail: the same one every time."""
    return f"{challenge.pk.hex}.{_SIGNER.signature(_signed_text(challenge))}"


def look_up(token: str) -> tuple[EmailChallenge | None, Outcome | None]:
    """Return the challenge a token belongs to, and why it cannot be consumed, if it cannot. Changes nothing."""
    challenge = _challenge_of(token)
    return challenge, Outcome.INVALID if challenge is None else _obstacle(challenge)


def consume(token: str) -> Outcome:
    """Verify the address behind a token; of many callers at once exactly one gets `VERIFIED`.

    One conditional UPDATE decides: it holds only while the challenge is unused, in time, and about the present
    address of an active user.
    """
    challenge = _challenge_of(token)
    if challenge is None:
        return Outcome.INVALID
    with transaction.atomic():
        won = EmailChallenge.objects.filter(
            pk=challenge.pk,
            used_at=None,
            superseded_at=None,
            expires_at__gt=Now(),
            user__is_active=True,
            user__email_canonical=F("email"),
        ).update(used_at=Now())
        if won:
            return _mark_verified(challenge)
    return _obstacle(challenge) or Outcome.INVALID


def _mark_verified(challenge: EmailChallenge) -> Outcome:
    challenge.refresh_from_db(fields=["used_at"])
    user = User.objects.select_for_update(no_key=True).get(pk=challenge.user_id)
    if not user.is_active or user.email_canonical != challenge.email:
        return Outcome.INVALID
    if user.email_verified_at is not None:
        return Outcome.ALREADY_VERIFIED
    user.email_verified_at = challenge.used_at
    user.save(update_fields=["email_verified_at"])
    return Outcome.VERIFIED


def _challenge_of(token: str) -> EmailChallenge | None:
    identifier, _, signature = token.partition(".")
    try:
        challenge = EmailChallenge.objects.select_related("user").filter(pk=UUID(hex=identifier)).first()
        if challenge is not None:
            # `unsign` compares in constant time and tries SECRET_KEY_FALLBACKS.
            _SIGNER.unsign(f"{_signed_text(challenge)}:{signature}")
    except (ValueError, BadSignature):
        return None
    return challenge


def _obstacle(challenge: EmailChallenge) -> Outcome | None:
    user = User.objects.get(pk=challenge.user_id)
    if not user.is_active or user.email_canonical != challenge.email or challenge.superseded_at:
        return Outcome.INVALID
    if user.email_verified_at is not None:
        return Outcome.ALREADY_VERIFIED
    if challenge.used_at:
        return Outcome.INVALID  # the verification it brought was taken back
    expired = EmailChallenge.objects.filter(pk=challenge.pk, expires_at__lte=Now()).exists()
    return Outcome.EXPIRED if expired else None


def _signed_text(challenge: EmailChallenge) -> str:
    parts = (challenge.pk.hex, challenge.purpose, challenge.email, challenge.expires_at.isoformat())
    return "|".join(parts)
