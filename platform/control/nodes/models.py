"""Nodes and the source addresses they own."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from control.fields import SecondsField, Unit, check_domain, check_header_name, check_slug
from control.nodes.choices import AccessProtocol
from control.rows import PolicyModel
from mailcore.render.overrides import PROTECTED

MOST_MB = 2**24
READ_BY_PEOPLE = frozenset({"cc", "reply-to", "sender", "subject", "to"})


class Node(PolicyModel):
    """A host of the fleet with its send-module settings.

    Of the reference's 23 settings those are here that have a meaning in this product;
    docs/policy.md says what became of each.
    """

    name = models.CharField(
        _("name"),
        max_length=63,
        unique=True,
        validators=[check_slug],
        help_text=_("What the node's workers are started with (NODE). It names the node's queues."),
    )
    host = models.CharField(_("host"), max_length=253, default="localhost")
    access_protocol = models.CharField(
        _("access protocol"),
        max_length=8,
        choices=AccessProtocol,
        default=AccessProtocol.LOCAL,
    )
    install_dir = models.CharField(_("node installation directory"), max_length=250, blank=True)
    ssh_user = models.CharField(_("user"), max_length=64, blank=True)
    ssh_key = models.ForeignKey(
        "mta.Key",
        verbose_name=_("SSH key"),
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="nodes",
    )
    spool_retention_s = SecondsField(
        _("spool cleaner timeout (days)"),
        unit=Unit.DAYS,
        default=0.0,
        help_text=_(
            "How long content is kept after it was written, whether or not its recipients are done"
            " before; 0: it goes once they are, after a grace time of a quarter of an hour."
        ),
    )
    spool_warn_mb = models.PositiveIntegerField(
        _("warn below free space on the spool's disk (MB)"),
        default=2048,
        validators=[MaxValueValidator(MOST_MB)],
        help_text=_(
            "Every page of the panel warns then, as it does a day before the disk is full."
        ),
    )
    spool_stop_mb = models.PositiveIntegerField(
        _("accept nothing below free space on the spool's disk (MB)"),
        default=256,
        validators=[MaxValueValidator(MOST_MB)],
        help_text=_("Programs are answered 503 then; what was accepted is delivered."),
    )
    dns_timeout_s = SecondsField(
        _("DNS lookup timeout (sec)"), default=5.0, validators=[MinValueValidator(0.1)]
    )
    dns_cache_max_s = SecondsField(_("DNS lookup cache expire (sec)"), default=3600.0)
    connect_timeout_s = SecondsField(
        _("ESMTP connection timeout (sec)"), default=30.0, validators=[MinValueValidator(0.1)]
    )
    uses_dane = models.BooleanField(
        _("DANE"),
        default=True,
        help_text=_(
            "Ask for TLSA records and obey them (RFC 7672). It takes a resolver that checks DNSSEC"
            " and says so, on this host or in a network of yours; with any other one no record"
            " counts."
        ),
    )
    uses_mta_sts = models.BooleanField(
        _("MTA-STS"),
        default=True,
        help_text=_("Fetch the policies that domains publish and obey them (RFC 8461)."),
    )
    fbl_header = models.CharField(
        _("FBL header name"),
        max_length=76,
        default="X-Postfleet-Token",
        validators=[check_header_name],
        help_text=_("The header field that carries the message token to complaint reports."),
    )
    admin_email = models.EmailField(
        _("SMTP administrator email"),
        blank=True,
        help_text=_(
            "Where mail to `postmaster` without a domain goes, which every SMTP server must take."
            " Empty: postmaster at the server's own name."
        ),
    )
    logs_replies = models.BooleanField(
        _("write SMTP responses to the log"),
        default=False,
        help_text=_("One line for each final answer: recipient domain, host, code and text."),
    )

    class Meta:
        verbose_name = _("node")
        verbose_name_plural = _("nodes")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """SSH needs a user and an SSH key; a warning comes before what it warns of."""
        if (self.spool_warn_mb or 0) < (self.spool_stop_mb or 0):
            raise ValidationError(
                {"spool_warn_mb": _("Must not be less than where nothing is accepted.")}
            )
        if self.fbl_header.lower() in PROTECTED | READ_BY_PEOPLE:
            raise ValidationError({"fbl_header": _("This header field has a meaning of its own.")})
        if self.access_protocol == AccessProtocol.SSH:
            if not self.ssh_user:
                raise ValidationError({"ssh_user": _("SSH needs a user name.")})
            if self.ssh_key is None:
                raise ValidationError({"ssh_key": _("SSH needs a key: create it under Keys.")})
        if self.ssh_key is not None and self.ssh_key.type != "ssh":
            raise ValidationError({"ssh_key": _("This is no SSH key.")})


class Source(PolicyModel):
    """One sending identity: an address on a node and the name it greets with."""

    node = models.ForeignKey(
        Node, verbose_name=_("node"), on_delete=models.PROTECT, related_name="sources"
    )
    address = models.GenericIPAddressField(_("IP address"), unpack_ipv4=True)
    ehlo_name = models.CharField(
        _("EHLO name"),
        max_length=253,
        validators=[check_domain],
        help_text=_("Should be the address's PTR record, and resolve back to it."),
    )
    is_active = models.BooleanField(_("active"), default=True)

    class Meta:
        verbose_name = _("source")
        verbose_name_plural = _("sources")
        ordering = ["node__name", "address"]
        constraints = [
            models.UniqueConstraint(fields=["node", "address"], name="source_once_per_node")
        ]

    def __str__(self) -> str:
        return f"{self.address} ({self.ehlo_name})"

    def clean(self) -> None:
        """Keep the name as DNS spells it."""
        self.ehlo_name = self.ehlo_name.strip().rstrip(".").lower()
