"""Senders: delivery configurations."""

from __future__ import annotations

import ipaddress

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from control.access import READ, AccessRule
from control.fields import check_one_line, clean_domain
from control.rows import PolicyModel
from control.senders.choices import (
    DomainType,
    RelayAuth,
    RelayTls,
    ReturnPathMode,
    SenderTls,
    SenderType,
)


class Sender(PolicyModel):
    """From which pool, at what speed, under which domains, for which accounts."""

    access = AccessRule(account_user=READ, account_path="accounts")

    name = models.CharField(_("name"), max_length=120, unique=True)
    type = models.CharField(_("type"), max_length=16, choices=SenderType, default=SenderType.AKMTA)
    accounts = models.ManyToManyField(
        "accounts.Account", verbose_name=_("assigned accounts"), blank=True, related_name="senders"
    )
    pool = models.ForeignKey(
        "mta.Pool",
        verbose_name=_("pool"),
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="senders",
        help_text=_("The IP addresses it sends from."),
    )
    strategy = models.ForeignKey(
        "mta.Strategy",
        verbose_name=_("strategy"),
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="senders",
        help_text=_("Empty: as the ISP says, else the system's."),
    )
    default_rule = models.ForeignKey(
        "mta.DefaultRule",
        verbose_name=_("default rule"),
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="senders",
        help_text=_("Empty: the first that fits the ISP."),
    )
    domain_type = models.CharField(
        _("sender domain type"),
        max_length=16,
        choices=DomainType,
        default=DomainType.FROM_HEADER,
    )
    fixed_domain = models.CharField(_("domain"), max_length=253, blank=True)
    return_path_domain = models.CharField(
        _("return-path domain"),
        max_length=253,
        blank=True,
        help_text=_("Empty: that of the sending domain. It must resolve to where we hear bounces."),
    )
    tls = models.CharField(
        _("TLS"), max_length=16, choices=SenderTls, default=SenderTls.OPPORTUNISTIC
    )
    return_path_mode = models.CharField(
        _("return path"),
        max_length=16,
        choices=ReturnPathMode,
        default=ReturnPathMode.PER_RECIPIENT,
        help_text=_(
            "One for each recipient tells of every report whom it is about. One for each message "
            "sends a message to many recipients at once, and finds out from the report."
        ),
    )
    uses_relay = models.BooleanField(
        _("send via SMTP relay"),
        default=False,
        help_text=_("All mail of this sender goes to this host instead of the recipients' own."),
    )
    relay_host = models.CharField(
        _("host"),
        max_length=253,
        blank=True,
        validators=[check_one_line],
        help_text=_("Its name or address; its MX records are not asked for."),
    )
    relay_port = models.PositiveIntegerField(
        _("port"), default=587, validators=[MinValueValidator(1), MaxValueValidator(65535)]
    )
    relay_tls = models.CharField(
        _("TLS"), max_length=16, choices=RelayTls, default=RelayTls.STARTTLS
    )
    relay_verifies = models.BooleanField(
        _("verify the certificate"),
        default=True,
        help_text=_("It must be valid for the host as it is given above, name or address."),
    )
    relay_auth = models.CharField(
        _("authentication"), max_length=16, choices=RelayAuth, default=RelayAuth.NONE
    )
    relay_login = models.CharField(
        _("login"), max_length=200, blank=True, validators=[check_one_line]
    )
    relay_allows_clear = models.BooleanField(
        _("log in without TLS"),
        default=False,
        help_text=_(
            "Only on a line that nobody else can read. Otherwise the login waits for TLS, and for"
            " the certificate where it is verified, whatever is chosen above."
        ),
    )
    relay_asks_reports = models.BooleanField(
        _("ask for reports"),
        default=True,
        help_text=_("DSN of failure and delay, where the relay offers it."),
    )
    relay_secret_ref = models.CharField(max_length=80, blank=True, editable=False)
    dkim_keys = models.ManyToManyField(
        "domains.DkimKey",
        verbose_name=_("also sign with"),
        blank=True,
        related_name="senders",
        help_text=_(
            "DKIM keys that sign all mail of this sender, beside those of each message's From"
            " domain: with a domain of your own, ISPs know the mail as yours too."
        ),
    )
    is_deleted = models.BooleanField(_("deleted"), default=False, editable=False)

    class Meta:
        verbose_name = _("sender")
        verbose_name_plural = _("senders")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """A fixed domain must be given; domains are kept as DNS spells them."""
        for name in ("fixed_domain", "return_path_domain"):
            if value := getattr(self, name):
                try:
                    setattr(self, name, clean_domain(value))
                except ValidationError as exc:
                    raise ValidationError({name: exc.messages}) from exc
        if self.domain_type == DomainType.FIXED and not self.fixed_domain:
            raise ValidationError({"fixed_domain": _("Name the domain.")})
        if self.uses_relay:
            self._clean_relay()

    def _clean_relay(self) -> None:
        self.relay_host = self.relay_host.strip().strip("[]")
        if not self.relay_host:
            raise ValidationError({"relay_host": _("Name the relay's host.")})
        try:
            self.relay_host = str(ipaddress.ip_address(self.relay_host))
        except ValueError:
            try:
                self.relay_host = clean_domain(self.relay_host)
            except ValidationError as exc:
                raise ValidationError({"relay_host": exc.messages}) from exc
        if self.relay_auth == RelayAuth.NONE:
            return
        if not self.relay_login:
            raise ValidationError({"relay_login": _("Give the login.")})
        if self.relay_tls == RelayTls.NONE and not self.relay_allows_clear:
            reason = _("Without TLS the login would travel in clear: allow it, or choose TLS.")
            raise ValidationError({"relay_allows_clear": reason})


class SenderIspStrategy(PolicyModel):
    """The speed of one sender towards one ISP."""

    sender = models.ForeignKey(
        Sender, verbose_name=_("sender"), on_delete=models.CASCADE, related_name="isp_strategies"
    )
    isp = models.ForeignKey(
        "mta.Isp", verbose_name=_("ISP"), on_delete=models.PROTECT, related_name="+"
    )
    strategy = models.ForeignKey(
        "mta.Strategy",
        verbose_name=_("strategy"),
        on_delete=models.PROTECT,
        related_name="sender_isps",
    )

    class Meta:
        verbose_name = _("strategy for an ISP")
        verbose_name_plural = _("strategies for ISPs")
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["sender", "isp"], name="isp_once_per_sender")
        ]

    def __str__(self) -> str:
        return f"{self.isp}: {self.strategy}"
