"""Closed sets of mailboxes."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Protocol(models.TextChoices):
    POP3 = "pop3", _("POP3")
    IMAP = "imap", _("IMAP")


class MailboxTls(models.TextChoices):
    NONE = "none", _("none")
    STARTTLS = "starttls", _("STARTTLS")
    TLS = "tls", _("TLS from the start")


class Purpose(models.TextChoices):
    BOUNCES = "bounces", _("bounces")
    COMPLAINTS = "complaints", _("complaints (FBL)")
    REPLIES = "replies", _("replies")
    ALL = "all", _("all of these")
