"""What mail demands of TLS with the relay of its sender.

Gives    demand_of_relay
Takes    the relay; what its sender and the message ask
Raises   nothing
Follows  RFC 4954 §4 (no password for whoever listens), RFC 8689 §4.2.1; docs/smtp.md
"""

from __future__ import annotations

from mailcore.outcome import TlsNeed, TlsPolicy
from mailcore.policy.model import Relay
from mailcore.policy.words import RelayAuth, RelayTls, TlsMode
from mailcore.security.demand import Level, Proof, TlsDemand
from mailcore.security.names import host_name

_LEVEL_OF_TLS = {
    RelayTls.NONE: Level.NONE,
    RelayTls.OPPORTUNISTIC: Level.OPPORTUNISTIC,
    RelayTls.STARTTLS: Level.ENCRYPTED,
    RelayTls.IMPLICIT: Level.ENCRYPTED,
}


def demand_of_relay(
    relay: Relay, *, mode: TlsMode = TlsMode.OPPORTUNISTIC, need: TlsNeed = TlsNeed.POLICY
) -> TlsDemand:
    """Return what a session with a relay must be, by default for mail that asks for nothing.

    A login that must not travel in clear goes to no server but the one it is meant for either: TLS
    that anybody may answer would give it to anybody.
    """
    level = _LEVEL_OF_TLS[relay.tls]
    keeps_login = relay.auth is not RelayAuth.NONE and not relay.allows_clear
    if keeps_login or mode is TlsMode.REQUIRED or need is not TlsNeed.POLICY:
        level = max(level, Level.ENCRYPTED)
    is_checked = relay.verifies or need is TlsNeed.REQUIRETLS
    if level < Level.ENCRYPTED or not is_checked:
        return TlsDemand(level, TlsPolicy.OPERATOR)
    names = (host_name(relay.host),)
    return TlsDemand(Level.AUTHENTICATED, TlsPolicy.OPERATOR, Proof.PKIX, names)
