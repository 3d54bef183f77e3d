"""The login of the panel, which does not let anybody try passwords for ever.

Gives    PanelLoginForm
Raises   ValidationError with the minutes to wait, after TRIES failures of one login name from one
         address within LOCKED_S

Counted in Redis, so all web processes see the same; with Redis away logins are not counted: a
cache that is down must not lock the operators out.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any

import redis
from django.contrib.admin.forms import AdminAuthenticationForm
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

TRIES = 10
LOCKED_S = 900

log = logging.getLogger(__name__)


def _key(username: str, ip: str) -> str:
    name = hashlib.sha256(f"{username.lower()}\0{ip}".encode()).hexdigest()
    return f"login:{name}"


def _failures(key: str) -> int:
    try:
        return int(cache.get(key, 0))
    except redis.RedisError as exc:
        log.warning("failed logins cannot be counted: %s", exc)
        return 0


def _note_failure(key: str) -> None:
    try:
        cache.add(key, 0, LOCKED_S)
        cache.incr(key)
    except ValueError:
        cache.set(key, 1, LOCKED_S)  # it ended between the two
    except redis.RedisError as exc:
        log.warning("failed logins cannot be counted: %s", exc)


def _forget(key: str) -> None:
    try:
        cache.delete(key)
    except redis.RedisError as exc:
        log.warning("failed logins cannot be forgotten: %s", exc)


class PanelLoginForm(AdminAuthenticationForm):
    """Django's form, with an end to guessing."""

    error_messages = {
        **AdminAuthenticationForm.error_messages,
        "invalid_login": _("No administrator has this login and password."),
    }

    def clean(self) -> dict[str, Any]:
        """Ask for the password only while there are tries left."""
        ip = self.request.META.get("REMOTE_ADDR", "") if self.request is not None else ""
        username = self.cleaned_data.get("username", "")
        key = _key(username, ip)
        if _failures(key) >= TRIES:
            log.warning("login of %r from %s is locked", username, ip)
            raise ValidationError(
                _("Too many failed logins. Try again in %(minutes)d minutes."),
                code="locked",
                params={"minutes": LOCKED_S // 60},
            )
        try:
            cleaned = super().clean()
        except ValidationError:
            _note_failure(key)
            raise
        _forget(key)
        return cleaned
