"""What live mode needs of this host, looked at before anything starts.

Gives    check() -> Findings; UNCHECKED, the word that skips it
Takes    a domain that receives mail, named by the operator; the environment's resolver and port
Raises   FleetError naming what is missing: no answer from DNS, no exchanger, no way out
Follows  design.md section 7; RFC 5321 §4.2 (an exchanger greets with 220)

It asks DNS for the exchangers of that domain, opens one connection, reads the greeting and leaves.
No mail is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from control.management.fleet.house import FleetError
from mailcore.ports import DnsStatus
from mailio.dns import DnsResolver
from mailio.settings import SettingsError, read_resolver, read_smtp_port

UNCHECKED = "none"
TIMEOUT_S = 10.0
TRIED_ADDRESSES = 4
ASK = (
    "live mode first looks whether mail can leave this host. Name a domain that receives mail: "
    "make run MODE=live PROBE=example.com (DNS is asked for its exchangers, one of them is "
    "connected to and left; no mail is sent). PROBE=none starts without looking"
)


@dataclass(frozen=True, slots=True)
class Findings:
    """What the world sees of this host. `names` is empty without a PTR record."""

    exchanger: str
    greeting: str
    local_address: str
    names: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return it in words."""
        shown = ", ".join(self.names) or "no PTR record: many providers refuse such a host"
        return [
            f"way out: {self.exchanger} greets with {self.greeting}",
            f"connections come from {self.local_address} ({shown})",
            "EHLO says what each source address of this node has in the panel; its PTR record "
            "should be the same name",
        ]


def check(probe: str, environ: Mapping[str, str]) -> Findings:
    """Look, or raise FleetError with what is missing."""
    if not probe:
        raise FleetError(ASK)
    try:
        resolver, port = read_resolver(environ), read_smtp_port(environ)
    except SettingsError as exc:
        raise FleetError(str(exc)) from exc
    return asyncio.run(_look(DnsResolver(resolver, timeout_s=TIMEOUT_S / 2), probe, port))


async def _look(resolver: DnsResolver, domain: str, port: int) -> Findings:
    answer = await resolver.mx(domain)
    if answer.status is DnsStatus.TEMPORARY:
        raise FleetError(f"the resolver does not answer: {answer.detail or 'no reply in time'}")
    if answer.status is not DnsStatus.OK:
        raise FleetError(f"PROBE={domain}: this domain receives no mail ({answer.status.value})")
    tried: list[str] = []
    for host in answer.hosts:
        for address in (await resolver.addresses(host.name)).addresses:
            if len(tried) == TRIED_ADDRESSES:
                break
            try:
                greeting, local = await asyncio.wait_for(_greeting(address, port), TIMEOUT_S)
            except (OSError, TimeoutError) as exc:
                tried.append(f"{host.name} [{address}]: {_why(exc)}")
                continue
            names = (await resolver.ptr(local)).names
            return Findings(f"{host.name} [{address}]", greeting, local, names)
    attempts = "; ".join(tried) or "no exchanger has an address"
    raise FleetError(f"no way out on port {port}, which many networks block: {attempts}")


async def _greeting(address: str, port: int) -> tuple[str, str]:
    reader, writer = await asyncio.open_connection(address, port, limit=4096)
    try:
        try:
            line = (await reader.readline()).decode("ascii", "replace").strip()
        except ValueError:  # longer than any greeting
            line = ""
        if not line.startswith("220"):
            raise OSError(f"it does not greet as a mail server: {line[:80] or 'nothing'}")
        writer.write(b"QUIT\r\n")
        local = writer.get_extra_info("sockname")[0]
        return line[:200], str(local)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _why(exc: BaseException) -> str:
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    if isinstance(exc, socket.gaierror):
        return "no address"
    return getattr(exc, "strerror", None) or str(exc)
