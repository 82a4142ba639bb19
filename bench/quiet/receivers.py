from typing import Any

from bench.quiet import NO_CHALLENGE, NO_MAIL
from mailer import receivers
from users import challenges
from users.models import EmailChallenge, User


def on_user_saved(*, instance: User, created: bool, **rest: Any) -> None:
    """Do as the mailer does, where the address asks for nothing less."""
    domain = instance.email.rpartition("@")[2]
    if domain not in {NO_MAIL, NO_CHALLENGE}:
        receivers.on_user_saved(instance=instance, created=created, **rest)
    elif created and domain == NO_MAIL:
        challenges.issue(instance, EmailChallenge.Purpose.VERIFY_EMAIL)
