"""Closed sets of stop lists."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class StopReason(models.TextChoices):
    HARD_BOUNCE = "hard_bounce", _("hard bounce")
    COMPLAINT = "complaint", _("complaint")
    UNSUBSCRIBED = "unsubscribed", _("unsubscribed")
    MANUAL = "manual", _("put in by hand")
