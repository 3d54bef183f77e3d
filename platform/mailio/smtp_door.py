"""Who may come in over SMTP, and how often.

Gives    Door (a mailcore.reception.Doorkeeper): enter, leave, own_identity, admit, login_failed
Takes    the listener's settings, the policy in force
Raises   nothing
Follows  design.md section 8: no open relay, rate limits

Counts are of this process: a node runs one listener.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from collections.abc import Callable

from mailcore.policy.model import PolicySnapshot
from mailcore.ports import PolicySource
from mailcore.reception import Admission, Identity, Meter
from mailcore.reply import SmtpReply
from mailio.smtpd_settings import SmtpdSettings

FAILED_LOGINS = 20
FAILED_LOGINS_S = 600.0
_BUSY = SmtpReply.local(421, "4.3.2", "too many connections, try again in a moment")
_CROWD = SmtpReply.local(421, "4.7.0", "too many connections from your address")
_SUSPECT = SmtpReply.local(421, "4.7.0", "too many failed logins from your address")
_INACTIVE = Admission(SmtpReply.local(550, "5.7.1", "the account is not active"))
_TOO_FAST = Admission(
    SmtpReply.local(450, "4.7.1", "the account sends too many messages a minute, try again later")
)


class Door:
    """Counts connections, failed logins and messages. For one loop."""

    def __init__(
        self,
        settings: SmtpdSettings,
        policy: PolicySource,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._policy = policy
        self._monotonic = monotonic
        self._inside: Counter[str] = Counter()
        self._count = 0
        self._failures = Meter(FAILED_LOGINS, FAILED_LOGINS_S)
        self._messages = Meter(settings.messages_per_minute, 60.0)
        self._named: tuple[PolicySnapshot, dict[str, int]] | None = None

    def enter(self, address: str) -> SmtpReply | None:
        """Count a connection, or say why it may not come in. Then it is not counted."""
        key = _neighbourhood(address)
        if self._count >= self._settings.connections:
            return _BUSY
        if self._inside[key] >= self._settings.connections_per_address:
            return _CROWD
        if self._failures.is_spent(key, self._monotonic()):
            return _SUSPECT
        self._count += 1
        self._inside[key] += 1
        return None

    def leave(self, address: str) -> None:
        """A connection that came in is gone."""
        key = _neighbourhood(address)
        self._count -= 1
        self._inside[key] -= 1
        if self._inside[key] <= 0:
            del self._inside[key]

    def own_identity(self, address: str) -> Identity | None:
        """Return for whom a host of ours sends without logging in, None for any other host."""
        parsed = _parsed(address)
        for network, account in self._settings.networks:
            if parsed is not None and parsed.version == network.version and parsed in network:
                number = self._accounts().get(account)
                return Identity(number) if number is not None else None
        return None

    def admit(self, identity: Identity) -> Admission:
        """Return whether an account may send a message now."""
        account = self._policy.current().accounts.get(identity.account_id)
        if account is None or not account.is_active:
            return _INACTIVE
        if not self._messages.count(account.id, self._monotonic()):
            return _TOO_FAST
        return Admission(None, account.max_message_bytes, account.max_recipients)

    def login_failed(self, address: str) -> None:
        """Remember it for a while."""
        self._failures.count(_neighbourhood(address), self._monotonic())

    def unknown_accounts(self) -> list[str]:
        """Return the accounts of own networks that the policy in force does not know."""
        return sorted({name for _, name in self._settings.networks} - set(self._accounts()))

    def _accounts(self) -> dict[str, int]:
        policy = self._policy.current()
        if self._named is None or self._named[0] is not policy:
            self._named = policy, {one.name: one.id for one in policy.accounts.values()}
        return self._named[1]


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


def _neighbourhood(address: str) -> str:
    """One host has one IPv4 address, and as a rule a /64 of IPv6."""
    parsed = _parsed(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed or address)
