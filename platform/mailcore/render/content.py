"""What a message is once it is sound, and the few forms every header field must have.

Gives    Content; Field, parse_fields, split_content; fold_field, encode_text, format_mailbox,
         encode_mailboxes, read_mailbox, refuse
Raises   SubmissionRefused with the pointer it was given
Follows  RFC 5322 §§2.1.1, 2.2, 3.4; RFC 2047 §2; RFC 6532 §3
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.errors import MessageError
from email.header import decode_header, make_header
from email.headerregistry import HeaderRegistry
from typing import Any, NoReturn
from uuid import UUID

from mailcore.address import ForwardPath
from mailcore.errors import AddressError, Problem, SubmissionRefused

MAX_LINE = 998
MAX_HEADER_BYTES = 128 * 1024
MAX_MAILBOX = 1000
_FIELD = re.compile(rb"([\x21-\x39\x3b-\x7e]+)[ \t]*:")
# What the standard library's parser is known to raise on input it did not foresee.
PARSER_FAULTS = (
    AttributeError, IndexError, RecursionError, TypeError, ValueError, MessageError,
)  # fmt: skip
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\- ]*\Z")
_BLANKS = re.compile(rb"[ \t]{64,}")
_ADDR = r"[^<>()\",:;\s\\]+@[^<>()\",:;\s\\]+"
_MAILBOX = re.compile(
    rf'(?:(?P<name>"(?:[^"\\]|\\.)*"\s*|[^"<>(),:;@\\\[\]]*)<(?P<inner>{_ADDR})>|(?P<bare>{_ADDR}))'
)


@dataclass(frozen=True, slots=True)
class Content:
    """A sound message: CRLF bytes, and what the envelope and the events need of its header.

    `header_from` is the one mailbox of the From field; `subject` is decoded.
    """

    content: bytes
    header_from: ForwardPath
    message_id_header: str
    subject: str


@dataclass(frozen=True, slots=True)
class Field:
    """One header field. `raw` is name, colon and value with inner CRLFs, without the last one."""

    name: str
    raw: bytes

    @property
    def key(self) -> str:
        """The name to compare by."""
        return self.name.lower()

    @property
    def value(self) -> bytes:
        """The unfolded value."""
        return self.raw.partition(b":")[2].replace(b"\r\n", b"").strip()


def refuse(pointer: str, code: str, detail: str) -> NoReturn:
    """Raise SubmissionRefused with one problem."""
    raise SubmissionRefused([Problem(pointer, code, detail)])


def message_id_of(message_id: UUID, domain: str) -> str:
    """Return the Message-ID field of a message that brought none."""
    return f"<{message_id.hex}@{domain}>"


# ── header sections ───────────────────────────────────────────────────────────────────────────


def split_content(raw: bytes) -> tuple[bytes, bytes]:
    """Return the header section without its last line end, and the body."""
    if raw.startswith(b"\r\n"):
        return b"", raw[2:]
    head, blank, body = raw.partition(b"\r\n\r\n")
    return (head, body) if blank else (raw.removesuffix(b"\r\n"), b"")


def parse_fields(head: bytes, *, pointer: str) -> list[Field]:
    """Return the fields of a header section in order."""
    if len(head) > MAX_HEADER_BYTES:
        refuse(pointer, "header_too_large", f"the header section exceeds {MAX_HEADER_BYTES} octets")
    fields: list[Field] = []
    name, lines = "", list[bytes]()
    for number, line in enumerate(head.split(b"\r\n") if head else (), 1):
        if line[:1] in (b" ", b"\t") and lines:
            if not line.isspace():
                lines.append(line)
            continue
        match = _FIELD.match(line)
        if match is None:
            refuse(pointer, "malformed_header", f"line {number} of the header is no header field")
        if lines:
            fields.append(Field(name, b"\r\n".join(lines)))
        # Blanks before the colon are obsolete, and some signers cannot read them.
        name, lines = match[1].decode("ascii"), [match[1] + line[match.end() - 1 :]]
    if lines:
        fields.append(Field(name, b"\r\n".join(lines)))
    return fields


def join_content(fields: Sequence[Field], body: bytes) -> bytes:
    """Return the message of these fields and this body."""
    return b"".join([*(field.raw + b"\r\n" for field in fields), b"\r\n", body])


def fold_field(field: Field, *, pointer: str) -> Field:
    """Return the field with no line over 998 octets, broken where it has blanks."""
    if max(map(len, field.raw.split(b"\r\n"))) <= MAX_LINE:
        return field
    lines: list[bytes] = []
    for line in _BLANKS.sub(b" ", field.raw).split(b"\r\n"):
        rest = line
        while len(rest) > MAX_LINE:
            cut = max(rest.rfind(b" ", 1, MAX_LINE), rest.rfind(b"\t", 1, MAX_LINE))
            if cut <= len(field.name) + 1 and (not lines or not rest[:cut].strip()):
                refuse(
                    pointer,
                    "header_line_too_long",
                    f"the field {field.name} has a line over {MAX_LINE} octets without a blank",
                )
            lines.append(rest[:cut])
            rest = rest[cut:]
        lines.append(rest)
    return Field(field.name, b"\r\n".join(line for line in lines if not line.isspace()))


# ── text in header fields ─────────────────────────────────────────────────────────────────────


def encode_words(text: str, *, used: int) -> str:
    """Return text as RFC 2047 encoded words, folded; `used` octets of the first line are taken."""
    words: list[str] = []
    chunk = bytearray()
    room = _room(used)
    for character in text:
        piece = character.encode()
        if chunk and len(chunk) + len(piece) > room:
            words.append(base64.b64encode(chunk).decode("ascii"))
            chunk.clear()
            room = _room(1)
        chunk += piece
    words.append(base64.b64encode(chunk).decode("ascii"))
    return "\r\n ".join(f"=?utf-8?B?{word}?=" for word in words)


def _room(used: int) -> int:
    return max(4, (76 - used - 12) // 4 * 3)


def encode_text(name: str, text: str) -> bytes:
    """Return a whole field of unstructured text, encoded and folded as it needs."""
    line = f"{name}: {text}"
    words = text.split(" ")
    # Blanks at a fold are easily lost, and a word cannot be folded: encoded, both are safe.
    is_odd = len(line) > 900 and ("" in words or "\t" in text or max(map(len, words)) > 900)
    if is_odd or not text.isascii():
        return f"{name}: {encode_words(text, used=len(name) + 2)}".encode("ascii")
    if len(line) <= 78 or "" in words or "\t" in text:
        return line.encode("ascii")
    lines = [f"{name}: {words[0]}"]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) <= 75:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\r\n ".join(lines).encode("ascii")


def decode_text(value: bytes) -> str:
    """Return unstructured text as people read it; as it is when its encoding is damaged."""
    text = value.decode("utf-8", "replace")
    if "=?" not in text:
        return text
    try:
        return str(make_header(decode_header(text)))
    except (LookupError, ValueError, MessageError):
        return text


def format_mailbox(name: str, address: ForwardPath, *, used: int = 1) -> str:
    """Return `"Name" <address>` for a header field, encoded as it needs."""
    if not name:
        return str(address)
    if not name.isascii():
        return f"{encode_words(name, used=used)} <{address}>"
    if _ATOMS.match(name) and "=?" not in name:
        return f"{name} <{address}>"
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}" <{address}>'


def encode_mailboxes(name: str, text: str) -> bytes:
    """Return a whole field of mailboxes, their names encoded; else AddressError."""
    shown = [
        format_mailbox(*read_mailbox(part), used=len(name) + 2) for part in split_mailboxes(text)
    ]
    return f"{name}: {f',{chr(13)}{chr(10)} '.join(shown)}".encode()


def split_mailboxes(text: str) -> list[str]:
    """Split a list of mailboxes at the commas that stand in no quoted string."""
    parts: list[str] = []
    is_open = False
    for piece in text.split(","):
        if is_open:
            parts[-1] += f",{piece}"
        else:
            parts.append(piece)
        quotes = piece.replace("\\\\", "").replace('\\"', "").count('"')
        is_open ^= quotes % 2 == 1
    return [part for part in parts if part.strip()]


def read_mailbox(text: str) -> tuple[str, ForwardPath]:
    """Return display name and address of a text that holds one mailbox; else AddressError."""
    text = text.strip()
    if len(text) > MAX_MAILBOX:
        raise AddressError(f"the mailbox is longer than {MAX_MAILBOX} characters")
    match = _MAILBOX.fullmatch(text)
    if match is None:
        return _read_odd_mailbox(text)
    if match["bare"]:
        return "", ForwardPath.parse(match["bare"])
    name = match["name"].strip()
    if name.startswith('"'):
        name = re.sub(r"\\(.)", r"\1", name[1:-1])
    return name, ForwardPath.parse(match["inner"])


def _read_odd_mailbox(text: str) -> tuple[str, ForwardPath]:
    """The forms that hardly anybody writes: comments, quoted local parts, groups."""
    try:
        header: Any = HeaderRegistry()("from", text)
    except PARSER_FAULTS as exc:
        raise AddressError(f"{text!r} is not one mailbox") from exc
    if header.defects or len(header.addresses) != 1:
        raise AddressError(f"{text!r} is not one mailbox")
    if header.groups[0].display_name:
        raise AddressError(f"{text!r} is a group, not a mailbox")
    address = header.addresses[0]
    return address.display_name, ForwardPath.parse(address.addr_spec)
