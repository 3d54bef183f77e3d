"""The app's name for Django."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class PolicyConfig(AppConfig):
    name = "control.policy"
    label = "policy"
    verbose_name = _("Policy")
    default_auto_field = "django.db.models.AutoField"
