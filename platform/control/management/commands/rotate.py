"""`manage.py rotate`: seal every secret with the newest key of SECRET_KEYS.

Afterwards an older key may leave SECRET_KEYS, once message tokens signed with it have run out.
"""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from control.access import Actor
from control.audit.choices import Action
from control.audit.models import AuditEntry
from control.needs import stores
from control.secrets import key_ring, rotate_secrets
from mailio.vault import VaultError


class Command(BaseCommand):
    """All or nothing: a value that no key opens stops it, and nothing changes."""

    help = "Seal every secret with the newest key of SECRET_KEYS."

    def handle(self, *args: Any, **options: Any) -> None:
        stores()
        newest = key_ring().newest
        try:
            with transaction.atomic():
                count = rotate_secrets()
                AuditEntry.objects.create(
                    actor=Actor.system("rotate").label,
                    action=Action.ROTATED,
                    object_type="vault",
                    object_label=f"{count} secrets, key {newest}",
                )
        except VaultError as exc:
            raise CommandError(str(exc)) from exc
        self.stdout.write(f"{count} secrets are now sealed with key {newest}")
