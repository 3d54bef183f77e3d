"""The app's name for Django."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class AuditConfig(AppConfig):
    name = "control.audit"
    label = "audit"
    verbose_name = _("Audit")
    default_auto_field = "django.db.models.AutoField"
