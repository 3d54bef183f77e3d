"""A name server that answers from a dict, counts questions, and can be silent, slow or cut short.

Gives    answering (a context with the server), NameServer
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

SOA = "ns.test. host.test. 1 3600 600 86400 77"


@dataclass
class NameServer:
    """`records` maps "TYPE name" to record texts, `rcodes` a name to SERVFAIL and the like; answers
    to questions in `secure` come with AD if it is asked for."""

    records: Mapping[str, list[str]]
    rcodes: Mapping[str, dns.rcode.Rcode] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    only_tcp: set[str] = field(default_factory=set)
    bare_alias: set[str] = field(default_factory=set)
    secure: set[str] = field(default_factory=set)
    ttl_s: int = 120
    port: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    asked_tcp: Counter[str] = field(default_factory=Counter)

    def respond(self, wire: bytes, *, is_tcp: bool) -> bytes | None:
        """Answer one message."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        kind = dns.rdatatype.to_text(question.rdtype)
        (self.asked_tcp if is_tcp else self.asked)[f"{kind} {name}"] += 1
        if name in self.silent or f"{kind} {name}" in self.silent:
            return None
        response = dns.message.make_response(query)
        if name in self.rcodes:
            response.set_rcode(self.rcodes[name])
            return response.to_wire()
        if name in self.only_tcp and not is_tcp:
            response.flags |= dns.flags.TC
            return response.to_wire()
        self._fill(response, name, kind)
        if query.flags & dns.flags.AD and {name, f"{kind} {name}"} & self.secure:
            response.flags |= dns.flags.AD
        return response.to_wire()

    def _fill(self, response: dns.message.Message, name: str, kind: str) -> None:
        for _ in range(8):
            texts = self.records.get(f"{kind} {name}")
            if texts is not None:
                response.answer.append(
                    dns.rrset.from_text(name + ".", self.ttl_s, "IN", kind, *texts)
                )
                return
            alias = self.records.get(f"CNAME {name}")
            if alias is None:
                break
            response.answer.append(
                dns.rrset.from_text(name + ".", self.ttl_s, "IN", "CNAME", alias[0])
            )
            if name in self.bare_alias:
                return
            name = alias[0].rstrip(".")
        if not any(key.split(" ")[1] == name for key in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        response.authority.append(dns.rrset.from_text("test.", 900, "IN", "SOA", SOA))


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self.server = server
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self.server.respond(data, is_tcp=False)
        if answer is not None and self.transport is not None:
            self.transport.sendto(answer, addr)


def _on_one_port() -> tuple[socket.socket, socket.socket]:
    """Bind TCP and UDP; a port that is free for one may be another program's for the other."""
    while True:
        by_tcp = socket.create_server(("127.0.0.1", 0))
        by_udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        by_udp.setblocking(False)
        try:
            by_udp.bind(by_tcp.getsockname())
        except OSError:
            by_tcp.close()
            by_udp.close()
        else:
            return by_tcp, by_udp


@contextlib.asynccontextmanager
async def answering(server: NameServer) -> AsyncIterator[NameServer]:
    """Serve on one free port of 127.0.0.1 over UDP and TCP."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            answer = server.respond(await reader.readexactly(length), is_tcp=True)
            if answer is not None:
                writer.write(struct.pack("!H", len(answer)) + answer)
                await writer.drain()
        writer.close()

    listener, sock = _on_one_port()
    server.port = sock.getsockname()[1]
    tcp = await asyncio.start_server(serve, sock=listener)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(server), sock=sock)
    try:
        yield server
    finally:
        transport.close()
        tcp.close()
        await asyncio.sleep(0)
