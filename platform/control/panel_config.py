"""Django's admin app, with our site."""

from django.contrib.admin.apps import AdminConfig


class PanelConfig(AdminConfig):
    default_site = "control.panel.PanelSite"
