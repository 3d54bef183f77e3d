"""Who logs in over SMTP: an account's API token, by its name or number.

Gives    TokenDesk: identify (user and password -> Identity), is_valid (does it still hold?)
Takes    a libpq URL; the tokens that operators issue in the panel
Raises   StoreUnavailable
Follows  design.md section 8: tokens are 256 random bits, kept as SHA-256

Thread-safe and blocking. A token that was found is remembered for five seconds, as on HTTP: one
that is switched off is refused after that time, in sessions that are open too.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from mailcore.reception import Identity
from mailio.ledger.pool import Session

REMEMBERED_S = 5.0
SCOPE = "messages:send"
_MOST_REMEMBERED = 10_000
_MOST_CHARACTERS = 200
_FIND = """
SELECT id, name, account_id,
       last_used_at IS NULL OR last_used_at < statement_timestamp() - interval '5 minutes'
  FROM accounts_apitoken
 WHERE token_hash = %s AND is_active AND account_id IS NOT NULL
   AND (expires_at IS NULL OR expires_at > statement_timestamp())
   AND scopes::text[] @> ARRAY[%s]
"""
_USED = "UPDATE accounts_apitoken SET last_used_at = statement_timestamp() WHERE id = %s"


@dataclass(frozen=True, slots=True)
class _Token:
    number: int
    name: str
    account_id: int


class TokenDesk:
    """Checks tokens."""

    def __init__(self, dsn: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._session = Session(dsn, role="smtp-tokens", statement_timeout_s=10.0)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._found: dict[str, tuple[float, _Token]] = {}

    def identify(self, user: str, password: str) -> Identity | None:
        """Return for whom these credentials send, None if they are none."""
        if not password or len(password) > _MOST_CHARACTERS:
            return None
        credential = hashlib.sha256(password.encode()).hexdigest()
        token = self._token(credential)
        if token is None:
            return None
        is_named = hmac.compare_digest(user.encode(), token.name.encode())
        if not is_named and user != str(token.number):
            return None
        return Identity(token.account_id, credential)

    def is_valid(self, identity: Identity) -> bool:
        """Whether what a session logged in with still holds."""
        token = self._token(identity.credential)
        return token is not None and token.account_id == identity.account_id

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def _token(self, credential: str) -> _Token | None:
        now = self._monotonic()
        entry = self._found.get(credential)
        if entry is not None and now - entry[0] < REMEMBERED_S:
            return entry[1]
        rows = self._session.run(_FIND, (credential, SCOPE))
        token = _Token(int(rows[0][0]), str(rows[0][1]), int(rows[0][2])) if rows else None
        if token is not None and rows[0][3]:
            self._session.run(_USED, (token.number,))
        with self._lock:
            if len(self._found) >= _MOST_REMEMBERED:
                self._found.clear()
            self._found.pop(credential, None)
            if token is not None:
                self._found[credential] = (now, token)
        return token
