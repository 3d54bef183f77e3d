"""The app's name for Django."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class MtaConfig(AppConfig):
    name = "control.mta"
    label = "mta"
    verbose_name = _("MTA")
    default_auto_field = "django.db.models.AutoField"
