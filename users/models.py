"""People, and the proofs of an address asked of them."""

from collections.abc import Collection, Iterable
from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _
from uuid_utils.compat import uuid7

from users.addresses import MAX_LENGTH, canonical, loosely_canonical


class UserManager(BaseUserManager["User"]):
    """Makes users and finds them by any spelling of their address."""

    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """Save a new user. Raises `ValidationError` for a bad address, `IntegrityError` for a taken one."""
        user = self.model(email=email, **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """Save a new user who may do everything; called by `manage.py createsuperuser`."""
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)

    def get_by_natural_key(self, username: str | None) -> "User":
        """Find by address, however it is spelled: this is what login calls."""
        return self.get(email_canonical=loosely_canonical(username or ""))


class User(AbstractBaseUser, PermissionsMixin):
    """Somebody with an address, which is also the login."""

    email = models.EmailField(_("email address"), max_length=MAX_LENGTH, unique=True)
    email_canonical = models.CharField(max_length=MAX_LENGTH, unique=True, editable=False)
    email_verified_at = models.DateTimeField(_("address verified at"), null=True, blank=True)
    locale = models.CharField(_("language"), max_length=16, default="en")
    is_active = models.BooleanField(_("active"), default=True)
    is_staff = models.BooleanField(_("may use the admin"), default=False)
    is_service = models.BooleanField(
        _("is a program"),
        default=False,
        db_default=False,
        editable=False,
        help_text=_("It has tokens and no password, and is never mailed."),
    )
    date_joined = models.DateTimeField(_("joined at"), db_default=Now(), editable=False)

    objects: ClassVar[UserManager] = UserManager()

    EMAIL_FIELD = "email"
    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        verbose_name = _("user")
        verbose_name_plural = _("users")

    # Whether the address was verified when this row was last read or written: see `newly_verified`.
    _was_verified = False

    def __str__(self) -> str:
        return f"user {self.pk}"

    @classmethod
    def from_db(cls, db: str | None, field_names: Collection[str], values: Collection[Any], **kwargs: Any) -> "User":
        """Remember, as the row is read, whether the address was verified."""
        user = super().from_db(db, field_names, values, **kwargs)
        user._was_verified = user.__dict__.get("email_verified_at") is not None  # noqa: SLF001  # its own
        return user

    @property
    def newly_verified(self) -> bool:
        """Whether the save under way is the one that sets `email_verified_at`."""
        return not self._was_verified and self.__dict__.get("email_verified_at") is not None

    def validate_unique(self, exclude: Collection[str] | None = None) -> None:
        """Refuse, for forms, an address with no canonical form, or with one that another user has."""
        super().validate_unique(exclude)
        if "email" in (exclude or ()):
            return
        try:
            others = User.objects.exclude(pk=self.pk).filter(email_canonical=canonical(self.email))
        except ValidationError as error:
            raise ValidationError({"email": error.messages}) from error
        if others.exists():
            raise ValidationError({"email": self.unique_error_message(User, ("email",))})

    def save(
        self,
        *,
        force_insert: bool | tuple[models.base.ModelBase, ...] = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Iterable[str] | None = None,
    ) -> None:
        """Save, and whatever `post_save` writes, in one transaction.

        Raises `ValidationError` when the address is none.
        """
        fields = None if update_fields is None else {*update_fields}
        if fields is None or "email" in fields:
            self.email = self.email.strip()
            self.email_canonical = canonical(self.email)
            fields = fields and fields | {"email_canonical"}
        with transaction.atomic(using=using):
            super().save(force_insert=force_insert, force_update=force_update, using=using, update_fields=fields)
        if fields is None or "email_verified_at" in fields:
            transaction.on_commit(self._remember_verified, using=using)

    def _remember_verified(self) -> None:
        """Keep what is committed: after a rollback the next save is the one that sets it, again."""
        self._was_verified = self.email_verified_at is not None

    def refresh_from_db(
        self,
        using: str | None = None,
        fields: Iterable[str] | None = None,
        from_queryset: models.QuerySet["User"] | None = None,
    ) -> None:
        """Read the row again, and remember anew whether the address was verified."""
        super().refresh_from_db(using, fields, from_queryset)
        if fields is None or "email_verified_at" in fields:
            self._was_verified = self.email_verified_at is not None


class EmailChallenge(models.Model):
    """A proof of an address that was asked for. Nothing secret is in the row: see `users.challenges`."""

    class Purpose(models.TextChoices):
        """What a challenge lets its holder do."""

        VERIFY_EMAIL = "verify_email", _("verify an address")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="challenges")
    purpose = models.CharField(max_length=32, choices=Purpose)
    email = models.CharField(max_length=MAX_LENGTH, help_text=_("The canonical address it was asked for."))
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)
    superseded_at = models.DateTimeField(null=True)
    attempts = models.PositiveSmallIntegerField(default=0)

    class Meta:
        verbose_name = _("challenge")
        verbose_name_plural = _("challenges")
        indexes: ClassVar = [models.Index(fields=["user", "-created_at"], name="challenge_user_newest")]

    def __str__(self) -> str:
        return f"challenge {self.pk}"


class AuditEntry(models.Model):
    """Something that happened to an account: written with it, in its transaction, and never changed (`users.audit`).

    Nothing in it is an address or a secret, and it outlives its user.
    """

    class Action(models.TextChoices):
        """What happened."""

        REGISTERED = "registered", _("registered")
        REGISTERED_AGAIN = "registered_again", _("somebody registered the address again")
        VERIFIED = "verified", _("verified the address")
        ADDRESS_CHANGED = "address_changed", _("the address was changed")
        PASSWORD_CHANGED = "password_changed", _("the password was changed")
        PASSWORD_RESET = "password_reset", _("reset the password by a mail")
        LOGGED_IN = "logged_in", _("logged in")
        LOGIN_FAILED = "login_failed", _("failed to log in")
        TOKEN_MADE = "token_made", _("a token was made by an operator")
        TOKEN_REVOKED = "token_revoked", _("a token was revoked")
        BANNED = "banned", _("was banned")
        UNBANNED = "unbanned", _("was let in again")
        DELETED = "deleted", _("was deleted")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    at = models.DateTimeField(db_default=Now(), help_text=_("By the database's clock."))
    action = models.CharField(max_length=32, choices=Action)
    user_id = models.BigIntegerField(null=True, help_text=_("Whose account; none where nobody has the address."))
    actor_id = models.BigIntegerField(null=True, help_text=_("Who was logged in and did it, if anybody was."))
    ip = models.GenericIPAddressField(null=True, help_text=_("Where the request came from."))
    user_agent = models.CharField(max_length=200, help_text=_("What the client called itself, cut off."))

    class Meta:
        verbose_name = _("audit entry")
        verbose_name_plural = _("audit entries")
        default_permissions = ("view",)
        indexes: ClassVar = [
            models.Index(fields=["user_id", "-id"], name="audit_user_newest"),
            models.Index(fields=["action", "-id"], name="audit_action_newest"),
            models.Index(fields=["at"], name="audit_oldest"),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.pk}"
