"""Accounts, the people of both kinds, and the API tokens of programs.

One `User` table: an administrator has no account, an account user has one (design.md section 8).
"""

from __future__ import annotations

import zoneinfo
from typing import Any, ClassVar

from django.apps import apps
from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from control.access import READ, AccessRule, Actor, ApiScope, Verb, can
from control.accounts.choices import Language, ReportsByMail
from control.fields import ChoiceArrayField, SecondsField, Unit, check_slug
from control.rows import PolicyModel

MIB = 1024 * 1024
check_login = RegexValidator(
    r"\A[A-Za-z0-9][A-Za-z0-9._+-]*(@[a-z0-9-]+)?\Z",
    _("Use letters, digits and . _ + -; an account user adds @ and the account's login name."),
)


class Account(PolicyModel):
    """A company that sends."""

    access = AccessRule(account_user=READ, account_path="id")

    title = models.CharField(_("title"), max_length=120)
    login_name = models.CharField(
        _("login name"),
        max_length=63,
        unique=True,
        validators=[check_slug],
        help_text=_("The account's name in logins (user@login-name), events and statistics."),
    )
    is_active = models.BooleanField(
        _("active"), default=True, help_text=_("An inactive account's submissions are refused.")
    )
    time_zone = models.CharField(_("time zone"), max_length=64, default="UTC")
    default_sender = models.ForeignKey(
        "senders.Sender",
        verbose_name=_("default sender"),
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="default_of",
        help_text=_("Sends what names no sender."),
    )
    lifetime_s = SecondsField(
        _("message lifetime (hours)"),
        unit=Unit.HOURS,
        default=86400.0,
        help_text=_("A message that is not delivered by then expires."),
    )
    max_message_bytes = models.PositiveIntegerField(
        _("largest message (bytes)"),
        default=25 * MIB,
        validators=[MinValueValidator(1024), MaxValueValidator(1024 * MIB)],
    )
    max_recipients = models.PositiveIntegerField(
        _("most recipients of a message"),
        default=1000,
        validators=[MinValueValidator(1), MaxValueValidator(100_000)],
    )
    reports_by_mail = models.CharField(
        _("reports by mail"),
        max_length=8,
        choices=ReportsByMail,
        default=ReportsByMail.DSN,
        help_text=_(
            "Mail that came by SMTP and fails is reported to its sender by mail. Events only: no "
            "report is sent, whatever the message asks for. Mail by HTTP never has one."
        ),
    )
    alert_email = models.EmailField(
        _("alerts go to"), blank=True, help_text=_("Empty: the account gets no alerts by mail.")
    )
    alerts_complaints = models.BooleanField(
        _("alert: complaints"), default=True, help_text=_("Above the threshold of the alert rule.")
    )
    alerts_hard_bounces = models.BooleanField(_("alert: hard bounces"), default=True)
    alerts_soft_bounces = models.BooleanField(_("alert: soft bounces"), default=True)

    class Meta:
        verbose_name = _("account")
        verbose_name_plural = _("accounts")
        ordering = ["login_name"]

    def __str__(self) -> str:
        return self.title

    def clean(self) -> None:
        """Refuse an unknown time zone and a sender that is not the account's."""
        if self.time_zone not in zoneinfo.available_timezones():
            raise ValidationError(
                {"time_zone": _("There is no time zone of this name, as in Europe/Berlin.")}
            )
        if self.lifetime_s is not None and self.lifetime_s < 1:
            raise ValidationError({"lifetime_s": _("A message must live at least a second.")})


class UserManager(BaseUserManager["User"]):
    """Makes users with a hashed password."""

    def create_user(self, username: str, password: str | None = None, **fields: Any) -> User:
        """Store and return a user; without a password nobody can log in as them."""
        user = self.model(username=username, **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, username: str, password: str | None = None, **fields: Any) -> User:
        """Store and return a master administrator."""
        return self.create_user(username, password, is_master=True, **fields)


class User(AbstractBaseUser, PolicyModel):
    """A person: an administrator (no account), or an account user."""

    access = AccessRule(account_user=READ, account_path="account", master_row="is_staff")
    affects_policy = False
    unaudited = frozenset({"password", "last_login"})

    username = models.CharField(_("login"), max_length=150, unique=True, validators=[check_login])
    account = models.ForeignKey(
        Account,
        verbose_name=_("account"),
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="users",
        help_text=_("Empty for an administrator."),
    )
    is_master = models.BooleanField(
        _("master administrator"),
        default=False,
        help_text=_("May manage the other administrators."),
    )
    is_active = models.BooleanField(_("active"), default=True)
    first_name = models.CharField(_("first name"), max_length=80, blank=True)
    last_name = models.CharField(_("last name"), max_length=80, blank=True)
    email = models.EmailField(_("contact email address"), blank=True)
    phone = models.CharField(_("contact phone number"), max_length=40, blank=True)
    language = models.CharField(_("language"), max_length=8, choices=Language, default=Language.EN)
    must_change_password = models.BooleanField(_("must change password"), default=False)

    objects = UserManager()
    USERNAME_FIELD = "username"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        verbose_name = _("user")
        verbose_name_plural = _("users")
        ordering = ["username"]
        constraints = [
            models.CheckConstraint(
                condition=Q(is_master=False) | Q(account__isnull=True),
                name="user_master_has_no_account",
                violation_error_message=_("A master administrator belongs to no account."),
            )
        ]

    def __str__(self) -> str:
        return self.username

    def clean(self) -> None:
        """An account user's login ends in @ and the account's login name."""
        super().clean()
        name, at, account_name = self.username.partition("@")
        if self.account is not None and account_name != self.account.login_name:
            hint = f"{name or 'name'}@{self.account.login_name}"
            raise ValidationError(
                {"username": _("The login of this account's users is %s.") % hint}
            )
        if self.account is None and at:
            raise ValidationError({"username": _("An administrator's login has no @.")})

    @property
    def is_staff(self) -> bool:
        """Whether the panel of the administrators is theirs (Django's word for it)."""
        return self.account_id is None

    @property
    def is_superuser(self) -> bool:
        """Django's word for a master administrator."""
        return self.is_master and self.account_id is None

    def has_perm(self, perm: str, obj: models.Model | None = None) -> bool:
        """Answer Django's "app.verb_model" through control.access."""
        app_label, _dot, codename = perm.partition(".")
        verb, _underscore, model_name = codename.partition("_")
        try:
            target = obj or apps.get_model(app_label, model_name)
            return can(Actor.of_user(self), Verb(verb), target)
        except (LookupError, ValueError):
            return False

    def has_module_perms(self, app_label: str) -> bool:
        """Administrators see every app; what is in it is decided row by row."""
        return self.is_active and self.is_staff

    def get_full_name(self) -> str:
        """Return the person's name, or the login."""
        return f"{self.first_name} {self.last_name}".strip() or self.username

    def get_short_name(self) -> str:
        """Return the first name, or the login."""
        return self.first_name or self.username


class ApiToken(PolicyModel):
    """A program's credential: kept as a hash, scoped, expiring, shown once."""

    access = AccessRule(account_user=READ, account_path="account")
    affects_policy = False
    unaudited = frozenset({"token_hash"})

    name = models.CharField(_("name"), max_length=120, unique=True)
    account = models.ForeignKey(
        Account,
        verbose_name=_("account"),
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="tokens",
        help_text=_("Empty for a token that administers the installation."),
    )
    scopes = ChoiceArrayField(
        models.CharField(max_length=40, choices=ApiScope), verbose_name=_("may be used for")
    )
    is_active = models.BooleanField(_("active"), default=True)
    prefix = models.CharField(_("begins with"), max_length=16, editable=False)
    token_hash = models.CharField(max_length=64, unique=True, editable=False)
    expires_at = models.DateTimeField(_("expires at"), null=True, blank=True)
    last_used_at = models.DateTimeField(_("last used at"), null=True, editable=False)

    class Meta:
        verbose_name = _("API token")
        verbose_name_plural = _("API tokens")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Administration is not an account's business, and mail is not the installation's."""
        scopes = set(self.scopes or [])
        if self.account_id is not None and ApiScope.ADMIN in scopes:
            raise ValidationError({"scopes": _("An account's token cannot administer.")})
        if self.account_id is not None and ApiScope.METRICS in scopes:
            raise ValidationError({"scopes": _("Metrics are of the whole installation.")})
        if self.account_id is None and scopes - {ApiScope.ADMIN, ApiScope.METRICS}:
            raise ValidationError({"account": _("Mail is sent and read for an account: name it.")})

    def is_valid_at(self, now: Any = None) -> bool:
        """Whether the token may be used now (or at `now`)."""
        moment = now or timezone.now()
        return self.is_active and (self.expires_at is None or moment < self.expires_at)
