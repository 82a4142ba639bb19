"""Tokens by which a user is known: opaque, hashed at rest, expiring, several a user (django-rest-knox)."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.hashers import check_password
from django.db import transaction
from django.utils import timezone
from knox.models import AuthToken

from users import audit
from users.audit import Action
from users.models import User


@transaction.atomic
def log_in(user: User, password: str) -> tuple[Any, str] | None:
    """Make a token for whoever has just proved a password; return its row and the token itself, shown this once.

    The oldest go where there would be more than USER_TOKENS. None where the user was banned, or has another password,
    since: whoever does that revokes all tokens, and this one came after.
    """
    present = User.objects.select_for_update(no_key=True).filter(pk=user.pk, is_active=True).first()
    if present is None or not (present.password == user.password or check_password(password, present.password)):
        return None
    rows = AuthToken.objects.filter(user=user)
    rows.filter(expiry__lt=timezone.now()).delete()
    surplus = rows.order_by("-created").values_list("pk", flat=True)[settings.USER_TOKENS - 1 :]
    rows.filter(pk__in=list(surplus)).delete()
    made: tuple[Any, str] = AuthToken.objects.create(user=user)
    return made


@transaction.atomic
def hand_out(user: User, lifetime: timedelta | None) -> str:
    """Make a token for a service, which has no password; return it. None lives for ever."""
    audit.note(Action.TOKEN_MADE, user)
    _, token = AuthToken.objects.create(user=user, expiry=lifetime)
    return str(token)


@transaction.atomic
def retire(user: User, overlap: timedelta) -> int:
    """Revoke all tokens of a user, or let them end after some time; return how many there were."""
    end = timezone.now() + overlap
    rows = AuthToken.objects.filter(user=user)
    count: int = rows.count()
    if count:
        audit.note(Action.TOKEN_REVOKED, user)
    if overlap:
        rows.exclude(expiry__lt=end).update(expiry=end)
    else:
        rows.delete()
    return count
