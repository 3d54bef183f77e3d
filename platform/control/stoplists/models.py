"""The stop list, as people see it. The table is the ledger's (mailio/ledger/ddl)."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from control.access import READ, AccessRule
from control.stoplists.choices import StopReason


class StopEntry(models.Model):
    """An address that must not be mailed; account 0 is the whole installation."""

    access: ClassVar[AccessRule] = AccessRule(account_user=READ, account_path="account_id")
    affects_policy: ClassVar[bool] = False

    id = models.BigAutoField(_("ID"), primary_key=True)
    account_id = models.IntegerField(
        _("account ID"), default=0, help_text=_("0: for every account of the installation.")
    )
    recipient_hash = models.TextField(editable=False)
    recipient = models.TextField(_("address"))
    reason = models.TextField(_("reason"), choices=StopReason, default=StopReason.MANUAL)
    detail = models.TextField(_("detail"), blank=True, default="")
    created_at = models.DateTimeField(_("since"), db_default=Now(), editable=False)
    expires_at = models.DateTimeField(_("until"), null=True, blank=True)

    class Meta:
        managed = False
        db_table = "stop_entry"
        verbose_name = _("stop list entry")
        verbose_name_plural = _("stop list")
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.recipient
