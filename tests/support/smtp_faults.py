"""A server that obeys until one step of the dialogue, and fails there in one of many ways.

Gives    Step, Fault, Manner, Faulty (a script for `smtp_peer.serving`, with what it took)
Follows  RFC 5321 §4.3.2 (what each step may be answered), RFC 3030 (BDAT), RFC 4954 (AUTH)

What it took is the truth that a client's word is compared with: a message whose end has arrived
counts as taken unless it was refused, whatever the client got to hear of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field
from enum import Enum

from tests.support.smtp_peer import Gone, Peer


class Step(Enum):
    """Where it fails."""

    BANNER = "banner"
    EHLO = "ehlo"
    HELO = "helo"
    STARTTLS = "starttls"
    HANDSHAKE = "handshake"
    EHLO_TLS = "ehlo under TLS"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    MIXED_MAIL = "mail, before one recipient is refused"
    MIXED_RCPT = "rcpt, before the other is refused"
    REFUSED_RCPT = "rcpt, which is refused unlike the other"
    DATA = "data"
    CONTENT = "content"
    DOT = "dot"
    RSET = "rset"
    PROOF = "rset, which shows that refusals were in their places"
    IDLE = "idle"


class Fault(Enum):
    """How it fails."""

    REFUSE_4 = "refuses for now"
    REFUSE_5 = "refuses for good"
    CLOSING = "421"
    STALL = "stalls"
    CLOSE = "closes"
    RESET = "resets"
    GARBAGE = "speaks another protocol"
    OVERSIZE = "says a line without end"
    MANY_LINES = "says lines without end"
    HALF_LINE = "closes in half a line"
    HALF_STALL = "stalls in half a line"
    TWO_CODES = "says yes and no in one reply"
    FOREIGN = "answers another command"
    LOST = "loses its reply"
    TWICE = "answers twice"
    ODD_FORM = "answers with bare LF and octets over 127"
    TLS_FAILURE = "speaks no TLS"
    CHANGED = "offers other extensions under TLS"


class Manner(Enum):
    """What it offers."""

    PIPELINED = "PIPELINING"
    ONE_BY_ONE = "nothing"
    CHUNKED = "PIPELINING and CHUNKING"


_OFFERS = {
    Manner.PIPELINED: ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES"),
    Manner.ONE_BY_ONE: ("8BITMIME",),
    Manner.CHUNKED: ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING"),
}
# Whom it refuses of a message that goes to `a` and `b`.
_NOBODY = {
    Step.MIXED_MAIL: "b@peer.test",
    Step.MIXED_RCPT: "b@peer.test",
    Step.REFUSED_RCPT: "a@peer.test",
}
# What recipients hear before a RSET; only what is for good is proved by it.
_REFUSED_BEFORE = {Step.RSET: "450 4.2.1 not now", Step.PROOF: "550 5.1.1 nobody"}
REFUSALS = {
    Fault.REFUSE_4: "451 4.3.0 not now",
    Fault.REFUSE_5: "554 5.7.0 never",
    Fault.CLOSING: "421 4.3.2 going down",
}
_FOREIGN = {
    Step.BANNER: "354 go",
    Step.STARTTLS: "354 go",
    Step.AUTH: "354 go",
    Step.DATA: "250 ok",
}


@dataclass
class Faulty:
    """One server for one session; `taken` holds recipients and content of what it accepted."""

    step: Step
    fault: Fault
    manner: Manner
    tls: ssl.SSLContext
    taken: list[tuple[tuple[str, ...], bytes]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    _is_fired: bool = False
    _recipients: list[str] = field(default_factory=list)
    _has_sender: bool = False
    _is_over: bool = False
    _peer: Peer | None = None

    async def script(self, peer: Peer) -> None:
        """Serve one session."""
        self._peer = peer
        await self._open(peer)
        while not self._is_over:
            line = await peer.hear()
            verb, _, rest = line.partition(" ")
            await self._command(peer, verb.upper(), rest)

    # -- the opening

    async def _open(self, peer: Peer) -> None:
        offers = list(_OFFERS[self.manner])
        if self.step in (Step.STARTTLS, Step.HANDSHAKE, Step.EHLO_TLS):
            offers.append("STARTTLS")
        if self.step is Step.AUTH:
            offers.append("AUTH PLAIN")
        await self._answer(peer, Step.BANNER, "220 peer.test ESMTP")
        await peer.hear_verb("EHLO")
        if self.step is Step.HELO:
            peer.say("502 5.5.1 what")
            await peer.hear_verb("HELO")
            await self._answer(peer, Step.HELO, "250 peer.test")
            return
        is_yes = await self._answer(peer, Step.EHLO, *_lines(offers))
        if self.step is Step.EHLO and self.fault is Fault.REFUSE_5:
            await peer.hear_verb("HELO")
            peer.say("250 peer.test")
        if "STARTTLS" in offers and is_yes:
            await self._start_tls(peer, offers)

    async def _start_tls(self, peer: Peer, offers: list[str]) -> None:
        await peer.hear_verb("STARTTLS")
        if not await self._answer(peer, Step.STARTTLS, "220 2.0.0 go"):
            return
        if self.step is Step.HANDSHAKE:
            await peer.reader.read(1)
            self._is_fired = True
            await self._fail(peer, ("",))
            return
        await peer.start_tls(self.tls)
        await peer.hear_verb("EHLO")
        offers.remove("STARTTLS")
        if self.fault is Fault.CHANGED:
            self._is_fired = True
            offers = []
        await self._answer(peer, Step.EHLO_TLS, *_lines(offers))

    # -- transactions

    async def _command(self, peer: Peer, verb: str, rest: str) -> None:
        if verb == "AUTH":
            await self._answer(peer, Step.AUTH, "235 2.7.0 welcome")
        elif verb == "MAIL" and not self._has_sender:
            step = Step.MIXED_MAIL if self.step is Step.MIXED_MAIL else Step.MAIL
            self._has_sender = await self._answer(peer, step, "250 2.1.0 ok")
        elif verb == "RCPT" and self._has_sender:
            await self._rcpt(peer, rest)
        elif verb == "DATA" and self._recipients:
            await self._data(peer)
        elif verb == "BDAT" and self._recipients:
            await self._chunk(peer, int(rest.split(" ")[0]))
        elif verb == "BDAT":
            self.wrong.append("a chunk came for nobody")
            await peer.reader.readexactly(int(rest.split(" ")[0]))
            peer.say("503 5.5.1 nobody")
        elif verb == "RSET":
            self._reset()
            step = Step.PROOF if self.step is Step.PROOF else Step.RSET
            await self._answer(peer, step, "250 2.0.0 reset")
        elif verb == "QUIT":
            peer.say("221 2.0.0 bye")
            self._is_over = True
        elif verb in ("MAIL", "RCPT", "DATA"):
            peer.say("503 5.5.1 not now")
        else:
            self.wrong.append(f"{verb} is no command")
            peer.say("500 5.5.2 what")

    async def _rcpt(self, peer: Peer, rest: str) -> None:
        path = rest.removeprefix("TO:<").partition(">")[0]
        step = self.step if self.step in (Step.MIXED_RCPT, Step.REFUSED_RCPT) else Step.RCPT
        if self.step in _REFUSED_BEFORE and not self._is_fired:
            peer.say(_REFUSED_BEFORE[self.step])
        elif path == _NOBODY.get(self.step):
            await self._answer(peer, step, f"550 5.1.1 <{path}> is nobody")
        elif await self._answer(peer, step, "250 2.1.5 ok"):
            self._recipients.append(path)

    async def _data(self, peer: Peer) -> None:
        if await self._answer(peer, Step.DATA, "354 go"):
            if self.step is Step.CONTENT and not self._is_fired:
                await self._amid(peer)
            await self._end(peer, await peer.take_content())

    async def _chunk(self, peer: Peer, size: int) -> None:
        if self.step is Step.CONTENT and not self._is_fired:
            await self._amid(peer)
        try:
            content = await peer.reader.readexactly(size)
        except asyncio.IncompleteReadError as exc:
            raise Gone from exc
        await self._end(peer, content)

    async def _amid(self, peer: Peer) -> None:
        """Fail while content travels: after its first octets."""
        await peer.reader.readexactly(1000)
        self._is_fired = True
        await self._fail(peer, ("250 2.0.0 got it all",))
        await peer.stall()

    async def _end(self, peer: Peer, content: bytes) -> None:
        is_hit = self.step is Step.DOT and not self._is_fired
        if not (is_hit and self.fault in REFUSALS):
            self.taken.append((tuple(self._recipients), content))
        self._reset()
        await self._answer(peer, Step.DOT, "250 2.0.0 queued")

    def _reset(self) -> None:
        self._has_sender = False
        self._recipients = []

    # -- faults

    async def speak_up(self) -> None:
        """Fail between two transactions."""
        peer = self._peer
        assert peer is not None
        self._is_fired = True
        with contextlib.suppress(Gone):
            await self._fail(peer, ("250 2.0.0 ok",))
            return
        peer.writer.close()

    async def _answer(self, peer: Peer, step: Step, *lines: str) -> bool:
        """Give an answer, or fail to; return whether it took effect."""
        if step is not self.step or self._is_fired:
            peer.say(*lines)
            return True
        self._is_fired = True
        await self._fail(peer, lines)
        return self.fault not in REFUSALS

    async def _fail(self, peer: Peer, lines: tuple[str, ...]) -> None:
        match self.fault:
            case Fault.REFUSE_4 | Fault.REFUSE_5 | Fault.CLOSING:
                peer.say(REFUSALS[self.fault])
            case Fault.CLOSE:
                raise Gone
            case Fault.RESET:
                peer.drop()
                raise Gone
            case Fault.STALL:
                await self._hang(peer)
            case Fault.GARBAGE | Fault.TLS_FAILURE:
                peer.say("HTTP/1.1 400 Bad Request", "", "<html>")
            case Fault.OVERSIZE:
                peer.say("250 " + "x" * 100_000)
            case Fault.MANY_LINES:
                peer.say(*["250-more"] * 1000)
            case Fault.HALF_LINE:
                peer.writer.write(lines[0][:2].encode())
                await peer.writer.drain()
                raise Gone
            case Fault.HALF_STALL:
                peer.writer.write(lines[0][:2].encode())
                await self._hang(peer)
            case Fault.TWO_CODES:
                peer.say(f"{lines[0][:3]}-yes", "554 no")
            case Fault.FOREIGN:
                peer.say(_FOREIGN.get(self.step, "221 2.0.0 bye"))
            case Fault.LOST:
                pass
            case Fault.TWICE:
                peer.say(*lines, *lines)
            case Fault.ODD_FORM:
                peer.writer.write(
                    "".join(f"{line} \xe9\t\x07\n" for line in lines).encode("latin-1")
                )
            case Fault.CHANGED:
                raise AssertionError("is done where extensions are offered")
        if self.fault is Fault.CLOSING:
            raise Gone

    async def _hang(self, peer: Peer) -> None:
        """Say nothing and, amid content, read nothing until the client leaves."""
        if self.step is Step.CONTENT:
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(30)
        await peer.stall()


def _lines(offers: list[str]) -> list[str]:
    lines = ["peer.test", *offers]
    return [*(f"250-{line}" for line in lines[:-1]), f"250 {lines[-1]}"]
