"""Closed sets of accounts."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from control.access import ApiScope

__all__ = ["ApiScope", "Language"]


class Language(models.TextChoices):
    """Languages of the panel."""

    EN = "en", _("English")
    RU = "ru", _("Russian")
