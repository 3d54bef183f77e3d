"""Mailboxes that are read for bounces, complaints and replies. Passwords lie in the vault."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from control.access import READ, AccessRule
from control.fields import SecondsField, Unit, check_one_line
from control.mailboxes.choices import MailboxTls, Protocol, Purpose
from control.rows import PolicyModel


class Mailbox(PolicyModel):
    """How one mailbox is reached and what is looked for in it."""

    access = AccessRule(account_user=READ, account_path="account")

    name = models.CharField(_("name"), max_length=120, unique=True)
    account = models.ForeignKey(
        "accounts.Account",
        verbose_name=_("account"),
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="mailboxes",
        help_text=_("Empty: the installation's; reports are matched to accounts by their token."),
    )
    purpose = models.CharField(
        _("read for"), max_length=12, choices=Purpose, default=Purpose.BOUNCES
    )
    protocol = models.CharField(
        _("protocol"), max_length=8, choices=Protocol, default=Protocol.IMAP
    )
    host = models.CharField(_("host"), max_length=253, validators=[check_one_line])
    port = models.PositiveIntegerField(
        _("port"), default=993, validators=[MinValueValidator(1), MaxValueValidator(65535)]
    )
    tls = models.CharField(_("TLS"), max_length=10, choices=MailboxTls, default=MailboxTls.TLS)
    login = models.CharField(_("login"), max_length=200, validators=[check_one_line])
    secret_ref = models.CharField(max_length=80, unique=True, editable=False)
    folder = models.CharField(
        _("folder"), max_length=200, default="INBOX", validators=[check_one_line]
    )
    poll_interval_s = SecondsField(
        _("read every (min)"), unit=Unit.MINUTES, default=60.0, validators=[MinValueValidator(1)]
    )
    deletes_after_reading = models.BooleanField(_("delete after reading"), default=True)
    is_active = models.BooleanField(_("active"), default=True)

    class Meta:
        verbose_name = _("mailbox")
        verbose_name_plural = _("mailboxes")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """POP3 knows one folder."""
        if self.protocol == Protocol.POP3 and self.folder.upper() != "INBOX":
            raise ValidationError({"folder": _("POP3 reads the inbox only.")})


class Reading(models.Model):
    """The last reading of a mailbox, as the pollers note it. Its table is the ledger's."""

    access = AccessRule()

    mailbox_id = models.IntegerField(_("mailbox ID"), primary_key=True)
    node = models.TextField(_("node"))
    ended_at = models.DateTimeField(_("read at"), null=True)
    next_at = models.DateTimeField(_("next"))
    read_count = models.IntegerField(_("messages"))
    error = models.TextField(_("error"))

    class Meta:
        managed = False
        db_table = "mailbox_poll"
        verbose_name = _("reading of a mailbox")
        verbose_name_plural = _("readings of mailboxes")

    def __str__(self) -> str:
        return f"{self.mailbox_id}"
