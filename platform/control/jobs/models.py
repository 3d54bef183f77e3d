"""Background work that people start: imports, exports, purges."""

from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from control.access import READ, AccessRule, Verb
from control.jobs.choices import JobState


class Job(models.Model):
    """One piece of work with its progress; `stop_requested` asks it to end early."""

    access: ClassVar[AccessRule] = AccessRule(
        admin=frozenset({Verb.VIEW, Verb.DELETE}),
        master=frozenset({Verb.VIEW, Verb.DELETE}),
        account_user=READ,
        account_path="account",
    )
    affects_policy: ClassVar[bool] = False

    id = models.AutoField(_("ID"), primary_key=True)
    kind = models.CharField(_("kind"), max_length=40)
    title = models.CharField(_("title"), max_length=200)
    account = models.ForeignKey(
        "accounts.Account",
        verbose_name=_("account"),
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="jobs",
    )
    state = models.CharField(
        _("state"), max_length=8, choices=JobState, default=JobState.WAITING, db_index=True
    )
    arguments = models.JSONField(_("arguments"), default=dict)
    # Where the next turn goes on; the handler's own.
    cursor = models.JSONField(_("cursor"), default=dict, editable=False)
    done_count = models.BigIntegerField(_("done"), default=0)
    total_count = models.BigIntegerField(_("of"), null=True)
    result = models.JSONField(_("result"), null=True)
    error = models.TextField(_("error"), blank=True)
    stop_requested = models.BooleanField(_("stop requested"), default=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("started by"),
        null=True,
        on_delete=models.SET_NULL,
        related_name="+",
    )
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    started_at = models.DateTimeField(_("started at"), null=True)
    # Empty between two turns of a running job: any process may take the next.
    heartbeat_at = models.DateTimeField(_("last sign of life"), null=True)
    finished_at = models.DateTimeField(_("finished at"), null=True)

    class Meta:
        verbose_name = _("job")
        verbose_name_plural = _("jobs")
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.title
