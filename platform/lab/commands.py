"""Read SMTP command lines as a strict receiver does.

Gives    parse_line() -> (verb, argument); parse_mail() -> MailCommand; parse_rcpt() -> RcptCommand
Takes    a line without its CRLF; what was offered at EHLO
Raises   Refused, which carries the reply to give
Follows  RFC 5321 §4.1.1, RFC 1870 (SIZE), RFC 6152 (BODY), RFC 6531 (SMTPUTF8), RFC 3461 (DSN)
"""

import re
from collections.abc import Container
from dataclasses import dataclass

from lab.manner import Extension

MAX_LINE_BYTES = 2048  # RFC 5321 asks for 512; its extensions and SMTPUTF8 lengthen that

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+"
_LABEL = (
    r"[A-Za-z0-9\u0080-\U0010ffff](?:[A-Za-z0-9\u0080-\U0010ffff-]*[A-Za-z0-9\u0080-\U0010ffff])?"
)
_QUOTED = r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e\u0080-\U0010ffff]|\\[\x20-\x7e])*"'
_MAILBOX = re.compile(
    rf"(?P<local>{_ATEXT}(?:\.{_ATEXT})*|{_QUOTED})@"
    rf"(?P<domain>{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.IPv]+\])\Z"
)
_PATH = re.compile(r"<(?P<path>(?:[^<>\"]|\"(?:[^\"\\]|\\.)*\")*)>(?P<rest>.*)\Z")
_PARAMETER = re.compile(
    r"(?P<key>[A-Za-z0-9][A-Za-z0-9-]*)(?:=(?P<value>[\x21-\x3c\x3e-\x7e]+))?\Z"
)
_XTEXT = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*\Z")
_NOTIFY = frozenset({"SUCCESS", "FAILURE", "DELAY"})


class Refused(Exception):
    """A command the receiver does not take; `reply` is what it answers."""

    def __init__(self, reply: str) -> None:
        super().__init__(reply)
        self.reply = reply


@dataclass(frozen=True, slots=True)
class MailCommand:
    """MAIL FROM with its parameters."""

    reverse_path: str
    size_bytes: int | None = None
    is_eight_bit: bool = False
    is_utf8: bool = False
    ret: str | None = None
    envid: str | None = None


@dataclass(frozen=True, slots=True)
class RcptCommand:
    """RCPT TO with its parameters; `domain` is lower case, the local part as it came."""

    forward_path: str
    domain: str
    notify: tuple[str, ...] = ()
    orcpt: str | None = None


def parse_line(line: bytes) -> tuple[str, str]:
    """Split a command line into its verb in upper case and the argument as it came."""
    if b"\n" in line or b"\r" in line or b"\0" in line:
        raise Refused("500 5.5.2 Bare CR, LF or NUL in a command")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise Refused("500 5.5.2 Command is neither ASCII nor UTF-8") from None
    verb, _, argument = text.partition(" ")
    return verb.upper(), argument


def _split(argument: str, keyword: str) -> tuple[str, dict[str, str | None]]:
    """Split `FROM:<path> KEY=value ...` into the path and its parameters."""
    if argument[: len(keyword)].upper() != keyword:
        raise Refused(f"501 5.5.4 Syntax: {keyword}<address>")
    match = _PATH.match(argument[len(keyword) :])
    if match is None:
        raise Refused(f"501 5.5.4 Syntax: {keyword}<address>, no space after the colon")
    parameters: dict[str, str | None] = {}
    rest = match["rest"]
    if rest and not rest.startswith(" "):
        raise Refused("501 5.5.4 A space must follow the address")
    for word in rest.split():
        parameter = _PARAMETER.match(word)
        if parameter is None:
            raise Refused(f"501 5.5.4 Malformed parameter {word!a}")
        key = parameter["key"].upper()
        if key in parameters:
            raise Refused(f"501 5.5.4 Parameter {key} given twice")
        parameters[key] = parameter["value"]
    return match["path"], parameters


def _mailbox(path: str, *, is_utf8: bool, what: str) -> str:
    """Check an address and return its domain in lower case."""
    enhanced = "5.1.7" if what == "sender" else "5.1.3"
    if not path.isascii() and not is_utf8:
        raise Refused("553 5.6.7 Address needs SMTPUTF8")
    match = _MAILBOX.match(path)
    if match is None:
        raise Refused(f"501 {enhanced} Bad {what} address syntax")
    local, domain = match["local"], match["domain"]
    if len(local.encode()) > 64 or len(domain.encode()) > 255:
        raise Refused(f"501 {enhanced} Local part over 64 or domain over 255 octets")
    return domain.lower()


def _choice(value: str | None, choices: Container[str], key: str) -> str:
    if value is None or value.upper() not in choices:
        raise Refused(f"501 5.5.4 Bad value of {key}")
    return value.upper()


def _known(
    parameters: dict[str, str | None], offered: dict[str, Extension], has: Container[Extension]
) -> None:
    for key in parameters:
        if key not in offered or offered[key] not in has:
            raise Refused(f"555 5.5.4 Parameter {key} was not offered")


_MAIL_PARAMETERS = {
    "SIZE": Extension.SIZE,
    "BODY": Extension.EIGHT_BIT_MIME,
    "SMTPUTF8": Extension.SMTPUTF8,
    "RET": Extension.DSN,
    "ENVID": Extension.DSN,
}
_RCPT_PARAMETERS = {"NOTIFY": Extension.DSN, "ORCPT": Extension.DSN}


def parse_mail(argument: str, offered: Container[Extension], *, max_size_bytes: int) -> MailCommand:
    """Read the argument of MAIL."""
    path, parameters = _split(argument, "FROM:")
    _known(parameters, _MAIL_PARAMETERS, offered)
    is_utf8 = "SMTPUTF8" in parameters
    if is_utf8 and parameters["SMTPUTF8"] is not None:
        raise Refused("501 5.5.4 SMTPUTF8 takes no value")
    if path:
        _mailbox(path, is_utf8=is_utf8, what="sender")
    size: int | None = None
    if "SIZE" in parameters:
        value = parameters["SIZE"] or ""
        if not (value.isascii() and value.isdigit() and len(value) <= 20):
            raise Refused("501 5.5.4 Bad value of SIZE")
        size = int(value)
        if size > max_size_bytes:
            raise Refused(f"552 5.3.4 Message is over {max_size_bytes} bytes")
    body = _choice(parameters["BODY"], {"7BIT", "8BITMIME"}, "BODY") if "BODY" in parameters else ""
    ret = _choice(parameters["RET"], {"FULL", "HDRS"}, "RET") if "RET" in parameters else None
    envid = parameters.get("ENVID")
    if "ENVID" in parameters and (not envid or len(envid) > 100 or not _XTEXT.match(envid)):
        raise Refused("501 5.5.4 Bad value of ENVID")
    return MailCommand(path, size, body == "8BITMIME", is_utf8, ret, envid)


def parse_rcpt(argument: str, offered: Container[Extension], *, is_utf8: bool) -> RcptCommand:
    """Read the argument of RCPT."""
    path, parameters = _split(argument, "TO:")
    if not path:
        raise Refused("501 5.1.3 An empty forward-path is no recipient")
    _known(parameters, _RCPT_PARAMETERS, offered)
    if path.lower() == "postmaster":
        raise Refused("550 5.1.1 Give the postmaster with a domain")
    domain = _mailbox(path, is_utf8=is_utf8, what="recipient")
    notify: tuple[str, ...] = ()
    if "NOTIFY" in parameters:
        notify = tuple((parameters["NOTIFY"] or "").upper().split(","))
        if notify != ("NEVER",) and not (
            set(notify) <= _NOTIFY and len(set(notify)) == len(notify)
        ):
            raise Refused("501 5.5.4 Bad value of NOTIFY")
    orcpt = parameters.get("ORCPT")
    if "ORCPT" in parameters:
        kind, found, address = (orcpt or "").partition(";")
        if not (kind and found and address and len(address) <= 500):
            raise Refused("501 5.5.4 Bad value of ORCPT")
    return RcptCommand(path, domain, notify, orcpt)
