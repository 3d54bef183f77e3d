"""Revisions of the policy and what the fleet says it runs. The tables are mailio's (mailio/ddl)."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from control.access import READ_ONLY, AccessRule


class PolicyRevision(models.Model):
    """One compiled snapshot. At most one is active; an older one made active is pinned."""

    access: ClassVar[AccessRule] = READ_ONLY
    affects_policy: ClassVar[bool] = False

    revision = models.IntegerField(_("revision"), primary_key=True)
    digest = models.TextField(_("digest"))
    schema_version = models.IntegerField(_("schema"))
    body = models.BinaryField()
    author = models.TextField(_("by"))
    created_at = models.DateTimeField(_("at"), auto_now_add=True)
    is_active = models.BooleanField(_("active"), default=False)
    is_pinned = models.BooleanField(_("pinned"), default=False)

    class Meta:
        managed = False
        db_table = "policy_revision"
        verbose_name = _("policy revision")
        verbose_name_plural = _("policy revisions")
        ordering = ["-revision"]

    def __str__(self) -> str:
        return f"{self.revision}"


class PolicyAck(models.Model):
    """The revision one process runs."""

    access: ClassVar[AccessRule] = READ_ONLY

    id = models.AutoField(_("ID"), primary_key=True)
    node = models.TextField(_("node"))
    process = models.TextField(_("process"))
    revision = models.IntegerField(_("revision"))
    at = models.DateTimeField(_("at"))

    class Meta:
        managed = False
        db_table = "policy_ack"
        verbose_name = _("policy of a process")
        verbose_name_plural = _("policies of processes")
        ordering = ["node", "process"]

    def __str__(self) -> str:
        return f"{self.node} {self.process}: {self.revision}"


class VaultSecret(models.Model):
    """A sealed secret. Registered nowhere: people set and replace it where it is used."""

    ref = models.TextField(primary_key=True)
    value = models.TextField()
    updated_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "vault_secret"

    def __str__(self) -> str:
        return self.ref
