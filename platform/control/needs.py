"""What a command needs before it may begin.

Gives    stores()
Raises   CommandError that says which variable is missing
"""

from __future__ import annotations

from django.conf import settings
from django.core.management.base import CommandError

from mailio.settings import Settings


def stores() -> Settings:
    """Return the process's settings, or end the command with a clear word."""
    configured: Settings | None = settings.POSTFLEET
    if configured is None:
        raise CommandError(
            "DATABASE_URL is not set, and no stack runs for this directory: start it with "
            "`make run`, or set DATABASE_URL and the other variables"
        )
    return configured
