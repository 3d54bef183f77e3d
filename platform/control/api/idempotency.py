"""Do once what a program may ask for twice: the Idempotency-Key of requests that write rows.

Gives    once -> Answer
Raises   ApiError: 422 when the key was used with another body
Follows  design.md section 2: the answer stands in the transaction that did the work. Submissions
         keep theirs in the accept statement (mailio.ledger.accept); keys are shared with them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from django.db import connection, transaction

from control.access import Actor
from control.api.problems import ApiError
from mailcore.ports import StoreUnavailable

_FIND = "SELECT body_hash, answer FROM ledger_idempotency WHERE account_id = %s AND key = %s"
_KEEP = """
INSERT INTO ledger_idempotency (account_id, key, body_hash, answer) VALUES (%s, %s, %s, %s)
ON CONFLICT DO NOTHING"""


class _TakenError(Exception):
    """Somebody else was first with this key."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What to answer: JSON, the number of the row made, and whether it is the first time's."""

    text: str
    number: int
    is_replayed: bool = False


def once(
    actor: Actor,
    key: str,
    request: tuple[str, bytes],
    work: Callable[[], tuple[int, dict[str, Any]]],
) -> Answer:
    """Do the work of a request (path, body), or return the answer to the same one before it.

    `work` makes a row and returns its number and how it is shown.
    """
    if not key:
        with transaction.atomic():
            return _answer(work())
    account_id = actor.account_id or 0
    digest = hashlib.sha256(request[0].encode() + b"\0" + request[1]).digest()
    stored = _stored(account_id, key, digest)
    if stored is not None:
        return stored
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            answer = _answer(work())
            cursor.execute(_KEEP, (account_id, key, digest, answer.text))
            if not cursor.rowcount:
                raise _TakenError
            return answer
    except _TakenError:
        found = _stored(account_id, key, digest)
        if found is None:
            raise StoreUnavailable("postgresql", "a key was taken and is gone") from None
        return found


def _answer(made: tuple[int, dict[str, Any]]) -> Answer:
    return Answer(json.dumps(made[1], ensure_ascii=False), made[0])


def _stored(account_id: int, key: str, digest: bytes) -> Answer | None:
    with connection.cursor() as cursor:
        cursor.execute(_FIND, (account_id, key))
        found = cursor.fetchone()
    if found is None:
        return None
    if bytes(found[0]) != digest:
        raise ApiError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "idempotency_key_reused",
            "this Idempotency-Key was used with another request",
            header="Idempotency-Key",
        )
    text = str(found[1])
    return Answer(text, int(json.loads(text)["id"]), is_replayed=True)
