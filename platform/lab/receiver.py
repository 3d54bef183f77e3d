"""Mailbox providers that listen: every MX host of a world on its own loopback address.

Gives    Receiver: start(), stop(), play(), set_manner(), reset(), port; Script and its words again
Takes    a world, a tally, a port (0 picks a free one that serves all addresses), a directory for
         certificates
Raises   OSError when an address cannot be bound
Follows  RFC 5321 (see session.py); design.md section 7
"""

import asyncio
import contextlib
import functools
import socket
import ssl
from pathlib import Path

from lab.certificate import server_context
from lab.house import GreylistMemory, House, ThrottleMemory
from lab.manner import Manner, TlsManner
from lab.script import Closing, Script, ScriptCursor, Stage, Step
from lab.session import Session
from lab.sockets import bind_all
from lab.tally import Tally
from lab.world import Provider, World

__all__ = ["Closing", "Receiver", "Script", "ScriptCursor", "Stage", "Step"]

FLUSH_INTERVAL_S = 0.2
STOP_TIMEOUT_S = 2.0


class Receiver:
    """All receivers of a world, in the running loop."""

    def __init__(
        self,
        world: World,
        tally: Tally,
        directory: Path,
        *,
        port: int = 0,
        hosts_everything: bool = False,
    ) -> None:
        self.port = port
        self._tally = tally
        self._memory = {provider.key: GreylistMemory() for provider in world.providers}
        self._throttles = {provider.key: ThrottleMemory() for provider in world.providers}
        self._houses: list[House] = []
        self._servers: list[asyncio.Server] = []
        self._flusher: asyncio.Task[None] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        for provider in world.providers:
            context = _context_of(provider, directory)
            for host in provider.mx_hosts:
                house = House(
                    provider,
                    host,
                    tally,
                    seed=world.seed,
                    greylist=self._memory[provider.key],
                    throttle=self._throttles[provider.key],
                    tls=context,
                    hosts_everything=hosts_everything,
                )
                self._houses.append(house)

    async def start(self) -> None:
        """Listen everywhere."""
        loop = asyncio.get_running_loop()
        addresses = [house.host.address for house in self._houses]
        bound = bind_all(addresses, self.port, socket.SOCK_STREAM)
        self.port = bound[0].getsockname()[1]
        for house, listener in zip(self._houses, bound, strict=True):
            server = await loop.create_server(
                functools.partial(Session, house), sock=listener, backlog=1024
            )
            self._servers.append(server)
        self._flusher = loop.create_task(self._flush_for_ever())

    async def stop(self) -> None:
        """Stop listening, drop what is open, write what is pending."""
        for server in self._servers:
            server.close()
        for house in self._houses:
            for session in list(house.sessions):
                session.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                while any(house.sessions for house in self._houses):
                    await asyncio.sleep(0.001)  # each counts its end
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()
        if self._flusher is not None:
            self._flusher.cancel()
            self._flusher = None
        self._tally.flush()

    def play(self, script: Script, *, provider: str | None = None, host: str | None = None) -> None:
        """Let a provider, one of its hosts, or all follow a script, each host its own copy."""
        for house in self._select(provider, host):
            house.play(script)

    def is_played(self, *, provider: str | None = None, host: str | None = None) -> bool:
        """Whether the scripts of all these hosts have been taken to their end."""
        return all(house.is_played() for house in self._select(provider, host))

    def set_manner(self, manner: Manner, *, provider: str, host: str | None = None) -> None:
        """Change the manner of a provider or of one of its hosts, from the next command on."""
        for house in self._select(provider, host):
            house.manner = manner

    def reset(self) -> None:
        """Forget scripts, what was greylisted, who was too fast; go back to the world's manners."""
        for memory in self._memory.values():
            memory.clear()
        for throttle in self._throttles.values():
            throttle.clear()
        for house in self._houses:
            house.play(Script())
            house.manner = house.provider.manner

    def open_connections(self) -> dict[str, int]:
        """Return how many sessions each MX host has now."""
        return {house.host.name: house.open_connections for house in self._houses}

    def _select(self, provider: str | None, host: str | None) -> list[House]:
        chosen = [
            house
            for house in self._houses
            if provider in (None, house.provider.key) and host in (None, house.host.name)
        ]
        if not chosen:
            raise KeyError(f"no such provider or host: {provider} {host}")
        return chosen

    async def _flush_for_ever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            self._tally.flush()


def _context_of(provider: Provider, directory: Path) -> ssl.SSLContext | None:
    if provider.manner.tls is TlsManner.NONE:
        return None
    names = tuple(host.name for host in provider.mx_hosts)
    if provider.has_mx_per_domain:
        names += (f"*.{provider.mx_suffix}",)
    return server_context(names, directory, certificate=provider.manner.certificate)
