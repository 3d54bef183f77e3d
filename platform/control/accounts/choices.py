"""Closed sets of accounts."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from control.access import ApiScope

__all__ = ["ApiScope", "Language", "ReportsByMail"]


class Language(models.TextChoices):
    """Languages of the panel."""

    EN = "en", _("English")
    RU = "ru", _("Russian")


class ReportsByMail(models.TextChoices):
    """How those who send by SMTP are told what became of it, beside events and hooks."""

    DSN = "dsn", _("delivery status notifications")
    NONE = "none", _("events only")
