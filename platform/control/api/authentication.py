"""Who calls the API: a program with a bearer token.

Gives    BearerAuthentication (request.user is a control.access.Actor), HasScope
Raises   AuthenticationFailed, NotAuthenticated (401); PermissionDenied (403)
Follows  RFC 6750; design.md section 8

A token that was found is remembered for five seconds, so a stream of requests costs no query; a
token that is switched off is refused after that time.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from control.access import Actor, ApiScope
from control.accounts.models import ApiToken
from control.accounts.services import authenticate_token, hash_token

REMEMBERED_S = 5.0
_MOST_REMEMBERED = 10_000
_CHALLENGE = 'Bearer realm="postfleet"'


class TokenMemory:
    """Tokens that were found not long ago, by the hash of their clear text."""

    def __init__(
        self,
        find: Callable[[str], ApiToken | None] = authenticate_token,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find = find
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._found: dict[str, tuple[float, ApiToken]] = {}

    def token(self, clear: str) -> ApiToken | None:
        """Return the valid token of this clear text, or None."""
        key, now = hash_token(clear), self._monotonic()
        entry = self._found.get(key)
        if entry is not None and now - entry[0] < REMEMBERED_S:
            return entry[1] if entry[1].is_valid_at() else None
        token = self._find(clear)
        with self._lock:
            if len(self._found) >= _MOST_REMEMBERED:
                self._found.clear()
            self._found.pop(key, None)
            if token is not None:
                self._found[key] = (now, token)
        return token


@functools.cache
def token_memory() -> TokenMemory:
    """Return this process's memory of tokens."""
    return TokenMemory()


class BearerAuthentication(BaseAuthentication):
    """`Authorization: Bearer <token>`."""

    def authenticate(self, request: Request) -> tuple[Actor, ApiToken] | None:
        """Return who calls; None without the header, so that another scheme may try."""
        scheme, _, credential = str(request.META.get("HTTP_AUTHORIZATION", "")).partition(" ")
        if not scheme:
            return None
        if scheme.lower() != "bearer":
            raise AuthenticationFailed("the Authorization header must be: Bearer <token>")
        clear = credential.strip()
        token = token_memory().token(clear) if clear.isascii() else None
        if token is None:
            raise AuthenticationFailed(
                "the token is unknown, expired or switched off", code="invalid_token"
            )
        return Actor.of_token(token, ip=request.META.get("REMOTE_ADDR", "")), token

    def authenticate_header(self, request: Request) -> str:
        """Return the challenge of a 401."""
        return _CHALLENGE


class HasScope(BasePermission):
    """The token must carry the scope that the view names for the method."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Refuse, saying which scope is missing."""
        actor: Any = request.user
        if not isinstance(actor, Actor):
            return False
        scopes: dict[str, Sequence[ApiScope]] = getattr(view, "scopes", {})
        # A HEAD is the GET without its body, and tells its length.
        method = "GET" if request.method == "HEAD" else request.method or ""
        missing = [one.value for one in scopes.get(method, ()) if not actor.has_scope(one.value)]
        if missing:
            raise PermissionDenied(f"the token lacks the scope {missing[0]}", code="scope_missing")
        return True
