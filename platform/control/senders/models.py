"""Senders: delivery configurations."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.db import models
from django.utils.translation import gettext_lazy as _

from control.access import READ, AccessRule
from control.fields import clean_domain
from control.rows import PolicyModel
from control.senders.choices import DomainType, SenderTls, SenderType


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
