"""People, for operators."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.core.exceptions import ValidationError
from django.db import models
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from users import limits
from users.addresses import loosely_canonical
from users.models import AuditEntry, User


class LimitedLogin(AdminAuthenticationForm):
    """The admin's login, limited like the API's: it takes the same passwords."""

    def clean(self) -> dict[str, Any]:
        """Try the password, unless too many were tried from this client or for this account."""
        assert self.request is not None  # noqa: S101  # the login's view gives it
        client = limits.client_key(self.request.META.get("REMOTE_ADDR", ""))
        account = loosely_canonical(self.cleaned_data.get("username", ""))
        if not (limits.permits("login_ip", client) and limits.permits("login_account", account)):
            raise ValidationError(_("Too many attempts. Try again later."), code="throttled")
        return super().clean()


admin.site.login_form = LimitedLogin


@admin.register(User)
class UserAdmin(DjangoUserAdmin[User]):
    """Users by address."""

    ordering = ("-pk",)
    list_display = ("email", "email_verified_at", "is_active", "is_staff", "date_joined")
    list_filter = ("is_active", "is_staff", "is_service")
    search_fields = ("email_canonical",)
    readonly_fields = ("date_joined", "last_login", "is_service")
    fieldsets = (
        (None, {"fields": ("email", "password", "email_verified_at", "locale")}),
        (
            _("Permissions"),
            {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")},
        ),
        (_("Dates"), {"fields": ("date_joined", "last_login", "is_service")}),
    )
    add_fieldsets = ((None, {"fields": ("email", "usable_password", "password1", "password2")}),)

    def formfield_for_dbfield(
        self, db_field: models.Field[Any, Any], request: HttpRequest, **kwargs: Any
    ) -> forms.Field | None:
        """Offer the languages that mails are written in; the model takes any, so that one may be dropped.

        Each field brings what it showed back with it: so what the operator changed is told from what changed meanwhile.
        """
        field: forms.Field | None
        if db_field.name == "locale":
            field = forms.ChoiceField(choices=settings.LANGUAGES, label=db_field.verbose_name)
        else:
            field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field:
            field.show_hidden_initial = True
        return field

    def save_model(self, request: HttpRequest, obj: User, form: forms.ModelForm[User], change: bool) -> None:  # noqa: FBT001  # Django's
        """Save what the operator has changed, and nothing that changed since the page was opened, such as a ban."""
        if not change:
            super().save_model(request, obj, form, change)
            return
        columns = {field.name for field in obj._meta.concrete_fields}
        left = form.cleaned_data.keys() - {*form.changed_data}
        for name in left:
            del form.cleaned_data[name]  # nor are groups and permissions saved
        obj.refresh_from_db(fields=left & columns)
        obj.save(update_fields=columns & {*form.changed_data})


@admin.register(AuditEntry)
class AuditEntryAdmin(admin.ModelAdmin[AuditEntry]):
    """What happened to accounts, newest first. Nobody writes it by hand."""

    list_display = ("at", "action", "user_id", "actor_id", "ip", "user_agent")
    list_filter = ("action",)
    search_fields = ("=user_id", "=ip")
    ordering = ("-id",)
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Refuse."""
        del request
        return False

    def has_change_permission(self, request: HttpRequest, obj: AuditEntry | None = None) -> bool:
        """Refuse."""
        del request, obj
        return False

    def has_delete_permission(self, request: HttpRequest, obj: AuditEntry | None = None) -> bool:
        """Refuse."""
        del request, obj
        return False
