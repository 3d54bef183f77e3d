"""The line of one SMTP session: transport, buffer, replies, waiting, TLS.

Gives    Line, the base of Session: say(), close(), expect_content(), expect_chunk(), start_tls()
Takes    octets in segments of any shape; calls greet(), command(), content(), chunk(), secured()
         and ended() of the session on top
Raises   nothing
Follows  RFC 5321 §4.5.3 (limits, timeouts), RFC 2920 §3.2 (replies of a group in one write),
         RFC 3207 §4.2 and §5 (what came in clear is thrown away)
"""

import asyncio
import math
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

from lab.commands import MAX_LINE_BYTES
from lab.content import find_end
from lab.house import House
from lab.manner import Defect
from lab.recorder import Recorder
from lab.script import Closing, ScriptCursor, Step, plain

MAX_UNREAD_BYTES = 1024 * 1024
LINGER_S = 1.0
TLS_HANDSHAKE_TIMEOUT_S = 30.0


class Line(asyncio.Protocol, ABC):
    """Everything of a session that is not dialogue."""

    def __init__(self, house: House) -> None:
        self.house = house
        self._script = house.script
        self._cursor = house.new_cursor()
        self.is_greeted = False
        self.is_clean = False
        self.is_tls = False
        self.peer_address = ""
        self.peer_network = ""
        self.recorder: Recorder
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._buffer = b""
        self._at = 0
        self._content: bytearray | None = None  # content of DATA that has not ended yet
        self._is_oversize = False
        self._chunk_left: int | None = None
        self._held = b""
        self._out: list[bytes] = []
        self._is_waiting = False
        self._is_closing = False
        self._is_over = False
        self._is_upgrading = False
        self._is_paused = False
        self._skips_line = False
        self._timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._upgrade: asyncio.Task[None] | None = None
        self._last_input = time.monotonic()

    # -- what the session on top does ------------------------------------------------------------

    @abstractmethod
    def greet(self) -> None:
        """Speak first."""

    @abstractmethod
    def command(self, line: bytes) -> None:
        """Carry out a command line (without its CRLF)."""

    @abstractmethod
    def content(self, raw: bytes, *, is_oversize: bool) -> None:
        """Take the content that ended with its final dot."""

    @abstractmethod
    def chunk(self, octets: bytes) -> None:
        """Take a chunk."""

    @abstractmethod
    def secured(self) -> None:
        """Begin anew under TLS."""

    @abstractmethod
    def ended(self) -> None:
        """The connection is gone."""

    # -- what it may ask -------------------------------------------------------------------------

    @property
    def key(self) -> str:
        """What names this connection in a draw."""
        return f"{self.peer_address}#{self.recorder.connection}"

    @property
    def cursor(self) -> ScriptCursor:
        """What is left of the script; a new script counts on open connections too."""
        if self._script is not self.house.script:
            self._script = self.house.script
            self._cursor = self.house.new_cursor()
        return self._cursor

    @property
    def has_more(self) -> bool:
        """Whether the client has sent more than what was read so far."""
        return self._at < len(self._buffer)

    @property
    def unread_content(self) -> bytes:
        """Content that came and was not answered."""
        return self._held or bytes(self._content or b"")

    def hold_content(self, content: bytes) -> None:
        """Remember a whole content until it is answered."""
        self._held = content

    def expect_content(self) -> None:
        """Read content up to the final dot from here on."""
        self._content = bytearray()
        self._is_oversize = False

    def expect_chunk(self, size: int) -> None:
        """Read so many octets from here on."""
        self._chunk_left = size

    def say(self, step: Step, said: Callable[[Step], None] | None = None) -> None:
        """Say a step, now or after its delay; `said` is called in the moment it is written."""
        if step.delay_s <= 0:
            self._say_now(step, said)
            return
        self._flush()
        self._is_waiting = True
        if not math.isinf(step.delay_s):
            self._timer = self._loop.call_later(step.delay_s, self._resume, step, said)

    def _resume(self, step: Step, said: Callable[[Step], None] | None) -> None:
        self._is_waiting = False
        self._say_now(step, said)
        self._pump()

    def _say_now(self, step: Step, said: Callable[[Step], None] | None) -> None:
        if step.closing is Closing.RESET:
            self._flush()
            self._is_closing = True
            self._transport.abort()
            return
        if step.closing is Closing.INSTEAD:
            self.close()
            return
        if step.closing is Closing.TAKEN:
            if said is not None:
                said(step)
            self.close()
            return
        self._out.append(step.wire)
        if said is not None:
            said(step)
        if step.closing is Closing.AFTER or step.code == 421:
            self.is_clean = True
            self.close()

    def close(self) -> None:
        """Close in order: what was said arrives, what comes is thrown away for a moment.

        Closing at once with octets unread would make the kernel reset the line, and the client
        would never see the last reply.
        """
        if self._is_closing:
            return
        self._flush()
        self._is_closing = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._timer = self._loop.call_later(LINGER_S, self._transport.close)
        else:
            self._transport.close()

    def abort(self) -> None:
        """Drop the line."""
        self._is_closing = True
        self._transport.abort()
        if self._upgrade is not None and self._is_upgrading:
            # uvloop tells nobody of a line that is lost in the middle of a handshake.
            self._upgrade.cancel()
            self.connection_lost(None)

    # -- octets ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        host, port = transport.get_extra_info("peername")[:2]
        self.peer_address = host
        self.peer_network = host.rpartition(".")[0]
        self.recorder = Recorder(
            self.house.provider.key, self.house.host.name, self.house.tally, f"{host}:{port}"
        )
        self.house.sessions.add(self)
        self._watch_idle()
        self.greet()
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
        self._last_input = time.monotonic()
        if not self.is_greeted:
            self.recorder.defect(Defect.TALKED_EARLY)
        if not self._content or self._is_waiting:
            self._buffer = self._buffer[self._at :] + data if self.has_more else data
            self._at = 0
            if len(self._buffer) > MAX_UNREAD_BYTES and self._is_waiting:
                self._pause()
        else:
            self._append_content(self._content, data)
        self._pump()

    def _pump(self) -> None:
        """Work through what has come, as far as it goes, then write all replies at once."""
        self._unpause()
        while not (self._is_waiting or self._is_closing) and self._take():
            pass
        self._flush()

    def _take(self) -> bool:
        """Take the next command, content or chunk; False when it has not come whole."""
        if self._content is not None:
            return self._take_content(self._content)
        if self._chunk_left is not None:
            return self._take_chunk(self._chunk_left)
        return self._take_command()

    def _take_command(self) -> bool:
        end = self._buffer.find(b"\n", self._at)
        if end < 0:
            if len(self._buffer) - self._at > MAX_LINE_BYTES:
                self._skips_line = True
                self._buffer, self._at = b"", 0
            return False
        line = self._buffer[self._at : end + 1]
        self._at = end + 1
        if self._skips_line or len(line) > MAX_LINE_BYTES:
            self._skips_line = False
            self.say(plain("500 5.5.2 Line is too long"))
        elif not line.endswith(b"\r\n"):
            self.recorder.defect(Defect.BARE_NEWLINE)
            self.say(plain("500 5.5.2 A line ends in CRLF"))
        else:
            self.command(line[:-2])
        return True

    def _take_content(self, content: bytearray) -> bool:
        """Take content out of the buffer; what has not come whole is gathered in `content`."""
        if not self.has_more:
            return False
        found = find_end(self._buffer, self._at, self._at)
        if found is None:
            begun, self._buffer, self._at = self._buffer[self._at :], b"", 0
            self._append_content(content, begun)
            return False
        end, after = found
        raw = self._buffer[self._at : end]
        self._at, self._content = after, None
        self.content(raw, is_oversize=False)
        return True

    def _append_content(self, content: bytearray, data: bytes) -> None:
        """Gather content that comes in pieces; far over the limit only its end is kept."""
        searched = len(content)
        content += data
        found = find_end(content, 0, searched, is_start=not self._is_oversize)
        if found is None:
            if len(content) > 2 * self.house.manner.max_size_bytes:
                self._is_oversize = True
            if self._is_oversize:
                del content[:-4]
            return
        end, after = found
        self._buffer, self._at = bytes(content[after:]), 0
        raw, self._content = bytes(content[:end]), None
        self.content(raw, is_oversize=self._is_oversize)

    def _take_chunk(self, size: int) -> bool:
        if len(self._buffer) - self._at < size:
            return False
        octets = self._buffer[self._at : self._at + size]
        self._at += size
        self._chunk_left = None
        self.chunk(octets)
        return True

    def _flush(self) -> None:
        if self._out:
            octets = b"".join(self._out)
            self._out.clear()
            if not self._transport.is_closing():
                self._transport.write(octets)

    def _pause(self) -> None:
        if not (self._is_upgrading or self._is_paused):
            self._is_paused = True
            self._transport.pause_reading()

    def _unpause(self) -> None:
        if self._is_paused and not (self._is_waiting or self._is_closing):
            self._is_paused = False
            self._transport.resume_reading()

    # -- the end ---------------------------------------------------------------------------------

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._is_over:
            return
        self._is_over = self._is_closing = True
        for timer in (self._timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        self.ended()
        self.house.sessions.discard(self)

    def _watch_idle(self) -> None:
        limit_s = self.house.manner.idle_timeout_s
        left_s = self._last_input + limit_s - time.monotonic()
        if left_s > 0:
            self._idle_timer = self._loop.call_later(left_s, self._watch_idle)
        elif self._is_waiting:  # we are the slow one
            self._idle_timer = self._loop.call_later(limit_s, self._watch_idle)
        else:
            self._say_now(plain("421 4.4.2 You have been silent for too long"), None)

    # -- TLS -------------------------------------------------------------------------------------

    def start_tls(self) -> None:
        """Throw away what came in clear behind STARTTLS, answer, then shake hands."""
        context = self.house.tls
        if context is None:
            raise RuntimeError("STARTTLS without a context")
        self._buffer, self._at = b"", 0
        self._is_waiting = self._is_upgrading = True
        self._transport.pause_reading()
        self._flush()
        self._upgrade = self._loop.create_task(self._shake_hands(context))

    async def _shake_hands(self, context: ssl.SSLContext) -> None:
        try:
            transport = await self._loop.start_tls(
                self._transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=TLS_HANDSHAKE_TIMEOUT_S,
            )
        except (OSError, ssl.SSLError) as exc:
            self._transport.abort()
            self.connection_lost(exc)
            return
        if transport is None or self._is_over:
            self.connection_lost(None)
            return
        self._transport = transport
        self._is_waiting = self._is_upgrading = False
        self.is_tls = True
        self.recorder.tls = transport.get_extra_info("ssl_object").version()
        self.secured()
        self._pump()
