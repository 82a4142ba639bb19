"""Register, without giving away who is registered already."""

from uuid import UUID

from django.db import IntegrityError, transaction
from uuid_utils.compat import uuid7

from users import audit, challenges
from users.addresses import canonical
from users.audit import Action
from users.models import User
from users.signals import registration_repeated


def register(email: str, password: str, locale: str) -> UUID:
    """Register an address; return the registration's id.

    Where the address has an account already, `registration_repeated` is told, or a new link asked for if it is not
    verified yet.
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
    audit.note(Action.REGISTERED_AGAIN, owner)
    if owner.email_verified_at is None:
        challenges.request_verification(owner.email_canonical)  # the first mail may have been lost
    else:
        with transaction.atomic():
            registration_repeated.send(User, user=owner)
    return uuid7()


def _owner_of(email: str) -> User | None:
    return User.objects.filter(email_canonical=canonical(email)).first()
