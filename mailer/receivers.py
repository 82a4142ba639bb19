"""What users do, and the mails that follow: receivers that enqueue, and nothing else.

They run inside the transaction of their cause, so a mail is promised exactly when its cause is committed.
"""

from collections.abc import Collection
from typing import Any

from django.contrib.auth import get_user_model
from django.db.models.functions import Now
from django.db.models.signals import post_save

from mailer import outbox
from mailer.models import Message
from users import challenges
from users.models import EmailChallenge, User
from users.signals import challenge_requested, registration_repeated


def connect() -> None:
    """Connect the receivers; called once, from `AppConfig.ready`."""
    post_save.connect(on_user_saved, sender=get_user_model(), dispatch_uid="mailer.on_user_saved")
    challenge_requested.connect(on_challenge_requested, dispatch_uid="mailer.on_challenge_requested")
    registration_repeated.connect(on_registration_repeated, dispatch_uid="mailer.on_registration_repeated")


def on_user_saved(*, instance: User, created: bool, raw: bool, update_fields: Collection[str] | None, **_: Any) -> None:
    """Enqueue the verification mail of a new user, the welcome mail of one whose address was just verified."""
    if raw or instance.is_service:
        return  # fixtures tell of users who had their mails long ago; a program reads none
    if instance.newly_verified and (update_fields is None or "email_verified_at" in update_fields):
        welcome(instance)
    elif created:
        ask_to_verify(instance)


def welcome(user: User) -> Message | None:
    """Enqueue the one welcome mail of a user, or return None where it is there."""
    return _to(user, "welcome", f"welcome:user:{user.pk}")


def ask_to_verify(user: User) -> Message | None:
    """Enqueue the first verification mail of a user, or return None where it is there."""
    challenge = challenges.issue(user, EmailChallenge.Purpose.VERIFY_EMAIL)
    return _verification(challenge, f"verification:user:{user.pk}")


def on_challenge_requested(*, challenge: EmailChallenge, **_: Any) -> None:
    """Enqueue the mail with a new link."""
    _verification(challenge, f"verification:challenge:{challenge.pk}")


def on_registration_repeated(*, user: User, **_: Any) -> None:
    """Tell the owner of an address, at most once a day, that somebody tried to register it."""
    if not user.is_active:
        return  # "just log in" would be no help
    today = User.objects.annotate(now=Now()).values_list("now", flat=True).get(pk=user.pk)
    _to(user, "account_exists", f"account_exists:user:{user.pk}:{today:%Y-%m-%d}")


def _verification(challenge: EmailChallenge, dedupe_key: str) -> Message | None:
    return _to(
        challenge.user,
        "verification",
        dedupe_key,
        context={"challenge_id": str(challenge.pk)},
        expires_at=challenge.expires_at,
    )


def _to(user: User, kind: str, dedupe_key: str, **fields: Any) -> Message | None:
    return outbox.enqueue(kind, user.email, dedupe_key=dedupe_key, user=user, locale=user.locale, **fields)
