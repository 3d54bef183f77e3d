"""A snapshot as bytes, and back.

Gives    encode -> Encoded (bytes, digest, schema version); decode
Takes    a PolicySnapshot; stored bytes with the digest and revision stored beside them
Raises   SchemaError for bytes that are damaged, of a schema we do not read, or of another shape
Follows  style.md section 4: workers read schema N and N-1, so the fleet upgrades first

The bytes are canonical JSON (sorted keys, no spaces), compressed. The digest is of the JSON, and
the revision is not in it: equal rows give equal digests, whatever number they are stored under.
"""

from __future__ import annotations

import functools
import hashlib
import json
import types
import typing
import zlib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from enum import Enum
from typing import Any

from mailcore.errors import SchemaError
from mailcore.policy.model import SCHEMA_VERSION, PolicySnapshot

OLDEST_READ = max(1, SCHEMA_VERSION - 1)
MAX_JSON_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Encoded:
    """A snapshot ready to be stored."""

    body: bytes
    digest: str
    schema_version: int


def encode(snapshot: PolicySnapshot) -> Encoded:
    """Return the stored form of a snapshot; its revision is stored beside it."""
    plain = _to_plain(snapshot)
    del plain["revision"]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    return Encoded(zlib.compress(text, 6), _digest(text), snapshot.schema_version)


def decode(body: bytes, *, digest: str, revision: int) -> PolicySnapshot:
    """Return the snapshot that these bytes hold, under the revision they are stored as."""
    text = _decompress(body)
    if _digest(text) != digest:
        raise SchemaError(f"policy revision {revision}: the bytes do not match their digest")
    try:
        plain = json.loads(text)
    except ValueError as exc:
        raise SchemaError(f"policy revision {revision}: no JSON: {exc}") from exc
    if not isinstance(plain, dict):
        raise SchemaError(f"policy revision {revision}: no snapshot")
    schema = plain.get("schema_version")
    if not isinstance(schema, int) or not OLDEST_READ <= schema <= SCHEMA_VERSION:
        raise SchemaError(
            f"policy revision {revision} has schema {schema!r}; this program reads "
            f"{OLDEST_READ} to {SCHEMA_VERSION}"
        )
    try:
        snapshot = _from_plain(PolicySnapshot, {**plain, "revision": revision}, "snapshot")
    except (TypeError, ValueError, KeyError) as exc:
        raise SchemaError(f"policy revision {revision}: {exc}") from exc
    assert isinstance(snapshot, PolicySnapshot)  # noqa: S101 (for the type checker)
    return replace(snapshot, schema_version=SCHEMA_VERSION)


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _decompress(body: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(body, MAX_JSON_BYTES)
    except zlib.error as exc:
        raise SchemaError(f"a policy that cannot be unpacked: {exc}") from exc
    if not unpacker.eof or unpacker.unused_data:
        raise SchemaError("a policy that is cut short, too large, or followed by something else")
    return text


# --- values to JSON -------------------------------------------------------------------------------


def _to_plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_to_plain(item) for item in value]
    return value


# --- and back, as the types of the model say ------------------------------------------------------


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _from_plain(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin is tuple:
        return _tuple(typing.get_args(kind), value, where)
    if origin is not None:
        key_kind, item_kind = typing.get_args(kind)
        _expect(isinstance(value, dict), where, "an object")
        return types.MappingProxyType(
            {
                key_kind(key): _from_plain(item_kind, item, f"{where}/{key}")
                for key, item in value.items()
            }
        )
    if is_dataclass(kind):
        return _instance(typing.cast(type, kind), value, where)
    if issubclass(kind, Enum):
        return kind(value)
    if kind is float:
        _expect(isinstance(value, int | float) and not isinstance(value, bool), where, "a number")
        return float(value)
    _expect(type(value) is kind, where, kind.__name__)
    return value


def _tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    _expect(isinstance(value, list), where, "a list")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_from_plain(kinds[0], item, where) for item in value)
    _expect(len(value) == len(kinds), where, f"{len(kinds)} items")
    return tuple(_from_plain(kind, item, where) for kind, item in zip(kinds, value, strict=True))


def _instance(kind: type, value: Any, where: str) -> Any:
    """Build a dataclass; what an older schema did not have yet takes its default."""
    _expect(isinstance(value, dict), where, "an object")
    hints = _hints(kind)
    if unknown := sorted(value.keys() - hints.keys()):
        raise ValueError(f"{where} has a field {unknown[0]!r}, which is not known here")
    given = {}
    for field in fields(kind):
        if field.name in value:
            place = f"{where}/{field.name}"
            given[field.name] = _from_plain(hints[field.name], value[field.name], place)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{where} has no field {field.name!r}")
    return kind(**given)


def _expect(is_right: bool, where: str, what: str) -> None:
    if not is_right:
        raise TypeError(f"{where} is not {what}")
