"""Writes that matter: operators, passwords, API tokens.

Gives    issue_token, authenticate_token; set_password, set_password_by_link; create_operator
Raises   ValidationError naming the field
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta

from django.contrib.auth.password_validation import validate_password
from django.contrib.auth.tokens import default_token_generator
from django.db import transaction
from django.utils import timezone

from control.access import Actor
from control.accounts.models import Account, ApiToken, User
from control.audit.changes import policy_change
from control.audit.choices import Action

TOKEN_MARK = "pf_"  # noqa: S105 (lets scanners find a leaked token)
PREFIX_CHARACTERS = 11
# A token's use is noted at most this often: it must not cost a write per request.
USE_NOTED_EVERY = timedelta(minutes=5)


def hash_token(clear: str) -> str:
    """Return what is stored. The token is 256 random bits: a slow hash would add nothing."""
    return hashlib.sha256(clear.encode()).hexdigest()


def new_token() -> str:
    """Draw a token."""
    return TOKEN_MARK + secrets.token_urlsafe(32)


def seal_token(token: ApiToken) -> str:
    """Give an unsaved (or replaced) token its secret; return it, for the only time."""
    clear = new_token()
    token.prefix = clear[:PREFIX_CHARACTERS]
    token.token_hash = hash_token(clear)
    return clear


def issue_token(
    *,
    name: str,
    account: Account | None,
    scopes: list[str],
    actor: Actor,
    expires_at: datetime | None = None,
) -> tuple[ApiToken, str]:
    """Store a token; return it with its clear text, which is never seen again."""
    token = ApiToken(name=name, account=account, scopes=list(scopes), expires_at=expires_at)
    clear = seal_token(token)
    token.full_clean()
    with policy_change(actor) as change:
        token.save(force_insert=True)
        change.created(token)
    return token, clear


def authenticate_token(clear: str) -> ApiToken | None:
    """Return the valid token of this clear text, with its account, or None. One query."""
    if not clear.startswith(TOKEN_MARK) or len(clear) > 100:
        return None
    now = timezone.now()
    token = ApiToken.objects.select_related("account").filter(token_hash=hash_token(clear)).first()
    if token is None or not token.is_valid_at(now):
        return None
    if token.last_used_at is None or now - token.last_used_at > USE_NOTED_EVERY:
        ApiToken.objects.filter(pk=token.pk).update(last_used_at=now)
    return token


def set_password(user: User, password: str, *, actor: Actor) -> None:
    """Check and store a password."""
    validate_password(password, user)
    with policy_change(actor) as change:
        change.touch(user)
        user.set_password(password)
        user.must_change_password = False
        user.save(update_fields=["password", "must_change_password"])
        change.note(Action.REPLACED, user, after={"password": "set"})


def set_password_by_link(user: User, password: str, token: str, *, actor: Actor) -> bool:
    """Check and store a password; False if the link was used, or its user changed, meanwhile."""
    with transaction.atomic():
        now = User.objects.select_for_update().get(pk=user.pk)
        if not now.is_active or not default_token_generator.check_token(now, token):
            return False
        set_password(now, password, actor=actor)
    return True


def create_operator(username: str, *, actor: Actor) -> str:
    """Store a master administrator; return the password, for the only time."""
    password = draw_password()
    with policy_change(actor) as change:
        user = User.objects.create_superuser(username, password)
        change.created(user)
    return password


def draw_password() -> str:
    """Return a password that people can type: 20 letters and digits in groups of five."""
    alphabet = "abcdefghijkmnpqrstuvwxyz23456789"  # without the ones that look alike
    groups = ("".join(secrets.choice(alphabet) for _ in range(5)) for _ in range(4))
    return "-".join(groups)
