"""Make a user that is a program, with a token and no password."""

import re
from argparse import ArgumentParser
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final

from django.contrib.auth.models import Permission
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.db.models import Value
from django.db.models.functions import Concat

from users import tokens
from users.addresses import SERVICE_DOMAIN
from users.models import User

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class Command(BaseCommand):
    """Make a service user, or give it another token."""

    help = (
        "Make a user for a program that calls the API: with the permissions named and no others, no password, and an "
        "address that is never mailed. Its token is printed once, alone, on stdout. With --rotate, the user is there "
        "already and gets another token in place of those it has."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the name, what it may do, and for how long."""
        parser.add_argument("name", help="of the program: small letters, digits and hyphens")
        parser.add_argument(
            "--permission",
            action="append",
            default=[],
            dest="permissions",
            metavar="APP.NAME",
            help="what it may do, such as mailer.view_deliverystatus; repeat it. With --rotate: instead of what it may",
        )
        parser.add_argument(
            "--days", type=float, default=365, metavar="N", help="how long the token lives (default: 365; 0: for ever)"
        )
        parser.add_argument("--rotate", action="store_true", help="give the user that is there another token")
        parser.add_argument(
            "--overlap-hours",
            type=float,
            default=0,
            metavar="N",
            help="with --rotate: let the tokens before live for N hours more (default: 0)",
        )

    def handle(
        self, *, name: str, permissions: list[str], days: float, rotate: bool, overlap_hours: float, **_: Any
    ) -> None:
        """Do it, and print the token."""
        if not _NAME.fullmatch(name):
            raise CommandError("A name has small letters, digits and hyphens, 63 at most.")
        if not (days >= 0 and overlap_hours >= 0):  # also true of NaN
            raise CommandError("--days and --overlap-hours cannot be negative.")
        if not (rotate or permissions):
            raise CommandError("Name what it may do: --permission mailer.view_deliverystatus")
        granted = _permissions(permissions)
        with transaction.atomic():
            user = self._present(name) if rotate else self._new(name)
            if granted:
                user.user_permissions.set(granted)
            if rotate:
                tokens.retire(user, timedelta(hours=overlap_hours))
            token = tokens.hand_out(user, timedelta(days=days) if days else None)
        self.stderr.write(f"Service user {name} (id {user.pk}) may: {', '.join(sorted(user.get_all_permissions()))}")
        self.stdout.write(token)

    @staticmethod
    def _new(name: str) -> User:
        address = f"{name}@{SERVICE_DOMAIN}"
        if User.objects.filter(email_canonical=address).exists():
            raise CommandError(f"There is a service user {name}. For another token of it: --rotate")
        return User.objects.create_user(address, is_service=True)

    @staticmethod
    def _present(name: str) -> User:
        rows = User.objects.select_for_update(no_key=True)
        user = rows.filter(email_canonical=f"{name}@{SERVICE_DOMAIN}", is_service=True).first()
        if user is None:
            raise CommandError(f"There is no service user {name}.")
        if not user.is_active:
            raise CommandError(f"The service user {name} is locked out.")
        return user


def _permissions(names: Iterable[str]) -> list[Permission]:
    """Return the permissions of these names. Raises `CommandError`, which lists all, for one that does not exist."""
    full = Concat("content_type__app_label", Value("."), "codename")
    known = {each.full: each for each in Permission.objects.annotate(full=full).order_by("full")}
    unknown = [name for name in names if name not in known]
    if unknown:
        listed = "\n  ".join(known)
        raise CommandError(f"There is no permission {', '.join(unknown)}. There are:\n  {listed}")
    return [known[name] for name in dict.fromkeys(names)]
