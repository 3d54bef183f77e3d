"""Closed sets of the audit journal."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Action(models.TextChoices):
    """What was done to a row."""

    CREATED = "created", _("created")
    CHANGED = "changed", _("changed")
    DELETED = "deleted", _("deleted")
    ACTIVATED = "activated", _("activated")
    UNPINNED = "unpinned", _("unpinned")
    ROTATED = "rotated", _("rotated")
    REPLACED = "secret_replaced", _("secret replaced")
