"""The whole lab in one loop.

Gives    Lab: start(), stop(), ports(); use it as `async with Lab(world, directory) as lab`
Takes    a world, a directory, ports (0 for free ones)
Raises   OSError when a port or the directory cannot be had
Follows  design.md section 7
"""

from pathlib import Path
from types import TracebackType
from typing import Self

from lab.control import Control
from lab.dns_server import DnsServer
from lab.http import HttpServer
from lab.receiver import Receiver
from lab.tally import Tally
from lab.world import World
from lab.zone import Zone


class Lab:
    """DNS, receivers and control API of one world."""

    def __init__(
        self,
        world: World,
        directory: Path,
        *,
        smtp_port: int = 0,
        dns_port: int = 0,
        control_port: int = 0,
        keep_messages: int = 200,
        hosts_everything: bool = False,
    ) -> None:
        providers = tuple(provider.key for provider in world.providers)
        self.world = world
        self.tally = Tally(directory, providers, keep_messages=keep_messages)
        self.zone = Zone(world)
        self.receiver = Receiver(
            world, self.tally, directory, port=smtp_port, hosts_everything=hosts_everything
        )
        self.dns = DnsServer(self.zone, port=dns_port)
        control = Control(world, self.tally, self.zone, self.receiver)
        self.http = HttpServer(control.handle, port=control_port)

    async def start(self) -> None:
        """Start all parts; when one fails the others are stopped again."""
        try:
            await self.receiver.start()
            await self.dns.start()
            await self.http.start()
        except OSError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop all parts and close the journal."""
        await self.http.stop()
        await self.receiver.stop()
        await self.dns.stop()
        self.tally.close()

    def ports(self) -> dict[str, int]:
        """Return where the parts listen."""
        return {
            "smtp_port": self.receiver.port,
            "dns_port": self.dns.port,
            "control_port": self.http.port,
        }

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()
