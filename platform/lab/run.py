"""The whole lab in one loop.

Gives    Lab: start(), stop(), ports(); use it as `async with Lab(world, directory) as lab`
Takes    a world, a directory, ports (0 for free ones); without `writes_reports` nothing comes back
         but what is asked for
Raises   OSError when a port or the directory cannot be had
Follows  design.md section 7
"""

from pathlib import Path
from types import TracebackType
from typing import Self

from lab.certificate import server_context, write_public
from lab.control import Control
from lab.dns_server import DnsServer
from lab.http import HttpServer
from lab.mailbox import MailboxServer
from lab.maildrop import Maildrop
from lab.postmaster import Postmaster
from lab.receiver import Receiver
from lab.tally import Tally
from lab.world import World
from lab.zone import Zone

_MAILBOX_NAMES = ("mail.sender.test", "localhost", "127.0.0.1")


class Lab:
    """DNS, receivers, mailboxes and control API of one world."""

    def __init__(
        self,
        world: World,
        directory: Path,
        *,
        smtp_port: int = 0,
        dns_port: int = 0,
        control_port: int = 0,
        pop3_port: int = 0,
        pop3s_port: int = 0,
        keep_messages: int = 200,
        hosts_everything: bool = False,
        writes_reports: bool = True,
    ) -> None:
        providers = tuple(provider.key for provider in world.providers)
        self.world = world
        self.tally = Tally(directory, providers, keep_messages=keep_messages)
        self.zone = Zone(world)
        self.receiver = Receiver(
            world, self.tally, directory, port=smtp_port, hosts_everything=hosts_everything
        )
        self.dns = DnsServer(self.zone, port=dns_port)
        bounces = Maildrop(directory / "bounces.mail")
        complaints = Maildrop(directory / "complaints.mail")
        self.drops = {"bounces": bounces, "complaints": complaints}
        self.postmaster = Postmaster(world, bounces=bounces, complaints=complaints)
        self.tally.on_stored = self.postmaster.consider if writes_reports else None
        self.mailboxes = MailboxServer(
            {
                world.bounces.user: (world.bounces.password, bounces),
                world.complaints.user: (world.complaints.password, complaints),
            },
            server_context(_MAILBOX_NAMES, directory),
            certificate=_certificate(directory),
            port=pop3_port,
            tls_port=pop3s_port,
        )
        control = Control(
            world, self.tally, self.zone, self.receiver, self.postmaster, self.mailboxes
        )
        self.http = HttpServer(control.handle, port=control_port)

    async def start(self) -> None:
        """Start all parts; when one fails the others are stopped again."""
        try:
            await self.receiver.start()
            await self.dns.start()
            await self.mailboxes.start()
            await self.http.start()
            self.postmaster.start()
        except OSError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop all parts and close the journal."""
        await self.http.stop()
        await self.receiver.stop()
        await self.dns.stop()
        await self.mailboxes.stop()
        await self.postmaster.stop()  # after the receivers: what they took last may be reported
        for drop in self.drops.values():
            drop.close()
        self.tally.close()

    def ports(self) -> dict[str, int]:
        """Return where the parts listen."""
        return {
            "smtp_port": self.receiver.port,
            "dns_port": self.dns.port,
            "control_port": self.http.port,
            "pop3_port": self.mailboxes.port,
            "pop3s_port": self.mailboxes.tls_port,
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


def _certificate(directory: Path) -> Path:
    """Write what a reader of mailboxes needs to trust them, and return where."""
    public = directory / "mailbox-certificate.pem"
    write_public(directory / f"{_MAILBOX_NAMES[0]}.pem", public)
    return public
