"""The records of a journal: framing and outcomes as bytes.

Gives    record, whole_records (kind, payload length, CRC-32, payload; little-endian)
         encode_outcome, decode_outcome
Raises   SchemaError for a payload that is no outcome of ours
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from mailcore.errors import SchemaError
from mailcore.outcome import Outcome, Scope, SessionInfo, Verdict
from mailcore.reply import EnhancedStatus, SmtpReply

DOT, OUTCOME, FORGET = 1, 2, 3
_HEAD = struct.Struct("<BII")  # kind, payload length, CRC-32 of kind and payload
_CRC_OF_KIND = {kind: zlib.crc32(bytes([kind])) for kind in (DOT, OUTCOME, FORGET)}


def encode_outcome(outcome: Outcome) -> bytes:
    """Return an outcome as compact JSON."""
    reply, enhanced, session = outcome.reply, outcome.reply.enhanced, outcome.session
    fields = [
        outcome.row_id,
        outcome.claim_no,
        outcome.verdict.value,
        outcome.scope.value,
        reply.code,
        reply.lines,
        None if enhanced is None else [enhanced.klass, enhanced.subject, enhanced.detail],
        reply.is_local,
        outcome.stage,
        [
            session.mx_host,
            session.mx_address,
            session.source_address,
            session.ehlo_name,
            session.tls_version,
            session.tls_cipher,
            session.tls_policy,
            session.tls_result,
            # Last, and only where it says something: readers before it know six.
            *((True,) if session.offers_dsn else ()),
        ],
        outcome.dialogue_ms,
        outcome.after_dot,
        outcome.source_id,
        outcome.occurred_ms,
    ]
    return json.dumps(fields, separators=(",", ":")).encode("ascii")


def decode_outcome(payload: bytes) -> Outcome:
    """Return the outcome; SchemaError for what is none of ours."""
    try:
        fields: list[Any] = json.loads(payload)
        row_id, claim_no, verdict, scope, code, lines, enhanced, is_local = fields[:8]
        stage, session, dialogue_ms, after_dot, source_id, occurred_ms = fields[8:]
        status = None if enhanced is None else EnhancedStatus(*enhanced)
        return Outcome(
            row_id=row_id,
            claim_no=claim_no,
            verdict=Verdict(verdict),
            scope=Scope(scope),
            reply=SmtpReply(code, tuple(lines), status, is_local),
            stage=stage,
            session=SessionInfo(*session),
            dialogue_ms=dialogue_ms,
            after_dot=after_dot,
            source_id=source_id,
            occurred_ms=occurred_ms,
        )
    except (ValueError, TypeError) as exc:
        raise SchemaError(f"a journaled outcome cannot be read: {exc}") from exc


def record(kind: int, payload: bytes) -> bytes:
    """Return a record with its checksum."""
    return _HEAD.pack(kind, len(payload), zlib.crc32(payload, _CRC_OF_KIND[kind])) + payload


def whole_records(raw: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield kind, payload and end of each whole record; stop at the first that is not."""
    offset = 0
    while offset + _HEAD.size <= len(raw):
        kind, length, crc = _HEAD.unpack_from(raw, offset)
        offset += _HEAD.size
        payload = raw[offset : offset + length]
        offset += length
        if kind not in _CRC_OF_KIND or len(payload) != length:
            return
        if zlib.crc32(payload, _CRC_OF_KIND[kind]) != crc:
            return
        yield kind, payload, offset
