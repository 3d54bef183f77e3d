"""The app's name for Django."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class DomainsConfig(AppConfig):
    name = "control.domains"
    label = "domains"
    verbose_name = _("Sending domains")
    default_auto_field = "django.db.models.AutoField"
