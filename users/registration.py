"""Register and verify, without giving away who is registered already.

Each registration is a challenge, the first of its kind, whether or not the address is free, and one mail: the link to
verify it, or to the owner of a taken address that there is an account. What is asked for again *renews* it. A
registrant watches their own registration and no other, so that whoever registers a taken address sees the course of
the mail to its owner, and nothing else.

Where several register one address before it is verified, the mail of each belongs to the password that each chose:
whose mail it is that is confirmed has the account. So nobody is given an account with the password of somebody who was
there before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from django.contrib.auth.hashers import make_password
from django.core.signing import BadSignature, Signer
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.crypto import constant_time_compare, salted_hmac
from uuid_utils.compat import uuid7

from users import audit, challenges
from users.addresses import canonical
from users.audit import Action
from users.challenges import Outcome
from users.models import ChallengeQuerySet, EmailChallenge, User
from users.signals import challenge_requested, registration_repeated

VERIFY: Final = EmailChallenge.Purpose.VERIFY_EMAIL
RESET: Final = EmailChallenge.Purpose.RESET_PASSWORD
_SIGNER = Signer(salt="users.registration.status")


# --- Register ---------------------------------------------------------------------------------------------


def register(email: str, password: str, locale: str) -> UUID:
    """Register an address; return the registration's id.

    Free or taken, it costs one hash, one challenge and one mail. Whoever repeats a registration with the same password,
    as a client does that got no answer, gets the same one, and another mail if the last is not too young. Of others
    at most `MAILS_A_DAY` mails come of it. Raises `ValidationError` for what is no address.
    """
    address = canonical(email)
    person = {"email": email, "locale": locale, "password": make_password(password, salt=_salt(address))}
    try:
        return _register(address, person)
    except IntegrityError:  # an operator was faster
        return _register(address, person)


@transaction.atomic
def _register(address: str, person: Mapping[str, str]) -> UUID:
    challenges.hold(address)
    owner = _owner_of(address)
    return _first(address, User(**person)) if owner is None else _another(address, person["password"], owner)


def _salt(address: str) -> str:
    """Return the salt for passwords that an address is registered with: so equal ones can be told by their hashes.

    It is nobody else's, which is what a salt is for. 128 bits, as Django asks for.
    """
    return salted_hmac("users.registration.password", address, algorithm="sha256").hexdigest()[:32]


def _owner_of(address: str) -> User | None:
    return User.objects.select_for_update(no_key=True).filter(email_canonical=address).first()


def _asked(address: str) -> ChallengeQuerySet:
    return EmailChallenge.objects.filter(email=address, purpose=VERIFY)


def _registrations(address: str) -> ChallengeQuerySet:
    """Return those that began with a password, newest first."""
    begun = _asked(address).filter(renews=None, superseded_at=None).exclude(user=None, password="")
    return begun.order_by("-created_at")


def _first(address: str, user: User) -> UUID:
    user.save()
    # A query that `_another` has, too: what it costs shows in the time.
    newest = _registrations(address).values_list("pk", flat=True).first()
    return newest or uuid7()


def _another(address: str, encoded: str, owner: User) -> UUID:
    audit.note(Action.REGISTERED_AGAIN, owner)
    # One query, which costs what the row of a new user does: `tests/api/test_timing.py` compares.
    is_live = Q(used_at=None, expires_at__gt=Now())
    is_of_today = Q(created_at__gt=Now() - challenges.DAY)
    earlier = _registrations(address).annotate(is_live=is_live, is_of_today=is_of_today)
    found = [*earlier.values("pk", "password", "is_live", "is_of_today")]
    newest = next((each for each in found if each["is_live"]), None)
    if newest and constant_time_compare(encoded, newest["password"] or owner.password):
        registration = EmailChallenge.objects.get(pk=newest["pk"])
        _renew(address, registration, owner)
        return registration.pk
    registration = challenges.issue(_verifiable(owner), VERIFY, email=address, password=encoded)
    if sum(each["is_of_today"] for each in found) < challenges.MAILS_A_DAY:
        _mail(registration, owner)
    return registration.pk


def _verifiable(owner: User | None) -> User | None:
    return owner if owner is not None and owner.is_active and owner.email_verified_at is None else None


def _mail(challenge: EmailChallenge, owner: User | None) -> None:
    """Have a mail written about a registration: to whom the address belongs, if it is not to be verified."""
    if challenge.user is None and owner is not None:
        registration_repeated.send(User, user=owner, challenge=challenge)
    else:
        challenge_requested.send(EmailChallenge, challenge=challenge)


# --- Ask again --------------------------------------------------------------------------------------------


def request_verification(email_canonical: str) -> None:
    """Have the mail of the registration of an address sent again, if the last one is not too young.

    Where several have registered it, whose password its reader would confirm cannot be told: the mail has them choose
    one, which verifies the address, too. Whoever asks learns nothing about the address: where nobody is to be written
    to, the same rows are written.
    """
    with transaction.atomic():
        challenges.hold(email_canonical)
        owner = _owner_of(email_canonical)
        registrations = [*_registrations(email_canonical)[:2]]
        if len(registrations) > 1 and _verifiable(owner):
            _have_choose(email_canonical, owner)
        else:
            _renew(email_canonical, registrations[0] if registrations else None, owner)


def renew(over: EmailChallenge) -> None:
    """Have the mail of a link that has expired sent again, for the registration that it belongs to.

    That is not always the last one of the address: then it would be confirmed with the password of somebody else.
    """
    with transaction.atomic():
        challenges.hold(over.email)
        owner = _owner_of(over.email)
        # As it is now: a new password, or address, ends what was begun before it.
        registration = EmailChallenge.objects.filter(pk=over.renews_id or over.pk, superseded_at=None).first()
        if registration is not None:
            _renew(over.email, registration, owner)


def _renew(address: str, registration: EmailChallenge | None, owner: User | None) -> None:
    if not challenges.may_ask_again(_asked(address)):
        return
    challenge = challenges.issue(_verifiable(owner), VERIFY, email=address, renews=registration)
    # The owner of an account is told of a registration that is somebody else's; not that they asked once more.
    _mail(challenge, None if registration is None or registration.used_at else owner)


def _have_choose(address: str, owner: User | None) -> None:
    asked = EmailChallenge.objects.filter(email=address, purpose__in=(VERIFY, RESET))
    if challenges.may_ask_again(asked):
        challenge_requested.send(EmailChallenge, challenge=challenges.issue(owner, RESET, email=address))


# --- Verify -----------------------------------------------------------------------------------------------


def verify(token: str) -> Outcome:
    """Verify the address behind a link; of many callers at once exactly one gets `VERIFIED`."""
    return challenges.consume(token, VERIFY, _verify)


def verify_by_code(registration_id: UUID, code: str) -> Outcome:
    """Verify the address of a registration by the code of its newest mail."""
    return challenges.consume_code(_family(registration_id).first(), code, _verify)


def _verify(user: User, challenge: EmailChallenge) -> Outcome:
    password = (challenge.renews or challenge).password
    user.email_verified_at = challenge.used_at
    if password:
        user.password = password
        user.lock_out()
    user.save(update_fields=["email_verified_at", "password"])
    return Outcome.VERIFIED


# --- Watch ------------------------------------------------------------------------------------------------


class Verification(StrEnum):
    """Where a registration stands."""

    PENDING = "pending"
    VERIFIED = "verified"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Registration:
    """What a registrant may know: where it stands, and the challenge of its newest mail."""

    verification: Verification
    newest: EmailChallenge


def status_token(registration_id: UUID) -> str:
    """Return the token by which a registrant watches a registration. It is good for nothing else."""
    return f"{registration_id.hex}.{_SIGNER.signature(registration_id.hex)}"


def is_status_token(token: str, registration_id: UUID) -> bool:
    """Tell whether a token is that of a registration."""
    identifier, _, signature = token.partition(".")
    try:
        _SIGNER.unsign(f"{registration_id.hex}:{signature}")
    except BadSignature:
        return False
    return identifier == registration_id.hex


def read(registration_id: UUID) -> Registration | None:
    """Return a registration as its registrant may see it, or None where it is kept no more."""
    family = [*_family(registration_id).select_related("user")]
    if not family:
        return None
    first, newest = family[-1], family[0]
    # The one that made the account is verified with it, in whatever way.
    made_it = first.user if first.renews_id is None and not first.password else None
    if any(each.used_at for each in family) or (made_it and made_it.email_verified_at):
        return Registration(Verification.VERIFIED, newest)
    over = EmailChallenge.objects.filter(pk=newest.pk, expires_at__lte=Now()).exists()
    return Registration(Verification.EXPIRED if over else Verification.PENDING, newest)


def _family(registration_id: UUID) -> ChallengeQuerySet:
    """Return a registration and what renews it, newest first."""
    own = Q(pk=registration_id, renews=None) | Q(renews=registration_id)
    return EmailChallenge.objects.filter(own, purpose=VERIFY).order_by("-created_at", "-pk")
