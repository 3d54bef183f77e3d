"""The audit journal: who changed what, when, from where, before and after."""

from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from control.access import READ_ONLY, AccessRule
from control.audit.choices import Action


class AuditEntry(models.Model):
    """One change of one row. It is written in the transaction that made the change."""

    access: ClassVar[AccessRule] = READ_ONLY

    id = models.BigAutoField(_("ID"), primary_key=True)
    at = models.DateTimeField(_("at"), auto_now_add=True, db_index=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("user"),
        null=True,
        on_delete=models.SET_NULL,
        related_name="+",
    )
    actor = models.CharField(_("who"), max_length=200)
    ip = models.CharField(_("from address"), max_length=45, blank=True)
    action = models.CharField(_("action"), max_length=16, choices=Action)
    object_type = models.CharField(_("object type"), max_length=64)
    object_id = models.CharField(_("object ID"), max_length=40, blank=True)
    object_label = models.CharField(_("object"), max_length=200)
    before = models.JSONField(_("before"), null=True)
    after = models.JSONField(_("after"), null=True)
    revision = models.IntegerField(_("policy revision"), null=True)

    class Meta:
        verbose_name = _("audit entry")
        verbose_name_plural = _("audit journal")
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["object_type", "object_id"], name="audit_object"),
        ]

    def __str__(self) -> str:
        return f"{self.actor} {self.action} {self.object_label}"
