"""Closed sets of alerts and system mail, and what an alert rule of each kind is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from django.db import models
from django.utils.translation import gettext_lazy as _


class AlertKind(models.TextChoices):
    """What is watched."""

    NODE_SILENT = "node_silent", _("a node is silent")
    NOT_SYNCED = "not_synced", _("a node does not run the policy in force")
    MAIL_STUCK = "mail_stuck", _("mail is due and does not leave")
    HARD_BOUNCES = "hard_bounces", _("hard bounces of an account")
    SOFT_BOUNCES = "soft_bounces", _("soft bounces of an account")
    COMPLAINTS = "complaints", _("complaints about an account")
    OUTBOX_LAG = "outbox_lag", _("events are not applied")
    EVENTS_REFUSED = "events_refused", _("events cannot be read")
    MAILBOX = "mailbox", _("a mailbox cannot be read")
    HOLD_FORGOTTEN = "hold_forgotten", _("a hold is in force for long")
    JOB_FAILED = "job_failed", _("a job failed")
    DISK = "disk", _("a disk runs full")
    QUEUE_FINDINGS = "queue_findings", _("the queue is not as it must be")
    SYSTEM_MAIL = "system_mail", _("system mail does not leave")


class AlertState(models.TextChoices):
    """Pending: seen, but not for long enough yet."""

    PENDING = "pending", _("watched")
    RAISED = "raised", _("open")
    CLEARED = "cleared", _("over")


class NoticeKind(models.TextChoices):
    """What a system mail says. Who asks for a lost password is not yet looked for: see services."""

    WELCOME = "welcome", _("welcome")
    ASKED = "asked", _("somebody asks")
    PASSWORD = "password", _("lost password")
    RAISED = "raised", _("alert")
    REMINDER = "reminder", _("alert, again")
    CLEARED = "cleared", _("alert is over")
    TEST = "test", _("test")


class NoticeState(models.TextChoices):
    """Waiting ones are tried again until they are sent or given up."""

    WAITING = "waiting", _("waiting")
    SENT = "sent", _("sent")
    FAILED = "failed", _("given up")


class Measure(Enum):
    """What a threshold counts."""

    SECONDS = "seconds"
    PERCENT = "percent"
    NUMBER = "number"


@dataclass(frozen=True, slots=True)
class Watched:
    """An alert kind: what its threshold counts and starts with, and what else its rule has.

    `is_rate`: it is about an account's outcomes, over a time and from a least volume on.
    `is_floor`: less is worse. `is_mailed` False: a mail about it would not arrive. `says_end`
    False: it has no end to tell.
    """

    measure: Measure
    threshold: float
    is_rate: bool = False
    is_floor: bool = False
    is_mailed: bool = True
    says_end: bool = True

    @property
    def is_age(self) -> bool:
        """Whether the figure is how long it has been wrong."""
        return self.measure is Measure.SECONDS and not self.is_floor


# Percentages as in reference/mta-model.md §9.9.
WATCHED: Mapping[AlertKind, Watched] = {
    AlertKind.NODE_SILENT: Watched(Measure.SECONDS, 180.0),
    AlertKind.NOT_SYNCED: Watched(Measure.SECONDS, 180.0),
    AlertKind.MAIL_STUCK: Watched(Measure.SECONDS, 1800.0),
    AlertKind.HARD_BOUNCES: Watched(Measure.PERCENT, 1.0, is_rate=True),
    AlertKind.SOFT_BOUNCES: Watched(Measure.PERCENT, 30.0, is_rate=True),
    AlertKind.COMPLAINTS: Watched(Measure.PERCENT, 0.07, is_rate=True),
    AlertKind.OUTBOX_LAG: Watched(Measure.SECONDS, 300.0),
    AlertKind.EVENTS_REFUSED: Watched(Measure.NUMBER, 1.0),
    AlertKind.MAILBOX: Watched(Measure.SECONDS, 900.0),
    AlertKind.HOLD_FORGOTTEN: Watched(Measure.SECONDS, 3 * 86400.0),
    AlertKind.JOB_FAILED: Watched(Measure.NUMBER, 1.0, says_end=False),
    AlertKind.DISK: Watched(Measure.SECONDS, 86400.0, is_floor=True),
    AlertKind.QUEUE_FINDINGS: Watched(Measure.NUMBER, 1.0),
    AlertKind.SYSTEM_MAIL: Watched(Measure.NUMBER, 1.0, is_mailed=False),
}
