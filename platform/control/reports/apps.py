"""The app of the dashboard; it has no tables of its own."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class ReportsConfig(AppConfig):
    name = "control.reports"
    label = "reports"
    verbose_name = _("reports")
