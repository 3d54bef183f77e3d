"""DNS and sessions with mail servers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mailcore.outcome import SessionInfo
from mailcore.policy.words import TlsMode
from mailcore.routing.hosts import KnownHosts
from mailcore.routing.site import AddressAnswer, MxAnswer
from mailcore.security import Proven, StsAnswer, TlsaAnswer, TlsDemand, TxtAnswer
from mailcore.transaction import Credentials, RecipientReply, WireMessage


class Resolver(Protocol):
    """DNS with a TTL cache and a deadline on every question."""

    async def mx(self, domain: str) -> MxAnswer:
        """Return the exchangers of a mail domain."""
        ...

    async def addresses(self, host: str) -> AddressAnswer:
        """Return the addresses of a host."""
        ...

    async def tlsa(self, host: str, port: int) -> TlsaAnswer:
        """Return the TLSA records of a service."""
        ...

    async def txt(self, name: str) -> TxtAnswer:
        """Return the texts of a name."""
        ...


class StsSource(Protocol):
    """What domains say of themselves by MTA-STS, fetched and kept."""

    async def policy(self, domain: str) -> StsAnswer:
        """Return a domain's policy that is in force, if it has one."""
        ...

    async def at_hand(self, domain: str) -> StsAnswer | None:
        """Return the same without waiting for a policy host: None while the file is fetched."""
        ...


class HostMemory(Protocol):
    """What the processes of a node remember of hosts that failed them. Raises nothing.

    It puts hosts in order and forbids none: what was forgotten or not told costs a try.
    """

    async def known(
        self, source: str, *, hosts: Sequence[str], addresses: Sequence[str]
    ) -> KnownHosts:
        """Return what is remembered of hosts, and of addresses as reached from a source."""
        ...

    async def note_dead(self, source: str, address: str, *, failures: int) -> None:
        """Remember that an address could not be reached, `failures` times in a row by now."""
        ...

    async def note_alive(self, source: str, address: str) -> None:
        """Forget what was remembered of an address."""
        ...

    async def note_broken_tls(self, host: str) -> None:
        """Remember that STARTTLS with a host failed."""
        ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and as whom to open a session.

    `credentials` are for a relay that wants to know us. `allows_chunking`: BDAT may be used where
    it is offered. `is_implicit_tls`: TLS comes before the greeting. `demand` says how the server
    must show who it is once there is TLS; without one nothing is asked.
    """

    host: str
    address: str
    port: int
    source_address: str
    ehlo_name: str
    tls: TlsMode
    credentials: Credentials | None = None
    allows_chunking: bool = True
    demand: TlsDemand | None = None
    is_implicit_tls: bool = False


class WireTransaction(Protocol):
    """One transaction under way on a connection."""

    @property
    def content_sent(self) -> Awaitable[None]:
        """Done when the dot is written or will never be: the next transaction may begin."""
        ...

    @property
    def replies(self) -> Awaitable[tuple[RecipientReply, ...]]:
        """One reply per forward-path, in order; or a TransportError."""
        ...

    @property
    def dialogue_ms(self) -> int:
        """Time from MAIL to the last reply."""
        ...


class Connection(Protocol):
    """One SMTP session. It is used by one task; transactions may be chained."""

    @property
    def session(self) -> SessionInfo:
        """What the session is like."""
        ...

    @property
    def proven(self) -> Proven:
        """What the session's TLS showed."""
        ...

    @property
    def is_usable(self) -> bool:
        """Whether another transaction may begin."""
        ...

    @property
    def takes_8bit(self) -> bool:
        """Whether content with octets over 127 may be sent as it is.

        Where it may not, `mailcore.render.to_7bit` converts it, and the result is signed anew; a
        message that was not converted is deferred with 4.6.3 and never sent.
        """
        ...

    @property
    def takes_requiretls(self) -> bool:
        """Whether the server passes on what a message asks of TLS (RFC 8689)."""
        ...

    @property
    def most_recipients(self) -> int:
        """How many recipients a transaction may have; 0 if the server set no limit.

        Those beyond it get 452 4.5.3 of scope SESSION without being asked about.
        """
        ...

    def begin(
        self, message: WireMessage, *, before_dot: Callable[[Sequence[int]], bool]
    ) -> WireTransaction:
        """Start a transaction; the previous one's content must have been sent.

        `before_dot` is called in the turn that writes the final dot, or the last octets of the
        last chunk, with the indexes of the forward-paths whose fate they decide; if it returns
        False they are not sent, the connection is dropped and the
        replies raise Withheld.
        """
        ...

    async def close(self) -> None:
        """Say QUIT, wait a little, close."""
        ...


class Connector(Protocol):
    """Opens sessions: connect, greeting, EHLO, STARTTLS, AUTH."""

    async def connect(self, endpoint: Endpoint) -> Connection:
        """Return a session ready for MAIL, or raise TransportError."""
        ...
