"""What a receiver may be told to say: stages of a session, scripted steps, and scripts of them.

Gives    Stage, Step, Closing, Script, ScriptCursor; plain() for steps that say a reply at once
Takes    replies as text (CRLF is added) or as raw bytes (written as they are)
Raises   ValueError for a reply that cannot be sent, naming it
Follows  RFC 5321 §4.2 (shape of a reply)
"""

import functools
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Self

_REPLY_LINE = re.compile(r"[2-5][0-9]{2}([ -][^\r\n]*)?\Z")


class Stage(Enum):
    """The moments of a session at which a receiver speaks."""

    CONNECT = "connect"
    HELO = "helo"
    STARTTLS = "starttls"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    DOT = "dot"
    RSET = "rset"
    QUIT = "quit"


class Closing(Enum):
    """What becomes of the connection."""

    NEVER = "never"
    AFTER = "after"  # say the reply, then close
    INSTEAD = "instead"  # close in order (FIN), say nothing
    RESET = "reset"  # drop the line (RST), say nothing
    TAKEN = "taken"  # take it as 250 would, say nothing, close in order: the reply is lost


@dataclass(frozen=True, slots=True)
class Step:
    """One scripted answer.

    `reply` as text may hold several lines; None stands for what the receiver would have said by
    itself, so a bare delay slows it down. An infinite `delay_s` is a stall: no answer, ever.
    """

    reply: str | bytes | None = None
    delay_s: float = 0.0
    closing: Closing = Closing.NEVER
    # Derived once, for a step is said many times:
    code: int = field(init=False, compare=False, repr=False, default=0)
    wire: bytes = field(init=False, compare=False, repr=False, default=b"")
    text: str | None = field(init=False, compare=False, repr=False, default=None)

    def __post_init__(self) -> None:
        if not self.delay_s >= 0:
            raise ValueError(f"delay_s must not be negative: {self.delay_s!r}")
        if isinstance(self.reply, str):
            lines = self.reply.split("\n")
            for line in lines:
                if not _REPLY_LINE.match(line):
                    raise ValueError(f"not an SMTP reply line: {line!r} (raw bytes are free)")
            self._derive(self.reply.encode().replace(b"\n", b"\r\n") + b"\r\n", lines)
        elif self.reply is not None:
            lines = self.reply.decode("latin-1").rstrip("\r\n").split("\n")
            self._derive(self.reply, [line.rstrip("\r") for line in lines])
        if self.closing is Closing.TAKEN:
            object.__setattr__(self, "code", 250)

    def _derive(self, wire: bytes, lines: list[str]) -> None:
        """Set what is written and what a client reads in it: code 0 when that is no reply."""
        if self.is_silent:
            return
        object.__setattr__(self, "wire", wire)
        object.__setattr__(self, "text", " | ".join(lines))
        if _REPLY_LINE.match(lines[-1]):
            object.__setattr__(self, "code", int(lines[-1][:3]))

    @property
    def is_silent(self) -> bool:
        """Whether nothing is said at all."""
        return self.closing in (Closing.INSTEAD, Closing.RESET, Closing.TAKEN)


@functools.lru_cache(maxsize=256)
def plain(reply: str) -> Step:
    """Return the step that says a reply at once; for replies that are said again and again."""
    return Step(reply)


@dataclass(frozen=True, slots=True)
class Script:
    """Steps per stage, taken in order; when a stage has none left the receiver's manner answers.

    By default the steps are consumed once, by whichever connection comes first; with
    `is_per_connection` every connection plays the script from its start.
    """

    connect: tuple[Step, ...] = ()
    helo: tuple[Step, ...] = ()
    starttls: tuple[Step, ...] = ()
    mail: tuple[Step, ...] = ()
    rcpt: tuple[Step, ...] = ()
    data: tuple[Step, ...] = ()
    dot: tuple[Step, ...] = ()
    rset: tuple[Step, ...] = ()
    quit: tuple[Step, ...] = ()
    is_per_connection: bool = False

    @classmethod
    def of(
        cls, *, is_per_connection: bool = False, **stages: Iterable[str | bytes | Step | None]
    ) -> Self:
        """Build a script from plain replies: Script.of(rcpt=["250 2.1.5 ok", "421 4.7.0 bye"])."""
        known = {stage.value for stage in Stage}
        if unknown := set(stages) - known:
            raise ValueError(f"no such stage: {', '.join(sorted(unknown))}")
        steps = {
            name: tuple(one if isinstance(one, Step) else Step(one) for one in answers)
            for name, answers in stages.items()
        }
        return cls(is_per_connection=is_per_connection, **steps)


class ScriptCursor:
    """What is left of a script."""

    def __init__(self, script: Script) -> None:
        self._left: dict[Stage, deque[Step]] = {
            stage: deque(steps) for stage in Stage if (steps := getattr(script, stage.value))
        }

    def take(self, stage: Stage) -> Step | None:
        """Return the next step of the stage, or None when the script says no more about it."""
        left = self._left.get(stage)
        return left.popleft() if left else None

    def has(self, stage: Stage) -> bool:
        """Whether the script still says something about the stage."""
        return bool(self._left.get(stage))

    @property
    def is_played(self) -> bool:
        """Whether every step has been taken."""
        return not any(self._left.values())
