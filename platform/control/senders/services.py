"""Passwords of relays: to the vault, never back.

Gives    new_secret_ref, store_password, forget_password
"""

from __future__ import annotations

import uuid

from control.secrets import forget_secrets, put_secret
from control.senders.models import Sender


def new_secret_ref() -> str:
    """Return the reference of a new relay's password."""
    return f"relay:{uuid.uuid4().hex}"


def store_password(sender: Sender, password: str) -> None:
    """Seal a password; sessions that are opened from now on log in with it."""
    put_secret(sender.relay_secret_ref, password.encode())


def forget_password(sender: Sender) -> None:
    """Delete a password that nobody logs in with any more. A later one has another reference: who
    still acts on the policy of before must not find it under the old one."""
    if sender.relay_secret_ref:
        forget_secrets(sender.relay_secret_ref)
        sender.relay_secret_ref = ""
        Sender.objects.filter(pk=sender.pk).update(relay_secret_ref="")
