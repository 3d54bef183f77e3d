"""Answer the lab's DNS over UDP and TCP.

Gives    DnsServer: start(), stop(), port, query counts by name and type
Takes    a Zone; queries of any shape (what is no query is dropped or answered FORMERR)
Raises   OSError when the port cannot be bound
Follows  RFC 1035 §4.2 (transport), RFC 2308 (SOA beside a negative answer), RFC 6891 (EDNS size),
         RFC 7766 (several queries on one TCP connection)
"""

import asyncio
import socket
import struct
from collections import Counter
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from lab.sockets import bind_all
from lab.world import FaultKind
from lab.zone import Zone

NEGATIVE_TTL_S = 5
TCP_IDLE_S = 30.0
_RCODES = {
    FaultKind.SERVFAIL: dns.rcode.SERVFAIL,
    FaultKind.REFUSED: dns.rcode.REFUSED,
    FaultKind.NXDOMAIN: dns.rcode.NXDOMAIN,
}


def respond(zone: Zone, query: dns.message.Message, *, has_truncated: bool) -> dns.message.Message:
    """Return the true answer to a query, or nothing but TC."""
    response = dns.message.make_response(query, recursion_available=True)
    if has_truncated:
        response.flags |= dns.flags.TC
        return response
    question = query.question[0]
    response.flags |= dns.flags.AA
    answer, exists = zone.find(question.name.canonicalize(), question.rdtype)
    for found in answer:
        # The name as it was asked, in its letters: resolvers check them (0x20).
        asked = question.name if found.name == question.name else found.name
        response.answer.append(dns.rrset.from_rdata_list(asked, found.ttl, list(found)))
    if not exists:
        response.set_rcode(dns.rcode.NXDOMAIN)
    if not answer or answer[-1].rdtype != question.rdtype:
        response.authority.append(_SOA)
    return response


_SOA = dns.rrset.from_text(
    dns.name.root,
    NEGATIVE_TTL_S,
    "IN",
    "SOA",
    f"ns.lab.test. hostmaster.lab.test. 1 3600 600 86400 {NEGATIVE_TTL_S}",
)


class DnsServer:
    """One zone on one port of 127.0.0.1."""

    def __init__(self, zone: Zone, *, port: int = 0) -> None:
        self.port = port
        self.queries: Counter[str] = Counter()
        self._zone = zone
        self._tcp: asyncio.Server | None = None
        self._udp: asyncio.DatagramTransport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen on UDP and TCP, the same port on both."""
        loop = asyncio.get_running_loop()
        listener, datagrams = _bind_both(self.port)
        self.port = listener.getsockname()[1]
        self._tcp = await asyncio.start_server(self._serve_tcp, sock=listener)
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), sock=datagrams)

    async def stop(self) -> None:
        """Stop listening and forget the slow answers."""
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tcp is not None:
            await self._tcp.wait_closed()

    async def answer(self, wire: bytes, *, is_udp: bool) -> bytes | None:
        """Return the answer to a query; None when there shall be none."""
        try:
            query = dns.message.from_wire(wire)
        except dns.message.ShortHeader:
            return None
        except dns.exception.DNSException:
            return wire[:2] + struct.pack("!HHHHH", 0x8001, 0, 0, 0, 0)  # FORMERR
        if query.flags & dns.flags.QR:
            return None
        if query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
            return self._refuse(query, dns.rcode.NOTIMP)
        question = query.question[0]
        if question.rdclass != dns.rdataclass.IN:
            return self._refuse(query, dns.rcode.REFUSED)
        self.queries[f"{question.name} {dns.rdatatype.to_text(question.rdtype)}".lower()] += 1
        fault = self._zone.take_fault(question.name.canonicalize())
        if fault is not None:
            if fault.delay_s:
                await asyncio.sleep(fault.delay_s)
            if fault.kind is FaultKind.DROP:
                return None
            if fault.kind in _RCODES:
                return self._refuse(query, _RCODES[fault.kind])
        is_cut = is_udp and fault is not None and fault.kind is FaultKind.TRUNCATED
        response = respond(self._zone, query, has_truncated=is_cut)
        if not is_udp:
            return response.to_wire(max_size=65_535)
        try:
            return response.to_wire(max_size=query.payload if query.edns >= 0 else 512)
        except dns.exception.TooBig:
            return respond(self._zone, query, has_truncated=True).to_wire()

    @staticmethod
    def _refuse(query: dns.message.Message, rcode: dns.rcode.Rcode) -> bytes:
        response = dns.message.make_response(query, recursion_available=True)
        response.set_rcode(rcode)
        if rcode == dns.rcode.NXDOMAIN:
            response.authority.append(_SOA)
        return response.to_wire()

    def spawn(
        self, wire: bytes, peer: tuple[str, int], transport: asyncio.DatagramTransport
    ) -> None:
        """Answer a datagram beside all others."""
        task = asyncio.get_running_loop().create_task(self._answer_udp(wire, peer, transport))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer_udp(
        self, wire: bytes, peer: tuple[str, int], transport: asyncio.DatagramTransport
    ) -> None:
        answer = await self.answer(wire, is_udp=True)
        if answer is not None and not transport.is_closing():
            transport.sendto(answer, peer)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            while True:
                async with asyncio.timeout(TCP_IDLE_S):
                    (size,) = struct.unpack("!H", await reader.readexactly(2))
                    wire = await reader.readexactly(size)
                answer = await self.answer(wire, is_udp=False)
                if answer is not None:
                    writer.write(struct.pack("!H", len(answer)) + answer)
                    await writer.drain()
        except (asyncio.IncompleteReadError, TimeoutError, ConnectionError):
            return  # the client is done, or gone
        finally:
            writer.close()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self._transport is not None:
            self._server.spawn(data, addr, self._transport)


def _bind_both(port: int) -> tuple[socket.socket, socket.socket]:
    """Bind UDP and TCP to one port of 127.0.0.1."""
    for attempts_left in range(9, -1, -1):
        (listener,) = bind_all(["127.0.0.1"], port, socket.SOCK_STREAM)
        try:
            (datagrams,) = bind_all(["127.0.0.1"], listener.getsockname()[1], socket.SOCK_DGRAM)
        except OSError:
            listener.close()
            if port or not attempts_left:
                raise
            continue
        return listener, datagrams
    raise OSError("no port that is free for both UDP and TCP")
