"""Register, without giving away who is registered already."""

from uuid import UUID

from django.db import IntegrityError, transaction
from uuid_utils.compat import uuid7

from users.addresses import canonical
from users.models import User
from users.signals import registration_repeated


def register(email: str, password: str, locale: str) -> UUID:
    """Register an address, or tell `registration_repeated` where it has an account; return the registration's id.

    Both ways hash the password, which is most of the time it takes, and return an id of the same shape.
    Raises `ValidationError` for what is no address.
    """
    user = User(email=email, locale=locale)
    user.set_password(password)
    owner = _owner_of(email)
    if owner is None:
        try:
            user.save()
        except IntegrityError:  # somebody else was faster
            owner = _owner_of(email)
            if owner is None:
                raise
    if owner is None:
        newest = user.challenges.order_by("-created_at").values_list("pk", flat=True).first()
        return newest or uuid7()
    with transaction.atomic():
        registration_repeated.send(User, user=owner)
    return uuid7()


def _owner_of(email: str) -> User | None:
    return User.objects.filter(email_canonical=canonical(email)).first()
