"""How mail is sent: strategies, retry and default rules, ISPs, pools, keys, bounce patterns.

Names and meaning are the reference's (mta-model); durations are seconds in the database and the
reference's units at the panel.
"""

from __future__ import annotations

import re

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from control.fields import (
    SecondsField,
    Unit,
    clean_domain,
)
from control.mta.choices import (
    BounceKind,
    Cause,
    Helo,
    KeyAlgorithm,
    KeyType,
    RetryMode,
    RetryType,
    RuleAction,
    Tls,
    UnknownAction,
)
from control.mta.domain_tls import DomainTls
from control.mta.isps import Isp, IspDomain, IspHeader
from control.rows import PolicyModel

__all__ = [
    "BouncePattern",
    "DefaultRule",
    "DomainTls",
    "Isp",
    "IspDomain",
    "IspHeader",
    "Key",
    "Pool",
    "PoolMember",
    "RetryRule",
    "Strategy",
]

MANY = 1_000_000


class Strategy(PolicyModel):
    """A speed profile, the greeting and the TLS preference."""

    name = models.CharField(_("name"), max_length=80, unique=True)
    connections = models.PositiveIntegerField(
        _("concurrent connections"),
        default=1,
        validators=[MaxValueValidator(MANY)],
        help_text=_("0 means no limit, here and in the next two."),
    )
    messages_per_connection = models.PositiveIntegerField(
        _("messages per connection"), default=60, validators=[MaxValueValidator(MANY)]
    )
    connection_attempts = models.PositiveIntegerField(
        _("number of connection attempts"), default=1, validators=[MaxValueValidator(MANY)]
    )
    interval_s = SecondsField(
        _("time interval (seconds)"), default=60.0, validators=[MinValueValidator(0.1)]
    )
    helo = models.CharField(_("HELO command"), max_length=16, choices=Helo, default=Helo.PTR)
    tls = models.CharField(_("TLS"), max_length=16, choices=Tls, default=Tls.OPPORTUNISTIC)
    drop = models.BooleanField(
        _("drop message"),
        default=False,
        help_text=_("Destroys what is queued for these paths instead of delivering it."),
    )

    class Meta:
        verbose_name = _("strategy")
        verbose_name_plural = _("strategies")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def messages_per_interval(self) -> int:
        """Messages of one source in an interval; 0 is unlimited."""
        return self.connections * self.messages_per_connection * self.connection_attempts

    def messages_per(self, seconds: int) -> int | None:
        """The average speed of one source address over `seconds`; None is unlimited."""
        if not self.messages_per_interval or not self.interval_s:
            return None
        return int(self.messages_per_interval * seconds / self.interval_s)


class RetryRule(PolicyModel):
    """When a temporarily refused message is tried again, and from where."""

    name = models.CharField(_("name"), max_length=80, unique=True)
    mode = models.CharField(
        _("mode"), max_length=20, choices=RetryMode, default=RetryMode.OTHER_IP_ANY_NODE
    )
    retries = models.PositiveIntegerField(
        _("number of retries"), default=30, validators=[MaxValueValidator(10_000)]
    )
    interval_s = SecondsField(
        _("time interval (min)"),
        unit=Unit.MINUTES,
        default=900.0,
        validators=[MinValueValidator(0.5)],
    )
    type = models.CharField(_("type"), max_length=12, choices=RetryType, default=RetryType.FIXED)
    exponent = models.FloatField(
        _("exponent"),
        default=2.0,
        validators=[MinValueValidator(1.0), MaxValueValidator(10.0)],
        help_text=_("Geometric: the delay grows by this factor with each attempt."),
    )
    random_modifier = models.FloatField(
        _("random modifier"),
        default=0.0,
        validators=[MinValueValidator(0.0), MaxValueValidator(100.0)],
        help_text=_("Random: up to interval × (1 + this)."),
    )

    class Meta:
        verbose_name = _("retry rule")
        verbose_name_plural = _("retry rules")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Pool(PolicyModel):
    """A weighted set of sources that send on behalf of a domain."""

    name = models.CharField(_("name"), max_length=80, unique=True)
    domain = models.CharField(
        _("domain"),
        max_length=253,
        blank=True,
        help_text=_("The domain it sends for: SPF alignment and common statistics."),
    )

    class Meta:
        verbose_name = _("pool")
        verbose_name_plural = _("pools")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Keep the domain as DNS spells it."""
        if self.domain:
            try:
                self.domain = clean_domain(self.domain)
            except ValidationError as exc:
                raise ValidationError({"domain": exc.messages}) from exc


class PoolMember(PolicyModel):
    """A source in a pool, with its share."""

    pool = models.ForeignKey(
        Pool, verbose_name=_("pool"), on_delete=models.CASCADE, related_name="members"
    )
    source = models.ForeignKey(
        "nodes.Source",
        verbose_name=_("source"),
        on_delete=models.PROTECT,
        related_name="memberships",
    )
    weight = models.PositiveIntegerField(
        _("weight"), default=100, validators=[MaxValueValidator(MANY)]
    )
    strategy = models.ForeignKey(
        Strategy,
        verbose_name=_("strategy"),
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="pool_members",
        help_text=_("Empty: as the sender or ISP says."),
    )

    class Meta:
        verbose_name = _("pool member")
        verbose_name_plural = _("pool members")
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["pool", "source"], name="source_once_per_pool")
        ]

    def __str__(self) -> str:
        return f"{self.source} × {self.weight}"


def _refuse_catch_all(isp: Isp | None) -> None:
    """A rule of the catch-all would hold for every ISP: that is what an empty choice says."""
    if isp is not None and isp.is_catch_all:
        raise ValidationError({"isp": _("Leave this empty to mean all ISPs.")})


class DefaultRule(PolicyModel):
    """A delivery scenario: what is done with each kind of bounce."""

    name = models.CharField(_("name"), max_length=80, unique=True)
    isp = models.ForeignKey(
        Isp,
        verbose_name=_("ISP"),
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="default_rules",
        help_text=_("Empty: all ISPs."),
    )
    priority = models.PositiveIntegerField(
        _("priority"), default=100, help_text=_("Of several that fit, the lowest number decides.")
    )
    retry_rule = models.ForeignKey(
        RetryRule,
        verbose_name=_("retry rule"),
        on_delete=models.PROTECT,
        related_name="default_rules",
    )
    soft_action = models.CharField(
        _("on a soft bounce"), max_length=8, choices=RuleAction, default=RuleAction.RETRY
    )
    hard_action = models.CharField(
        _("on a hard bounce"), max_length=8, choices=RuleAction, default=RuleAction.STOP
    )
    bounce_action = models.CharField(
        _("on a bounce"), max_length=8, choices=RuleAction, default=RuleAction.STOP
    )
    unknown_action = models.CharField(
        _("when the last answer was lost"),
        max_length=12,
        choices=UnknownAction,
        default=UnknownAction.RETRY_LATE,
    )
    unknown_after_s = SecondsField(_("and after (min)"), unit=Unit.MINUTES, default=14400.0)

    class Meta:
        verbose_name = _("default rule")
        verbose_name_plural = _("default rules")
        ordering = ["priority", "name"]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """A rule is for one ISP, or for all."""
        _refuse_catch_all(self.isp)


class BouncePattern(PolicyModel):
    """A regular expression over ISP answers, and what an answer that matches means."""

    rule_id = models.CharField(
        _("rule"), max_length=80, null=True, blank=True, unique=True, editable=False
    )
    name = models.CharField(_("name"), max_length=120)
    type = models.CharField(_("type"), max_length=8, choices=BounceKind)
    bounce_class = models.CharField(
        _("class"), max_length=24, choices=Cause, default=Cause.UNCLASSIFIED
    )
    isp = models.ForeignKey(
        Isp,
        verbose_name=_("ISP"),
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="bounce_patterns",
        help_text=_("Empty: all ISPs. An ISP's own patterns are tried first."),
    )
    pattern = models.CharField(
        _("pattern"),
        max_length=1000,
        help_text=_("A regular expression, searched in the ISP's answer; case does not count."),
    )
    message = models.CharField(_("message"), max_length=300, blank=True)
    position = models.PositiveIntegerField(
        _("position"), default=1000, help_text=_("Lower ones are tried first.")
    )
    is_active = models.BooleanField(_("active"), default=True)

    class Meta:
        verbose_name = _("bounce pattern")
        verbose_name_plural = _("bounce patterns")
        ordering = ["position", "id"]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """The pattern must compile, and must not match an empty answer."""
        _refuse_catch_all(self.isp)
        try:
            pattern = re.compile(self.pattern, re.IGNORECASE)
        except re.error as exc:
            raise ValidationError(
                {"pattern": _("This is no regular expression: %s.") % exc}
            ) from exc
        if pattern.search("") is not None:
            raise ValidationError({"pattern": _("This matches every answer.")})


class Key(PolicyModel):
    """A private key: here is its public half, the secret lies in the vault under `secret_ref`."""

    name = models.CharField(_("name"), max_length=120, unique=True)
    type = models.CharField(_("type"), max_length=8, choices=KeyType, default=KeyType.DKIM)
    algorithm = models.CharField(
        _("algorithm"), max_length=16, choices=KeyAlgorithm, editable=False
    )
    public_key = models.TextField(_("public key"), editable=False)
    secret_ref = models.CharField(max_length=80, unique=True, editable=False)

    class Meta:
        verbose_name = _("key")
        verbose_name_plural = _("keys")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
