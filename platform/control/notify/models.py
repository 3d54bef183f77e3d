"""How system mail leaves, what is owed of it, what is watched, and what was found."""

from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import (
    MaxValueValidator,
    MinValueValidator,
    RegexValidator,
    validate_email,
)
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from control.access import READ, READ_ONLY, AccessRule, Verb
from control.fields import LinesField, SecondsField, Unit, check_one_line, clean_domain
from control.notify.choices import AlertKind, AlertState, NoticeKind, NoticeState
from control.rows import PolicyModel

EDITED = AccessRule(
    admin=frozenset({Verb.VIEW, Verb.CHANGE}), master=frozenset({Verb.VIEW, Verb.CHANGE})
)
check_host = RegexValidator(
    r"\A[A-Za-z0-9][A-Za-z0-9.:-]{0,252}\Z", _("Give a host name or an address, without a port.")
)


class SystemMail(PolicyModel):
    """Who system mail is from and how it leaves: through our own queue, or by a relay. One row.

    Of the reference's NOREPLY_MAILER every field is here, under the names of this product.
    """

    access = EDITED
    affects_policy = False
    unaudited = frozenset({"secret_ref"})

    email = models.EmailField(
        _("sender address"),
        blank=True,
        help_text=_("What system mail is from. Empty: none is sent."),
    )
    display_name = models.CharField(
        _("sender name"), max_length=80, default="Postfleet", validators=[check_one_line]
    )
    account = models.ForeignKey(
        "accounts.Account",
        verbose_name=_("account"),
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text=_(
            "Own path: the account that sends. The sender address must be of one of its sending "
            "domains."
        ),
    )
    sender = models.ForeignKey(
        "senders.Sender",
        verbose_name=_("virtual sender"),
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text=_("Own path. Empty: the account's default sender."),
    )
    relay_host = models.CharField(
        _("relay"),
        max_length=253,
        blank=True,
        validators=[check_host],
        help_text=_("A mail server that takes our mail. Empty: it leaves on our own path."),
    )
    relay_port = models.PositiveIntegerField(
        _("port"),
        default=25,
        validators=[MinValueValidator(1), MaxValueValidator(65535)],
        help_text=_("465: TLS from the first byte; any other: STARTTLS."),
    )
    relay_login = models.CharField(
        _("login"),
        max_length=200,
        blank=True,
        validators=[check_one_line],
        help_text=_("Empty: the relay asks for none."),
    )
    secret_ref = models.CharField(max_length=80, default="system-mail", editable=False)
    relay_helo = models.CharField(
        _("HELO name"),
        max_length=253,
        blank=True,
        help_text=_("Empty: this host's name, as its PTR record gives it."),
    )
    is_insecure = models.BooleanField(
        _("do not verify the certificate"),
        default=False,
        help_text=_("Takes any certificate: anybody on the way can then read mail and password."),
    )
    without_tls = models.BooleanField(
        _("without TLS"),
        default=False,
        help_text=_("Never encrypt, not even the password. For a relay on a trusted line."),
    )
    alert_to = LinesField(
        models.EmailField(),
        verbose_name=_("alerts of the installation go to"),
        default=list,
        blank=True,
        help_text=_(
            "One address per line. Empty: the contact address of every active administrator."
        ),
    )
    remind_after_s = SecondsField(
        _("remind of an open alert after (hours)"),
        unit=Unit.HOURS,
        default=12 * 3600.0,
        help_text=_("0: never."),
    )

    class Meta:
        verbose_name = _("system mail")
        verbose_name_plural = _("system mail")

    def __str__(self) -> str:
        return self.email or str(_("not set up"))

    def clean(self) -> None:
        """Refuse a way that cannot lead anywhere, naming the field."""
        for address in self.alert_to or []:
            try:
                validate_email(address)
            except ValidationError as exc:
                raise ValidationError({"alert_to": f"{address!r}: {exc.messages[0]}"}) from exc
        if self.relay_helo:
            try:
                self.relay_helo = clean_domain(self.relay_helo)
            except ValidationError as exc:
                raise ValidationError({"relay_helo": exc.messages}) from exc
        if self.email and not self.relay_host:
            self._check_own_path()

    def _check_own_path(self) -> None:
        if self.account is None:
            raise ValidationError(
                {"account": _("Without a relay, name the account that sends system mail.")}
            )
        domain = self.email.rpartition("@")[2].lower()
        domains = self.account.sending_domains
        if not domains.filter(domain=domain).exists():
            raise ValidationError({"email": _("%s is no sending domain of the account.") % domain})
        if self.sender is None and self.account.default_sender_id is None:
            raise ValidationError(
                {"sender": _("The account has no default sender: name one here.")}
            )
        if self.sender is not None and not self.sender.accounts.filter(pk=self.account.pk).exists():
            raise ValidationError({"sender": _("This sender is not one of the account's.")})


class AlertRule(PolicyModel):
    """When one kind of alert is raised. A row per kind."""

    access = EDITED
    affects_policy = False

    kind = models.CharField(
        _("watches"), max_length=20, choices=AlertKind, unique=True, editable=False
    )
    is_active = models.BooleanField(_("active"), default=True)
    threshold = models.FloatField(
        _("threshold"), validators=[MinValueValidator(0.0001), MaxValueValidator(1e9)]
    )
    clear_percent = models.PositiveIntegerField(
        _("is over below (% of the threshold)"),
        default=80,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text=_("Less than 100, so that a figure at the threshold does not ring for ever."),
    )
    window_s = SecondsField(
        _("counted over the last (hours)"),
        unit=Unit.HOURS,
        default=3600.0,
        validators=[MinValueValidator(60)],
    )
    least_volume = models.PositiveIntegerField(
        _("from this many on"),
        default=1000,
        validators=[MinValueValidator(1)],
        help_text=_("With fewer recipients in that time a percentage says nothing."),
    )
    checked_at = models.DateTimeField(_("looked at"), null=True, editable=False)
    problem = models.TextField(_("not known, because"), blank=True, editable=False)

    class Meta:
        verbose_name = _("alert rule")
        verbose_name_plural = _("alert rules")
        ordering = ["pk"]

    def __str__(self) -> str:
        return str(AlertKind(self.kind).label)


class Alert(models.Model):
    """Something that is or was wrong. At most one of a kind and subject is not over."""

    access: ClassVar[AccessRule] = AccessRule(
        admin=READ, master=READ, account_user=READ, account_path="account"
    )
    affects_policy: ClassVar[bool] = False

    id = models.AutoField(_("ID"), primary_key=True)
    kind = models.CharField(_("kind"), max_length=20, choices=AlertKind)
    subject = models.CharField(max_length=120)
    about = models.CharField(_("about"), max_length=200)
    account = models.ForeignKey(
        "accounts.Account",
        verbose_name=_("account"),
        null=True,
        on_delete=models.CASCADE,
        related_name="alerts",
    )
    state = models.CharField(_("state"), max_length=8, choices=AlertState, db_index=True)
    value = models.FloatField(_("figure"), null=True)
    threshold = models.FloatField(_("threshold"))
    detail = models.TextField(_("detail"), blank=True)
    since = models.DateTimeField(_("since"))
    seen_at = models.DateTimeField(_("last seen"))
    raised_at = models.DateTimeField(_("raised at"), null=True)
    reminded_at = models.DateTimeField(_("last told"), null=True)
    reminders = models.PositiveIntegerField(_("reminders"), default=0)
    cleared_at = models.DateTimeField(_("over at"), null=True)

    class Meta:
        verbose_name = _("alert")
        verbose_name_plural = _("alerts")
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "subject"],
                condition=Q(cleared_at__isnull=True),
                name="alert_once_while_open",
            )
        ]

    def __str__(self) -> str:
        return f"{AlertKind(self.kind).label}: {self.about}"


class Notice(models.Model):
    """A system mail that is owed to one recipient. Its text is made when it is sent, so that no
    link that opens an account lies here."""

    access: ClassVar[AccessRule] = READ_ONLY
    affects_policy: ClassVar[bool] = False

    id = models.AutoField(_("ID"), primary_key=True)
    key = models.CharField(max_length=120, unique=True)
    kind = models.CharField(_("kind"), max_length=10, choices=NoticeKind)
    recipient = models.EmailField(_("to"))
    language = models.CharField(max_length=8, default="en")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("user"),
        null=True,
        on_delete=models.CASCADE,
        related_name="+",
    )
    alert = models.ForeignKey(
        Alert, verbose_name=_("alert"), null=True, on_delete=models.CASCADE, related_name="notices"
    )
    state = models.CharField(
        _("state"), max_length=8, choices=NoticeState, default=NoticeState.WAITING, db_index=True
    )
    tries = models.PositiveIntegerField(_("tries"), default=0)
    due_at = models.DateTimeField(_("next try"))
    created_at = models.DateTimeField(_("since"), auto_now_add=True)
    sent_at = models.DateTimeField(_("sent at"), null=True)
    way = models.CharField(_("left by"), max_length=260, blank=True)
    message_id = models.CharField(_("message ID"), max_length=40, blank=True)
    error = models.TextField(_("what failed"), blank=True)

    class Meta:
        verbose_name = _("system message")
        verbose_name_plural = _("system messages")
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{NoticeKind(self.kind).label} → {self.recipient}"
