"""Another address, another password, no account any more: what a user, or who has their mailbox, may change.

Each change of an address or a password is told to the address that the account had before it, and ends every challenge
(`User.save`); another password ends every token, too.
"""

from django.contrib.auth.hashers import make_password
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from users import audit, challenges
from users.addresses import canonical
from users.audit import Action
from users.challenges import Outcome
from users.models import ChallengeQuerySet, EmailChallenge, User
from users.signals import (
    challenge_requested,
    email_change_requested,
    email_changed,
    password_changed,
    registration_repeated,
)

Purpose = EmailChallenge.Purpose


# --- The password -----------------------------------------------------------------------------------------


def change_password(user: User, password: str) -> None:
    """Set another password, for one who has shown the present one. Revokes every token, also the one in use.

    Raises `User.DoesNotExist` where `user` is deleted, banned, or has another password since.
    """
    with transaction.atomic():
        present = _still(user).select_for_update(no_key=True).get()
        present.set_password(password)
        present.save(update_fields=["password"])
        password_changed.send(User, user=present)
    user.password = present.password


def _still(user: User) -> QuerySet[User]:
    """Find the row of one who has shown their password, unless a ban or another password has come since.

    Else who knows an old password could undo a reset by asking for something at the same time. PostgreSQL looks at the
    row again, as it then is, once it has waited for whoever held it.
    """
    return User.objects.filter(pk=user.pk, is_active=True, password=user.password)


def request_reset(email_canonical: str) -> None:
    """Have a link to set a new password sent to the active owner of an address, if the last is not too young.

    Whoever asks learns nothing about the address: where nobody is to be written to, the same rows are written.
    """
    with transaction.atomic():
        challenges.hold(email_canonical)
        asked = EmailChallenge.objects.filter(email=email_canonical, purpose=Purpose.RESET_PASSWORD)
        owner = User.objects.filter(email_canonical=email_canonical, is_active=True).first()
        if not challenges.may_ask_again(asked):
            return
        challenge = challenges.issue(owner, Purpose.RESET_PASSWORD, email=email_canonical)
        challenge_requested.send(EmailChallenge, challenge=challenge)


def reset_password(token: str, password: str) -> Outcome:
    """Set the password of a link's owner, and revoke every token. It logs nobody in.

    That the mail arrived proves the address, as its verification would: it is verified by this, if it was not.
    """
    encoded = make_password(password)

    def reset(user: User, challenge: EmailChallenge) -> Outcome:
        user.password = encoded
        user.email_verified_at = user.email_verified_at or challenge.used_at
        user.save(update_fields=["password", "email_verified_at"])
        user.lock_out()
        audit.note(Action.PASSWORD_RESET, user)
        password_changed.send(User, user=user)
        return Outcome.DONE

    return challenges.consume(token, Purpose.RESET_PASSWORD, reset)


# --- The address ------------------------------------------------------------------------------------------


def request_change(user: User, email: str) -> None:
    """Have a link sent to a new address, and a notice to the present one, which stays until the link is used.

    A request takes the place of the one before. If the address is somebody else's, they are told, as at a registration:
    who asks learns nothing. Raises `ValidationError` for what is no address, `User.DoesNotExist` as `change_password`.
    """
    address = canonical(email)
    with transaction.atomic():
        challenges.hold(address)
        asked = EmailChallenge.objects.filter(email=address, purpose=Purpose.CHANGE_EMAIL)
        may_mail = challenges.may_ask_again(asked)
        present = _still(user).select_for_update(no_key=True).get()
        owner = User.objects.filter(email_canonical=address).exclude(pk=user.pk).first()
        today = present.challenges.filter(purpose=Purpose.CHANGE_EMAIL, created_at__gt=Now() - challenges.DAY).count()
        if not may_mail or today >= challenges.MAILS_A_DAY:  # nobody is to mail strangers at will
            return
        pending_change(present).supersede()
        challenge = challenges.issue(present, Purpose.CHANGE_EMAIL, email=address, typed=email.strip())
        email_change_requested.send(User, user=present, challenge=challenge)
        if owner is None:
            challenge_requested.send(EmailChallenge, challenge=challenge)
        else:
            registration_repeated.send(User, user=owner, challenge=challenge)


def pending_change(user: User) -> ChallengeQuerySet:
    """Return what was asked for and is not confirmed yet, if anything."""
    return EmailChallenge.objects.filter(user=user, purpose=Purpose.CHANGE_EMAIL).live()


def cancel_change(user: User) -> None:
    """End a change that was asked for: its link is dead."""
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=user.pk)
        pending_change(user).supersede()


def confirm_change(token: str) -> Outcome:
    """Give the owner of a link the address it was sent to. It is verified by this."""
    try:
        return challenges.consume(token, Purpose.CHANGE_EMAIL, _change)
    except IntegrityError:  # it has been somebody else's since; the challenge stays as it was
        return Outcome.INVALID


def _change(user: User, challenge: EmailChallenge) -> Outcome:
    before = user.email
    user.email = challenge.typed
    user.email_verified_at = challenge.used_at
    user.save(update_fields=["email", "email_verified_at"])
    email_changed.send(User, user=user, old_email=before, challenge=challenge)
    return Outcome.VERIFIED


# --- The account ------------------------------------------------------------------------------------------


def close(user: User) -> None:
    """Delete an account, with its tokens.

    The challenges about its address stay until their time is over, without the address: else who registered it would
    see that there was an account. Raises `User.DoesNotExist` as `change_password`.
    """
    with transaction.atomic():
        # Whoever asks about an address names its owner in rows that PostgreSQL checks at their commit.
        challenges.hold(user.email_canonical)
        # Without its key, which `delete` takes in the end: who erases mails has them, and wants that at their commit.
        present = _still(user).select_for_update(no_key=True).get()
        concerned = EmailChallenge.objects.filter(email=present.email_canonical) | present.challenges.all()
        EmailChallenge.objects.filter(pk__in=concerned.values("pk")).supersede()
        EmailChallenge.objects.filter(pk__in=concerned.values("pk")).update(email="", typed="", password="")
        present.delete()
