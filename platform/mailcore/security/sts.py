"""MTA-STS: the record that says there is a policy, and the policy.

Gives    parse_sts_record, parse_sts_policy; StsPolicy, StsMode, StsAnswer, StsError; MAX_AGE_S,
         MAX_POLICY_BYTES
Takes    the texts of `_mta-sts.<domain>`; the body of the policy file
Raises   StsError naming the field that is missing or wrong
Follows  RFC 8461 §3.1 (record), §3.2 (policy), §4.1 (matching), §5 (modes)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from mailcore.errors import PostfleetError
from mailcore.security.names import host_name, is_under

MAX_AGE_S = 31_557_600
MAX_POLICY_BYTES = 64 * 1024
# More hosts than any domain has; a body of 64 KB could name thousands.
MAX_HOSTS = 500

_ID = re.compile(r"[A-Za-z0-9]{1,32}")
_FIELD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_DIGITS = re.compile(r"[0-9]{1,10}")
_HOST = re.compile(
    r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*"
)


class StsError(PostfleetError, ValueError):
    """A policy that cannot be used; the text says why."""


class StsMode(Enum):
    """What a policy asks for."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class StsPolicy:
    """A domain's policy. `policy_id` is that of the record it was fetched for; `body` its lines, as
    reports quote them; `expires_ms` when the domain's word is used up."""

    domain: str
    policy_id: str
    mode: StsMode
    mx: tuple[str, ...]
    max_age_s: int
    expires_ms: int = 0
    body: tuple[str, ...] = ()

    @property
    def fetched_ms(self) -> int:
        """When it was had from the domain: of two the later one is its word."""
        return self.expires_ms - self.max_age_s * 1000

    def allows(self, host: str) -> bool:
        """Whether this is one of the domain's hosts."""
        return any(is_under(pattern, host) for pattern in self.mx)


@dataclass(frozen=True, slots=True)
class StsAnswer:
    """What is known of a domain's policy now. `result` is the RFC 8460 word for why it is none,
    where the domain says that it has one; `detail` the reason in words."""

    policy: StsPolicy | None = None
    result: str = ""
    detail: str = ""


def parse_sts_record(texts: Iterable[str]) -> str:
    """Return the id of the domain's policy, "" if the domain has none.

    Of several records that begin as one none counts, nor does one with a field that is wrong
    (RFC 8461 §3.1).
    """
    found = [text for text in texts if re.match(r"v=STSv1[ \t]*;", text)]
    if len(found) != 1:
        return ""
    policy_id = ""
    parts = [part.strip(" \t") for part in found[0].split(";")]
    for part in parts[1:-1] if not parts[-1] else parts[1:]:
        name, equals, value = part.partition("=")
        if not equals or not _FIELD_NAME.fullmatch(name):
            return ""
        if name == "id" and not policy_id:
            if not _ID.fullmatch(value):
                return ""
            policy_id = value
    return policy_id


def parse_sts_policy(body: bytes, *, domain: str, policy_id: str) -> StsPolicy:
    """Return the policy that this file holds."""
    if len(body) > MAX_POLICY_BYTES:
        raise StsError(f"the policy has more than {MAX_POLICY_BYTES} octets")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise StsError("the policy is no UTF-8") from exc
    lines = tuple(line.strip(" \t") for line in text.replace("\r\n", "\n").split("\n"))
    lines = tuple(line for line in lines if line)
    fields: dict[str, str] = {}
    hosts: list[str] = []
    for line in lines:
        name, colon, value = line.partition(":")
        value = value.strip(" \t")
        if not colon or not _FIELD_NAME.fullmatch(name):
            raise StsError(f"a line is no `name: value`: {line[:60]!r}")
        if name == "mx":
            hosts.append(_host(value))
        else:
            # §3.2: of a field that comes twice the first one counts.
            fields.setdefault(name, value)
    if fields.get("version") != "STSv1":
        raise StsError("version is not STSv1")
    mode, max_age_s = _mode(fields), _max_age(fields)
    if not hosts and mode is not StsMode.NONE:
        raise StsError("mx is missing")
    if len(hosts) > MAX_HOSTS:
        raise StsError(f"mx: more than {MAX_HOSTS} hosts")
    named = tuple(dict.fromkeys(hosts))
    return StsPolicy(host_name(domain), policy_id, mode, named, max_age_s, body=lines)


def _mode(fields: dict[str, str]) -> StsMode:
    try:
        return StsMode(fields.get("mode", ""))
    except ValueError as exc:
        raise StsError(f"mode is {fields.get('mode', 'missing')[:40]!r}") from exc


def _max_age(fields: dict[str, str]) -> int:
    text = fields.get("max_age", "")
    if not _DIGITS.fullmatch(text):
        raise StsError("max_age is no number of seconds" if text else "max_age is missing")
    return min(int(text), MAX_AGE_S)


def _host(text: str) -> str:
    host = host_name(text)
    if len(host) > 253 or not _HOST.fullmatch(host):
        raise StsError(f"mx: {text[:60]!r} is no host name")
    return host
