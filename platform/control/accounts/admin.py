"""Pages of accounts, people and API tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth.models import Group
from django.contrib.auth.password_validation import validate_password
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.utils.module_loading import import_string
from django.utils.translation import gettext_lazy as _

from control.access import Verb, can
from control.accounts.login import PanelLoginForm
from control.accounts.models import Account, ApiToken, User
from control.accounts.services import seal_token
from control.admin_base import PolicyAdmin, VersionedForm, change_of
from control.audit.choices import Action
from control.holdable import Holdable
from control.panel import actor_of

admin.site.login_form = PanelLoginForm
admin.site.unregister(Group)  # control.access decides; groups would decide nothing


@admin.register(Account)
class AccountAdmin(Holdable, PolicyAdmin):
    """Companies that send."""

    hold_scope = "account"
    list_display = ("id", "title", "login_name", "is_active", "default_sender", "user_count")
    list_display_links = ("id", "title")
    list_filter = ("is_active",)
    list_select_related = ("default_sender",)
    actions = ("hold", "delete_selected")
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
    sends_welcome = forms.BooleanField(
        label=_("Send an email with access to the user"),
        required=False,
        initial=True,
        help_text=_("To the contact email address, with a link that sets the password."),
    )

    def clean_new_password(self) -> str:
        """Refuse a weak password."""
        password: str = self.cleaned_data["new_password"]
        if password:
            validate_password(password, self.instance)
        return password

    def clean(self) -> dict[str, Any] | None:
        """Refuse somebody new who could not get in."""
        cleaned = super().clean()
        if cleaned and self.instance.pk is None and "new_password" in cleaned:
            is_invited = cleaned.get("sends_welcome") and cleaned.get("email")
            if not cleaned["new_password"] and not is_invited:
                said = _("A new user needs a password, or an address for the email with access.")
                self.add_error("new_password", said)
        return cleaned


@admin.register(User)
class UserAdmin(PolicyAdmin):
    """Administrators and account users. Only master administrators manage administrators."""

    form = UserForm
    actions = ("send_welcome", "delete_selected")
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
        "sends_welcome",
        "last_login",
    )
    readonly_fields = ("last_login",)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Offer the welcome to somebody new; others get theirs again from the list."""
        fields = super().get_fields(request, obj)
        return [name for name in fields if obj is None or name != "sends_welcome"]

    def create_row(self, request: HttpRequest, obj: Any, form: Any) -> None:
        # Without one nobody can log in until the link of the welcome has set it.
        obj.set_password(form.cleaned_data["new_password"] or None)
        super().create_row(request, obj, form)
        if form.cleaned_data.get("sends_welcome"):
            self._welcome(request, obj)

    def update_row(self, request: HttpRequest, obj: Any, form: Any) -> None:
        if password := form.cleaned_data["new_password"]:
            obj.set_password(password)
            obj.save(update_fields=["password"])
            change_of(request).note(Action.REPLACED, obj, after={"password": "set"})
        super().update_row(request, obj, form)

    def has_welcome_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return can(actor_of(request), Verb.CHANGE, User)

    @admin.action(
        description=_("Send the email with access again, to selected users"),
        permissions=["welcome"],
    )
    def send_welcome(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        """Send links to those whom the operator may change."""
        for user in queryset:
            if can(actor_of(request), Verb.CHANGE, user):
                self._welcome(request, user)
            else:
                said = _("Your account may not send %s access.") % user
                self.message_user(request, said, messages.ERROR)

    def _welcome(self, request: HttpRequest, user: User) -> None:
        """Owe the mail, and say whether it will be sent."""
        send: Callable[[User], str] = import_string(settings.WELCOME)
        if not user.email:
            why = str(_("there is no contact email address"))
        elif not user.is_active:
            why = str(_("the user is not active"))
        else:
            why = send(user)
        if not why:
            sent = _("Access is sent to %s.") % user.email
            self.message_user(request, sent, messages.SUCCESS)
            return
        said = str(_("No access was sent to %(user)s: %(why)s.") % {"user": user, "why": why})
        if not user.has_usable_password():
            hint = _("They cannot log in until you set a password on their page, or send access.")
            said = f"{said} {hint}"
        self.message_user(request, said, messages.WARNING)

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
