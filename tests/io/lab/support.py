"""A raw SMTP dialogue, octet by octet, and worlds to have it in."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from lab.manner import Manner
from lab.run import Lab
from lab.world import World, default_world

MESSAGE = b"From: a@sender.test\r\nX-Lab-Id: %s\r\nSubject: hello\r\n\r\nBody.\r\n"


class Dialogue:
    """One connection to a receiver."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, octets: bytes) -> None:
        self._writer.write(octets)
        await self._writer.drain()

    async def reply(self) -> str:
        """Read one reply, its lines joined; empty when the line is closed."""
        lines: list[str] = []
        while True:
            line = (await self._reader.readline()).decode("latin-1")
            lines.append(line.rstrip("\r\n"))
            if line[3:4] != "-":
                return "\n".join(lines)

    async def say(self, command: str) -> str:
        await self.send(command.encode() + b"\r\n")
        return await self.reply()

    async def begin(self) -> str:
        """Read the greeting, say EHLO."""
        await self.reply()
        return await self.say("EHLO client.test")

    async def deliver(
        self, recipient: str, content: bytes, *, reverse_path: str = "b@sender.test"
    ) -> list[str]:
        """Play one transaction as one group of commands and return the replies that came."""
        await self.send(f"MAIL FROM:<{reverse_path}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode())
        replies = [await self.reply() for _ in range(3)]
        if replies[-1].startswith("354"):
            await self.send(content + b".\r\n")
            replies.append(await self.reply())
        else:
            await self.say("RSET")
        return replies

    async def start_tls(self) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        await self._writer.start_tls(context)

    def reset(self) -> None:
        """Drop the line as a killed process does."""
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except (ConnectionError, ssl.SSLError):
            return


@asynccontextmanager
async def dialogue(lab: Lab, provider: str = "accepta", host: int = 0) -> AsyncIterator[Dialogue]:
    address = lab.world.provider(provider).mx_hosts[host].address
    reader, writer = await asyncio.open_connection(address, lab.receiver.port)
    one = Dialogue(reader, writer)
    try:
        yield one
    finally:
        await one.close()


@asynccontextmanager
async def running(directory: Path, world: World | None = None) -> AsyncIterator[Lab]:
    async with Lab(world or default_world(greylist_s=3600.0), directory) as lab:
        yield lab


def with_manner(manner: Manner) -> World:
    """Return the world with this manner at Accepta."""
    world = default_world()
    first, *others = world.providers
    return replace(world, providers=(replace(first, manner=manner), *others))


async def until_ended(lab: Lab, connections: int) -> None:
    """Wait until so many connections have been counted at their end."""
    while lab.tally.counts()["total"]["connections"] < connections:
        await asyncio.sleep(0.001)
