"""Closed sets of senders; values are those of `mailcore.policy.model`."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class SenderType(models.TextChoices):
    AKMTA = "akmta", _("Email: built-in MTA")


class DomainType(models.TextChoices):
    FROM_HEADER = "from_header", _("Domain of the message's From header")
    PTR = "ptr", _("Domain of the PTR record")
    FIXED = "fixed", _("This domain")


class SenderTls(models.TextChoices):
    NONE = "none", _("Never")
    OPPORTUNISTIC = "opportunistic", _("As the strategy says")
    REQUIRED = "required", _("Required: without TLS mail waits")
