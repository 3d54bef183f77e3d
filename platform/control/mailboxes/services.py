"""Mailbox passwords: to the vault, never back.

Gives    new_secret_ref, store_password, forget_password
"""

from __future__ import annotations

import uuid

from control.mailboxes.models import Mailbox
from control.secrets import forget_secrets, put_secret


def new_secret_ref() -> str:
    """Return the reference of a new mailbox's password."""
    return f"mailbox:{uuid.uuid4().hex}"


def store_password(mailbox: Mailbox, password: str) -> None:
    """Seal a password; it takes effect at the next poll."""
    put_secret(mailbox.secret_ref, password.encode())


def forget_password(mailbox: Mailbox) -> None:
    """Delete the password with its mailbox."""
    forget_secrets(mailbox.secret_ref)
