"""Closed sets of the queue's pages."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Scope(models.TextChoices):
    """What a hold covers; the values are those of mailcore.holds.HoldScope."""

    EVERYTHING = "everything", _("everything")
    NODE = "node", _("node")
    POOL = "pool", _("pool")
    SOURCE = "source", _("source")
    SENDER = "sender", _("sender")
    ACCOUNT = "account", _("account")
    CAMPAIGN = "campaign", _("campaign")
    ISP = "isp", _("ISP")
    DOMAIN = "domain", _("recipient domain")
