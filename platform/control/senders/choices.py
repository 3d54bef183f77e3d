"""Closed sets of senders; values are those of `mailcore.policy.model`."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class SenderType(models.TextChoices):
    AKMTA = "akmta", _("Email: built-in MTA")


class DomainType(models.TextChoices):
    FROM_HEADER = "from_header", _("Domain of the message's From header")
    PTR = "ptr", _("Domain of the PTR record")
    FIXED = "fixed", _("This domain")


class ReturnPathMode(models.TextChoices):
    PER_RECIPIENT = "per_recipient", _("One for each recipient")
    PER_MESSAGE = "per_message", _("One for each message: its recipients share a transaction")


class RelayTls(models.TextChoices):
    NONE = "none", _("Without TLS")
    OPPORTUNISTIC = "opportunistic", _("STARTTLS where it is offered, else without")
    STARTTLS = "starttls", _("STARTTLS: without it mail waits")
    IMPLICIT = "implicit", _("TLS from the start")


class RelayAuth(models.TextChoices):
    NONE = "none", _("No login")
    ANY = "any", _("The best it offers")
    PLAIN = "PLAIN", "PLAIN"
    LOGIN = "LOGIN", "LOGIN"
    CRAM_MD5 = "CRAM-MD5", "CRAM-MD5"
    XOAUTH2 = "XOAUTH2", _("XOAUTH2, with an access token")


class SenderTls(models.TextChoices):
    NONE = "none", _("Never")
    OPPORTUNISTIC = "opportunistic", _("As the strategy says")
    REQUIRED = "required", _("Required: without TLS mail waits")
