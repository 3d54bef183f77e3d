"""Pages of accounts, people and API tokens."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import Group
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from control.access import Verb
from control.accounts.login import PanelLoginForm
from control.accounts.models import Account, ApiToken, User
from control.accounts.services import seal_token
from control.admin_base import PolicyAdmin, VersionedForm, change_of
from control.audit.choices import Action
from control.panel import actor_of

admin.site.login_form = PanelLoginForm
admin.site.unregister(Group)  # control.access decides; groups would decide nothing


@admin.register(Account)
class AccountAdmin(PolicyAdmin):
    """Companies that send."""

    list_display = ("id", "title", "login_name", "is_active", "default_sender", "user_count")
    list_display_links = ("id", "title")
    list_filter = ("is_active",)
    list_select_related = ("default_sender",)
    search_fields = ("title", "login_name")
    autocomplete_fields = ("default_sender",)
    exclude = ("time_zone",)  # for the account users' own site

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        counted: QuerySet[Any] = rows.annotate(users_counted=Count("users"))
        return counted

    @admin.display(description=_("users"))
    def user_count(self, account: Any) -> int:
        return int(account.users_counted)


class UserForm(VersionedForm):
    """A person; the password can be set, never seen."""

    new_password = forms.CharField(
        label=_("Set password"),
        required=False,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text=_("At least 12 characters. Empty: it stays as it is."),
    )

    def clean_new_password(self) -> str:
        """Refuse a weak password, and none at all for somebody new."""
        password: str = self.cleaned_data["new_password"]
        if password:
            validate_password(password, self.instance)
        elif self.instance.pk is None:
            raise ValidationError(_("A new user needs a password."))
        return password


@admin.register(User)
class UserAdmin(PolicyAdmin):
    """Administrators and account users. Only master administrators manage administrators."""

    form = UserForm
    list_display = ("id", "username", "get_full_name", "account", "is_master", "is_active")
    list_display_links = ("id", "username")
    list_filter = ("is_active", "is_master", ("account", admin.RelatedOnlyFieldListFilter))
    list_select_related = ("account",)
    search_fields = ("username", "first_name", "last_name", "email")
    autocomplete_fields = ("account",)
    fields = (
        "username",
        "account",
        ("is_active", "is_master"),
        ("first_name", "last_name"),
        ("email", "phone"),
        ("new_password", "must_change_password"),
        "last_login",
    )
    readonly_fields = ("last_login",)

    def create_row(self, request: HttpRequest, obj: Any, form: Any) -> None:
        obj.set_password(form.cleaned_data["new_password"])
        super().create_row(request, obj, form)

    def update_row(self, request: HttpRequest, obj: Any, form: Any) -> None:
        if password := form.cleaned_data["new_password"]:
            obj.set_password(password)
            obj.save(update_fields=["password"])
            change_of(request).note(Action.REPLACED, obj, after={"password": "set"})
        super().update_row(request, obj, form)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes themselves: the last one would lock everybody out."""
        is_self = obj is not None and obj.pk == actor_of(request).user_id
        return not is_self and self._may(request, Verb.DELETE, obj)


class ApiTokenForm(VersionedForm):
    """A token; its secret is drawn here and shown once."""

    replace = forms.BooleanField(
        label=_("Replace the token"),
        required=False,
        help_text=_("Draws a new one and shows it once; the old one ends at once."),
    )


@admin.register(ApiToken)
class ApiTokenAdmin(PolicyAdmin):
    """Credentials of programs."""

    form = ApiTokenForm
    list_display = ("id", "name", "prefix", "account", "scopes", "is_active", "expires_at")
    list_display_links = ("id", "name")
    list_filter = ("is_active", ("account", admin.RelatedOnlyFieldListFilter))
    list_select_related = ("account",)
    search_fields = ("name", "prefix")
    autocomplete_fields = ("account",)
    readonly_fields = ("prefix", "last_used_at")
    fields = ("name", "account", "scopes", "is_active", "expires_at", "replace", "prefix")

    def create_row(self, request: HttpRequest, obj: Any, form: Any) -> None:
        clear = seal_token(obj)
        super().create_row(request, obj, form)
        self._show_once(request, clear)

    def update_row(self, request: HttpRequest, obj: Any, form: Any) -> None:
        super().update_row(request, obj, form)
        if form.cleaned_data.get("replace"):
            clear = seal_token(obj)
            obj.save(update_fields=["prefix", "token_hash"])
            self._show_once(request, clear)

    def _show_once(self, request: HttpRequest, clear: str) -> None:
        text = _("The token, shown only now: %s") % clear
        self.message_user(request, text, messages.WARNING)
