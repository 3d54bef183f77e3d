"""The app's name for Django."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class MailboxesConfig(AppConfig):
    name = "control.mailboxes"
    label = "mailboxes"
    verbose_name = _("Mailboxes")
    default_auto_field = "django.db.models.AutoField"
