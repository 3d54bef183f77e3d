"""The app's name for Django."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class NotifyConfig(AppConfig):
    name = "control.notify"
    label = "notify"
    verbose_name = _("Alerts and system mail")
    default_auto_field = "django.db.models.AutoField"
