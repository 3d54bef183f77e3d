"""The app's name for Django."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class SendersConfig(AppConfig):
    name = "control.senders"
    label = "senders"
    verbose_name = _("Senders")
    default_auto_field = "django.db.models.AutoField"
