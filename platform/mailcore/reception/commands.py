"""Arguments of MAIL, RCPT, BDAT and EHLO, parsed.

Gives    read_mail, read_rcpt, read_bdat, read_greeting
Raises   CommandFault with the reply to give
Follows  RFC 5321 §4.1.1-4.1.2 (paths, parameters) and Appendix F.2 (source routes are dropped),
         RFC 1870 SIZE, RFC 6152 BODY, RFC 6531 SMTPUTF8, RFC 3461 §4 and
         RFC 6533 §3 (DSN), RFC 4954 §5 AUTH=, RFC 3030 §2 (BDAT)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mailcore.address import ForwardPath, ReversePath
from mailcore.dsn import MAX_ENVID, MAX_ORCPT, Notify, printable_xtext
from mailcore.errors import AddressError
from mailcore.reception.values import LetterRecipient
from mailcore.reply import SmtpReply

_PATH = re.compile(r'(FROM|TO): ?<((?:"(?:[^"\\]|\\.)*"|[^<>"\s])*)>(?: +(.*))?\Z', re.I)
_ROUTE = re.compile(r"@[^:]+:")
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([^\x00-\x20=\x7f]+))?\Z")
_SIZE = re.compile(r"[0-9]{1,20}\Z")
_XTEXT = r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})"
_ORCPT = re.compile(rf"[A-Za-z0-9-]{{1,40}};{_XTEXT}+\Z")
# An address in UTF-8 that was not written in ASCII: `utf-8-addr-unitext` of RFC 6533 §3.
_ORCPT_UTF8 = re.compile(
    r"utf-8;((?:[!-*,-<>-\[\]-~\u0080-\U0010ffff]|\\x\{[0-9A-F]{2,6}\})+)\Z", re.I
)
_UTF8 = re.compile(r"[\u0080-\U0010ffff]")
_IS_XTEXT = re.compile(rf"{_XTEXT}+\Z")
_SUBMITTER = re.compile(rf"{_XTEXT}{{1,500}}\Z")
_NOTIFY = frozenset(each.value for each in Notify if each is not Notify.NEVER)
_BDAT = re.compile(r"([0-9]{1,20})( +LAST)?\Z", re.I | re.A)
_GREETING = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}\Z")


class CommandFault(Exception):
    """A command that is answered with a refusal."""

    def __init__(self, code: int, enhanced: str, text: str) -> None:
        super().__init__(text)
        self.reply = SmtpReply.local(code, enhanced, text)


@dataclass(frozen=True, slots=True)
class Offered:
    """Which extensions a session has; without EHLO it has none."""

    is_extended: bool
    offers_dsn: bool
    is_tls: bool = False


@dataclass(frozen=True, slots=True)
class MailCommand:
    """MAIL FROM. `size` is what the client announced, 0 if nothing."""

    reverse_path: ReversePath
    size: int = 0
    needs_smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    requires_tls: bool = False


@dataclass(frozen=True, slots=True)
class BdatCommand:
    """BDAT."""

    count: int
    is_last: bool


def read_greeting(argument: str) -> str:
    """Return the name a client gives itself."""
    if _GREETING.match(argument) is None:
        raise CommandFault(501, "5.5.4", "the name must be a domain or an address literal")
    return argument


def read_mail(argument: str, offered: Offered) -> MailCommand:
    """Read what stands behind MAIL."""
    path, given = _split(argument, "FROM", offered)
    size, needs_smtputf8, ret, envid = 0, False, "", ""
    requires_tls = offered.is_tls and given.get("REQUIRETLS") == ""
    for name, value in given.items():
        if name == "SIZE" and _SIZE.match(value):
            size = int(value)
        elif name == "SMTPUTF8" and not value:
            needs_smtputf8 = True
        elif name == "REQUIRETLS" and requires_tls:
            pass  # RFC 8689: only under TLS, where it is offered
        elif (name == "BODY" and value.upper() in ("7BIT", "8BITMIME")) or (
            name == "AUTH" and _SUBMITTER.match(value)
        ):
            pass  # eight bits pass anyway; who was logged in elsewhere is nothing we act on
        elif name == "RET" and offered.offers_dsn and value.upper() in ("FULL", "HDRS"):
            ret = value.upper()
        elif name == "ENVID" and offered.offers_dsn and _is_envid(value):
            envid = value
        else:
            raise _bad_parameter(name, value, offered, "MAIL")
    try:
        reverse_path = ReversePath.parse(path)
    except AddressError as exc:
        raise CommandFault(553, "5.1.7", str(exc)) from exc
    if not needs_smtputf8 and not path.isascii():
        raise CommandFault(553, "5.6.7", "an address beyond ASCII needs the parameter SMTPUTF8")
    return MailCommand(reverse_path, size, needs_smtputf8, ret, envid, requires_tls)


def read_rcpt(
    argument: str, offered: Offered, *, allows_utf8: bool, postmaster: ForwardPath
) -> LetterRecipient:
    """Read what stands behind RCPT. A bare `postmaster` is ours (RFC 5321 §4.5.1)."""
    path, given = _split(argument, "TO", offered)
    notify, orcpt = "", ""
    for name, value in given.items():
        if name == "NOTIFY" and offered.offers_dsn and _is_notify(value.upper()):
            notify = value.upper()
        elif (
            name == "ORCPT"
            and offered.offers_dsn
            and (read := _read_orcpt(value, allows_utf8=allows_utf8))
        ):
            orcpt = read
        else:
            raise _bad_parameter(name, value, offered, "RCPT")
    if path.lower() == "postmaster":
        return LetterRecipient(postmaster, notify, orcpt)
    try:
        address = ForwardPath.parse(path)
    except AddressError as exc:
        raise CommandFault(553, "5.1.3", str(exc)) from exc
    if not allows_utf8 and not path.isascii():
        raise CommandFault(553, "5.6.7", "an address beyond ASCII needs SMTPUTF8 at MAIL")
    return LetterRecipient(address, notify, orcpt)


def _is_envid(value: str) -> bool:
    """An envelope id comes back in a header: what it stands for must be printable."""
    is_xtext = len(value) <= MAX_ENVID and _IS_XTEXT.match(value) is not None
    return is_xtext and printable_xtext(value) is not None


def _is_notify(value: str) -> bool:
    asked = value.split(",")
    return value == Notify.NEVER.value or (
        _NOTIFY.issuperset(asked) and len(set(asked)) == len(asked)
    )


def _read_orcpt(value: str, *, allows_utf8: bool) -> str:
    """Return the original recipient in ASCII, "" if it is none."""
    if len(value) > MAX_ORCPT:
        return ""
    if not value.isascii():
        found = _ORCPT_UTF8.match(value) if allows_utf8 else None
        if found is None or not value.isprintable():
            return ""
        return f"utf-8;{_UTF8.sub(_embedded, found[1])}"
    kind, _, text = value.partition(";")
    if _ORCPT.match(value) is None:
        return ""
    return value if kind.lower() == "utf-8" or printable_xtext(text) is not None else ""


def _embedded(found: re.Match[str]) -> str:
    return f"\\x{{{ord(found[0]):X}}}"


def read_bdat(argument: str) -> BdatCommand:
    """Read what stands behind BDAT."""
    match = _BDAT.match(argument)
    if match is None:
        raise CommandFault(501, "5.5.4", "syntax: BDAT octets [LAST]")
    return BdatCommand(int(match[1]), match[2] is not None)


def _split(argument: str, word: str, offered: Offered) -> tuple[str, dict[str, str]]:
    """Return the path without brackets and source route, and the parameters."""
    match = _PATH.match(argument)
    if match is None or match[1].upper() != word:
        verb = "MAIL" if word == "FROM" else "RCPT"
        raise CommandFault(501, "5.5.4", f"syntax: {verb} {word}:<address>")
    given: dict[str, str] = {}
    for text in (match[3] or "").split():
        parameter = _PARAMETER.match(text)
        if parameter is None:
            raise CommandFault(501, "5.5.4", f"a parameter is malformed: {text[:40]}")
        name = parameter[1].upper()
        if name in given:
            raise CommandFault(501, "5.5.4", f"the parameter {name} stands there twice")
        given[name] = parameter[2] or ""
    if given and not offered.is_extended:
        raise CommandFault(555, "5.5.4", "parameters need a session that began with EHLO")
    path = match[2]
    if path.startswith("@"):
        path = _ROUTE.sub("", path, count=1)
    return path, given


_KNOWN = {
    "MAIL": frozenset({"SIZE", "BODY", "SMTPUTF8", "AUTH"}),
    "RCPT": frozenset[str](),
}
_KNOWN_DSN = {"MAIL": frozenset({"RET", "ENVID"}), "RCPT": frozenset({"NOTIFY", "ORCPT"})}


def _bad_parameter(name: str, value: str, offered: Offered, verb: str) -> CommandFault:
    """555 for what is not offered here, 501 for a value nobody understands."""
    known = _KNOWN[verb] | (_KNOWN_DSN[verb] if offered.offers_dsn else frozenset())
    if offered.is_tls and verb == "MAIL":
        known |= {"REQUIRETLS"}
    if name not in known or (name == "BODY" and value.upper() == "BINARYMIME"):
        return CommandFault(555, "5.5.4", f"the parameter {name} is not offered at {verb}")
    return CommandFault(501, "5.5.4", f"the parameter {name} has a value that is none")
