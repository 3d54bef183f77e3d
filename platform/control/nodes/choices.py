"""Closed sets of nodes."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class AccessProtocol(models.TextChoices):
    """How the control plane reaches a node."""

    LOCAL = "local", _("This host: the node's workers read policy themselves")
    HTTPS = "https", _("HTTPS: the node's agent")
    SSH = "ssh", _("SSH")
