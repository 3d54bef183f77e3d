"""The app's name for Django."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class StoplistsConfig(AppConfig):
    name = "control.stoplists"
    label = "stoplists"
    verbose_name = _("Stop lists")
    default_auto_field = "django.db.models.AutoField"
