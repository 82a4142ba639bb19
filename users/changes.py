"""What happens to users, seen wherever they are saved: noted in the audit, and told once it is committed.

`bulk_create` and `update` send no signal, in Django as here: what they change is not seen.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from django.contrib.auth.signals import user_logged_in, user_login_failed
from django.db import transaction
from django.db.models.signals import post_delete, post_save, pre_save
from django.dispatch import Signal

from users import audit
from users.addresses import loosely_canonical
from users.audit import Action
from users.models import User
from users.signals import email_verified, registered, tell

# What is told to others beside being noted.
TOLD: Final = {Action.REGISTERED: registered, Action.VERIFIED: email_verified}
WATCHED: Final = frozenset({"is_active", "email_canonical", "email_verified_at", "password"})


def connect() -> None:
    """Connect the receivers; called once, from `AppConfig.ready`."""
    pre_save.connect(before_save, sender=User, dispatch_uid="users.before_save")
    post_save.connect(after_save, sender=User, dispatch_uid="users.after_save")
    post_delete.connect(after_delete, sender=User, dispatch_uid="users.after_delete")
    user_logged_in.connect(on_login, dispatch_uid="users.on_login")
    user_login_failed.connect(on_failed_login, dispatch_uid="users.on_failed_login")


def before_save(*, instance: User, raw: bool, update_fields: Collection[str] | None, **_: Any) -> None:
    """Note what the save under way changes, by the row as it stands: the object may be older than that."""
    fields = WATCHED if update_fields is None else WATCHED & {*update_fields}
    if raw or not fields or instance.pk is None:
        return
    # Held until the commit, so that of two that ban at once one does.
    rows = User.objects.select_for_update(no_key=True).filter(pk=instance.pk)
    stored = rows.values(*WATCHED).first()
    if stored is None:
        return
    changed = {name for name in fields if getattr(instance, name) != stored[name]}
    # At a login Django makes a new hash of an old password where the parameters are others, and saves that alone.
    if getattr(instance, "_password", None) is None and update_fields is not None and {*update_fields} == {"password"}:
        changed.discard("password")
    for action in _actions(changed, stored, instance):
        _happened(action, instance)


def _actions(changed: Collection[str], stored: Mapping[str, Any], user: User) -> list[Action]:
    """Name what happened to a user of whom these fields are others than in the row."""
    happened = {
        Action.BANNED: "is_active" in changed and not user.is_active,
        Action.UNBANNED: "is_active" in changed and user.is_active,
        Action.ADDRESS_CHANGED: "email_canonical" in changed,
        Action.VERIFIED: "email_verified_at" in changed and stored["email_verified_at"] is None,
        Action.PASSWORD_CHANGED: "password" in changed,
    }
    return [action for action, is_so in happened.items() if is_so]


def after_save(*, instance: User, raw: bool, created: bool, **_: Any) -> None:
    """Note a new user."""
    if created and not raw:
        _happened(Action.REGISTERED, instance)


def after_delete(*, instance: User, **_: Any) -> None:
    """Note that a user is gone."""
    _happened(Action.DELETED, instance)


def on_login(*, user: User, **_: Any) -> None:
    """Note a login, by the API or to the admin."""
    _happened(Action.LOGGED_IN, user)


def on_failed_login(*, credentials: dict[str, Any], **_: Any) -> None:
    """Note a login that failed: an address that nobody has costs the same."""
    address = loosely_canonical(str(credentials.get("username", "")))
    owner = User.objects.filter(email_canonical=address).values_list("pk", flat=True).first()
    audit.note(Action.LOGIN_FAILED, owner)


def _happened(action: Action, user: User) -> None:
    audit.note(action, user)
    if signal := TOLD.get(action):
        _tell_later(signal, user)


def _tell_later(signal: Signal, user: User) -> None:
    transaction.on_commit(lambda: tell(signal, User, user=user), robust=True)
