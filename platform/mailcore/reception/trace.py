"""What a message carries for us in its header, and what we write on it.

Gives    count_received, received_field; read_orders: the `X-Postfleet-…` fields of a client
Raises   SubmissionRefused naming the field
Follows  RFC 5321 §4.4 (trace), RFC 3848 (`with`), RFC 5322 §3.6.7

The fields of `read_orders` are taken out by `mailcore.render.repair` before anything is sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import format_datetime
from typing import Any, NoReturn

from mailcore.errors import Problem, SubmissionRefused
from mailcore.reception.values import Letter
from mailcore.render.content import MAX_HEADER_BYTES, decode_text, parse_fields, split_content

PREFIX = "X-Postfleet-"
IDEMPOTENCY_KEY = "Idempotency-Key"
# The field's name behind the prefix, and what it is called in a request of the HTTP API.
ORDERS = {
    "Campaign": "campaign",
    "Custom": "custom",
    "Expires-At": "expires_at",
    IDEMPOTENCY_KEY: "idempotency_key",
    "Priority": "priority",
    "Send-At": "send_at",
    "Sender": "sender",
}
# What our own deliveries write; mail of ours that is forwarded to us carries it.
_NOT_ORDERS = frozenset({"token"})
_MARK = PREFIX.lower().encode("ascii")
# Blanks before the colon are RFC 5322's obsolete form, which everybody reads.
_RECEIVED = re.compile(rb"(?:\A|\r\n)received[ \t]*:", re.I)
_NUMBER = re.compile(r"[0-9]{1,9}\Z")
_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")


def count_received(content: bytes) -> int:
    """Return how many servers say that they had the message."""
    return len(_RECEIVED.findall(_head(content)))


def received_field(
    letter: Letter, *, host: str, queue_id: str, at: datetime, client: str = ""
) -> bytes:
    """Return our Received field, with its line end. Without `client` it names no address: an
    account's own network is nobody's business."""
    if client:
        origin = f"{letter.ehlo} ({_literal(client)})"
    else:
        # An address literal must not stand alone (RFC 5321 §4.4), and is an address.
        origin = "unknown" if letter.ehlo.startswith("[") else letter.ehlo
    stamp = f"by {host} (Postfleet) with {letter.protocol} id {queue_id}"
    return f"Received: from {origin}\r\n\t{stamp};\r\n\t{format_datetime(at)}\r\n".encode("ascii")


def _literal(address: str) -> str:
    """Return an address as RFC 5321 §4.1.3 writes it, without the zone of a link."""
    plain = address.partition("%")[0]
    return f"[IPv6:{plain}]" if ":" in plain else f"[{plain}]"


def read_orders(content: bytes) -> Mapping[str, Any]:
    """Return what the client asks for, named and typed as in a request of the HTTP API."""
    head = _head(content)
    if _MARK not in head.lower():
        return {}
    orders: dict[str, Any] = {}
    known = {name.lower(): key for name, key in ORDERS.items()}
    for field in parse_fields(head, pointer="/raw"):
        if not field.key.startswith(PREFIX.lower()):
            continue
        name = field.key.removeprefix(PREFIX.lower())
        if name in _NOT_ORDERS:
            continue
        key = known.get(name)
        if key is None:
            _refuse(field.name, f"there is no such field; there are {', '.join(ORDERS)}")
        if key in orders:
            _refuse(field.name, "the field stands more than once")
        orders[key] = _value(field.name, key, decode_text(field.value).strip())
    return orders


def _value(name: str, key: str, text: str) -> object:
    if key == "priority":
        words = {"true": True, "false": False, "1": True, "0": False}
        return words.get(text.lower(), text.lower())
    if key == "sender" and _NUMBER.match(text):
        return int(text)
    if key == "idempotency_key" and _KEY.match(text) is None:
        _refuse(name, "a key has 1 to 255 printable characters and no blank")
    if key == "custom":
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            _refuse(name, "an object in JSON is needed here")
    return text


def _refuse(name: str, detail: str) -> NoReturn:
    raise SubmissionRefused([Problem(f"/raw/{name[:80]}", "header", f"{name[:80]}: {detail}")])


def _head(content: bytes) -> bytes:
    return split_content(content[: MAX_HEADER_BYTES + 4])[0]
