"""What users do, and the mails that follow: receivers that enqueue, and nothing else.

They run inside the transaction of their cause, so a mail is promised exactly when its cause is committed.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db.models.signals import post_save
from uuid_utils.compat import uuid7

from mailer import outbox
from mailer.kinds import KINDS
from mailer.models import DeliveryStatus, Message
from users import challenges
from users.models import EmailChallenge, User
from users.signals import (
    challenge_requested,
    email_change_requested,
    email_changed,
    password_changed,
    registration_repeated,
)


def connect() -> None:
    """Connect the receivers; called once, from `AppConfig.ready`."""
    post_save.connect(on_user_saved, sender=get_user_model(), dispatch_uid="mailer.on_user_saved")
    challenge_requested.connect(on_challenge_requested, dispatch_uid="mailer.on_challenge_requested")
    registration_repeated.connect(on_registration_repeated, dispatch_uid="mailer.on_registration_repeated")
    email_change_requested.connect(on_email_change_requested, dispatch_uid="mailer.on_email_change_requested")
    email_changed.connect(on_email_changed, dispatch_uid="mailer.on_email_changed")
    password_changed.connect(on_password_changed, dispatch_uid="mailer.on_password_changed")


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
    return _ask(challenge, f"verification:user:{user.pk}")


# What is mailed about a challenge, by its purpose.
KIND_OF: Final[Mapping[str, str]] = {
    EmailChallenge.Purpose.VERIFY_EMAIL: "verification",
    EmailChallenge.Purpose.CHANGE_EMAIL: "email_change",
    EmailChallenge.Purpose.RESET_PASSWORD: "password_reset",
}


def on_challenge_requested(*, challenge: EmailChallenge, **_: Any) -> None:
    """Enqueue the mail with a link. Without a user to write to, a message that is withheld: as dear as any other."""
    _ask(challenge, f"{KIND_OF[challenge.purpose]}:challenge:{challenge.pk}")


def on_registration_repeated(*, user: User, challenge: EmailChallenge, **_: Any) -> None:
    """Tell the owner of an address that somebody tried to take it.

    It goes as the mail would go that it stands for, and also to one who is locked out: who watches must see no
    difference.
    """
    _to(
        user,
        "account_exists",
        f"account_exists:challenge:{challenge.pk}",
        expires_at=challenge.expires_at,
        priority=KINDS[KIND_OF[challenge.purpose]].priority,
        flow=KIND_OF[challenge.purpose],
    )


def on_email_change_requested(*, user: User, challenge: EmailChallenge, **_: Any) -> None:
    """Tell the present address that another is to take its place."""
    _to(user, "email_change_requested", f"email_change_requested:challenge:{challenge.pk}")


def on_email_changed(*, user: User, old_email: str, challenge: EmailChallenge, **_: Any) -> None:
    """Tell the former address that it is the account's no more."""
    outbox.enqueue(
        "email_changed", old_email, dedupe_key=f"email_changed:challenge:{challenge.pk}", user=user, locale=user.locale
    )


def on_password_changed(*, user: User, **_: Any) -> None:
    """Tell the owner of an account that it has another password."""
    _to(user, "password_changed", f"password_changed:user:{user.pk}:{uuid7()}")


def delivery_of(challenge: EmailChallenge) -> DeliveryStatus | None:
    """Return the delivery of the mail about a challenge that was to verify an address; None where there was none."""
    keys = [f"{kind}:challenge:{challenge.pk}" for kind in ("verification", "account_exists")]
    if challenge.renews_id is None and not challenge.password and challenge.user_id:
        keys.append(f"verification:user:{challenge.user_id}")
    # Of a user whose registration is long gone, the first mail is older than the one asked for by now.
    return DeliveryStatus.objects.filter(message__dedupe_key__in=keys).order_by("-id").first()


def _ask(challenge: EmailChallenge, dedupe_key: str) -> Message | None:
    user = challenge.user
    return outbox.enqueue(
        KIND_OF[challenge.purpose],
        (challenge.typed or user.email) if user else "",
        dedupe_key=dedupe_key,
        user=user,
        locale=user.locale if user else settings.LANGUAGE_CODE,
        context={"challenge_id": str(challenge.pk)},
        expires_at=challenge.expires_at,
        withheld=user is None,
    )


def _to(user: User, kind: str, dedupe_key: str, **fields: Any) -> Message | None:
    return outbox.enqueue(kind, user.email, dedupe_key=dedupe_key, user=user, locale=user.locale, **fields)
