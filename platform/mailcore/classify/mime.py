"""Read a message that nobody vouches for: its header fields and its tree of parts, within limits.

Gives    Part, Limits, read_part; header_block, decoded_words
Takes    bytes as they came, whole or cut anywhere
Raises   nothing, whatever the bytes are
Follows  RFC 5322 §2.2 (fields, folding), RFC 2045 and 2046 (parts), RFC 2047 (encoded words),
         RFC 6532 (UTF-8 in fields)

The time it takes is bound by the size: every step looks at each octet a fixed number of times, and
no more than `depth` levels are looked into. What is beyond a limit is not read, and nothing says
so: a report has what matters at its beginning.
"""

from __future__ import annotations

import binascii
import quopri
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

_WORD = re.compile(r"=\?([\w.:+-]{1,40})(?:\*[\w-]{1,20})?\?([bBqQ])\?([^?\s]{0,2000})\?=")
_BETWEEN_WORDS = re.compile(r"(\?=)\s{1,100}(=\?)")
_PARAMETER = re.compile(r';\s{0,100}([\w.*-]{1,60})=(?:"([^"]{0,1000})"|([^\s;"]{0,1000}))')
_TYPE = re.compile(r"\s*([\w.+-]{1,80}/[\w.+-]{1,120})")
# Others of Python's codecs are no character sets, or take more than linear time.
_CHARSET = re.compile(
    r"utf-?8|us-ascii|ascii|latin-?1|iso-?8859-?\d{1,2}|windows-\d{3,4}|cp\d{3,4}|koi8-[ru]|gb2312"
    r"|gbk|gb18030|big5|shift_jis|euc-(?:jp|kr)|iso-2022-(?:jp|kr)"
)
_NESTED = frozenset({"message/rfc822", "message/global"})


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a message is looked at."""

    size_bytes: int = 256 * 1024
    header_bytes: int = 64 * 1024
    fields: int = 500
    field_chars: int = 8192
    depth: int = 6
    parts: int = 60


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Part:
    """A message or a part of one. Names of fields are lower case, values unfolded.

    `body` is decoded (base64, quoted-printable); of what has parts it is what stands before them.
    """

    fields: tuple[tuple[str, str], ...]
    media_type: str
    parameters: Mapping[str, str]
    body: bytes
    parts: tuple[Part, ...] = field(default=())

    def get(self, name: str) -> str:
        """Return the first field of this name, "" if there is none."""
        return next((value for key, value in self.fields if key == name), "")

    def get_all(self, *names: str) -> tuple[str, ...]:
        """Return the fields of these names, in the order of the names."""
        return tuple(v for name in names for key, v in self.fields if key == name)

    def walk(self) -> Iterator[Part]:
        """Yield this part and all below it, in the order they stand."""
        yield self
        for part in self.parts:
            yield from part.walk()

    @property
    def text(self) -> str:
        """The body as text, by its charset or as UTF-8; what is neither is replaced."""
        return decode_text(self.body, self.parameters.get("charset", "utf-8"))


def decode_text(octets: bytes, charset: str) -> str:
    """Return octets as text; never fails."""
    name = charset.strip().lower()
    try:
        return octets.decode(name if _CHARSET.fullmatch(name) else "utf-8", "replace")
    except (LookupError, UnicodeError):
        return octets.decode("latin-1")


def decoded_words(text: str) -> str:
    """Return a field's value with its encoded words decoded."""
    if "=?" not in text:
        return text
    return _WORD.sub(_decoded_word, _BETWEEN_WORDS.sub(r"\1\2", text))


def _decoded_word(found: re.Match[str]) -> str:
    charset, encoding, content = found.groups()
    octets = content.encode("utf-8", "replace")
    if encoding in "bB":
        return decode_text(_from_base64(octets), charset)
    return decode_text(quopri.decodestring(octets, header=True), charset)


def _from_base64(octets: bytes) -> bytes:
    """Decode what can be decoded; a cut or dirty end costs only itself."""
    clean = re.sub(rb"[^A-Za-z0-9+/]", b"", octets)
    if len(clean) % 4 == 1:
        clean = clean[:-1]
    try:
        return binascii.a2b_base64(clean + b"=" * (-len(clean) % 4))
    except binascii.Error:
        return b""


def header_block(
    octets: bytes, start: int = 0, *, limits: Limits = DEFAULT_LIMITS
) -> tuple[tuple[tuple[str, str], ...], int]:
    """Return the fields that begin at `start`, and where the body begins.

    A line that is neither a field nor its continuation ends the header (a lost empty line).
    """
    found: list[tuple[str, list[str]]] = []
    at = start
    end = min(len(octets), start + limits.header_bytes)
    while at < end:
        stop = octets.find(b"\n", at, end)
        after = stop + 1 if stop >= 0 else end
        line = octets[at:after].rstrip(b"\r\n")
        if not line:
            return _joined(found, limits), after
        if line[:1] in b" \t":
            if found:
                found[-1][1].append(_to_text(line.strip()))
        else:
            name, colon, value = line.partition(b":")
            is_field = colon and 0 < len(name) <= 100 and b" " not in name.strip()
            if not is_field and not (line.startswith(b"From ") and not found):
                return _joined(found, limits), at
            if is_field and len(found) < limits.fields:
                found.append((_to_text(name.strip()).lower(), [_to_text(value.strip())]))
        at = after
    return _joined(found, limits), at


def _joined(found: Sequence[tuple[str, list[str]]], limits: Limits) -> tuple[tuple[str, str], ...]:
    return tuple((name, " ".join(lines)[: limits.field_chars]) for name, lines in found)


def _to_text(octets: bytes) -> str:
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        return octets.decode("latin-1")


class _Budget:
    """How many more parts may be read of one message."""

    def __init__(self, parts: int) -> None:
        self.left = parts

    def take(self) -> bool:
        self.left -= 1
        return self.left >= 0


def read_part(octets: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Part:
    """Return the tree of a message, of its first `limits.size_bytes` octets."""
    return _read(octets[: limits.size_bytes], limits, limits.depth, _Budget(limits.parts), "")


def _read(octets: bytes, limits: Limits, depth: int, budget: _Budget, default: str) -> Part:
    fields, at = header_block(octets, limits=limits)
    content_type = next((v for k, v in fields if k == "content-type"), "")
    media_type, parameters = content_type_of(content_type, default or "text/plain")
    body = octets[at:]
    encoding = next((v for k, v in fields if k == "content-transfer-encoding"), "")
    boundary = parameters.get("boundary", "")
    if media_type.startswith("multipart/") and boundary and depth > 0:
        inner = "message/rfc822" if media_type == "multipart/digest" else ""
        preamble, pieces = _divide(body, boundary.encode("utf-8", "replace"))
        parts = tuple(
            _read(piece, limits, depth - 1, budget, inner) for piece in pieces if budget.take()
        )
        if parts:
            return Part(fields, media_type, parameters, preamble, parts)
    if media_type.startswith("multipart/"):
        # Its boundary was lost on the way: what is left is a text.
        media_type = "text/plain"
    body = _decoded(body, encoding)
    if media_type in _NESTED and depth > 0 and budget.take():
        inside = _read(body, limits, depth - 1, budget, "")
        return Part(fields, media_type, parameters, b"", (inside,))
    return Part(fields, media_type, parameters, body)


def content_type_of(value: str, default: str) -> tuple[str, dict[str, str]]:
    """Return media type and parameters, both lower case but for the parameters' values."""
    found = _TYPE.match(value)
    if found is None:
        return default, {}
    parameters: dict[str, str] = {}
    for name, quoted, plain in _PARAMETER.findall(value[found.end() :]):
        parameters.setdefault(name.lower().rstrip("*"), quoted or plain)
    return found[1].lower(), parameters


def _divide(body: bytes, boundary: bytes) -> tuple[bytes, list[bytes]]:
    """Cut a multipart at its boundary lines; the last part may lack its end."""
    mark = b"--" + boundary
    cuts = [(m.start(), m.end()) for m in re.finditer(rb"(?m)^" + re.escape(mark), body)]
    if not cuts:
        return body, []
    pieces: list[bytes] = []
    for number, (_, end) in enumerate(cuts):
        line_end = body.find(b"\n", end)
        rest = body[end : line_end if line_end >= 0 else len(body)].strip()
        if rest == b"--":
            break
        if rest:
            # Another boundary that begins with this one.
            continue
        stop = cuts[number + 1][0] if number + 1 < len(cuts) else len(body)
        start = line_end + 1 if line_end >= 0 else len(body)
        pieces.append(body[start:stop])
    return body[: cuts[0][0]], pieces


def _decoded(body: bytes, encoding: str) -> bytes:
    name = encoding.strip().lower()
    if name == "base64":
        return _from_base64(body)
    if name == "quoted-printable":
        return quopri.decodestring(body)
    return body
