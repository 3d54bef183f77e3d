"""Words for tests of the dialogue: an open one, what it writes, what a server says to it.

Gives    opened, hear, text, message, verdicts; PIPELINED, ONE_BY_ONE, CHUNKED, CHUNKED_ONE_BY_ONE
"""

from __future__ import annotations

from mailcore.outcome import Scope
from mailcore.transaction import (
    Dialogue,
    Ready,
    Step,
    Transaction,
    WireMessage,
    Write,
)

PIPELINED = "250-peer.test\r\n250-PIPELINING\r\n250 SIZE 1000"
ONE_BY_ONE = "250 peer.test"
CHUNKED_ONE_BY_ONE = "250-peer.test\r\n250-CHUNKING\r\n250 ENHANCEDSTATUSCODES"
CHUNKED = CHUNKED_ONE_BY_ONE.replace("250-CHUNKING", "250-PIPELINING\r\n250-CHUNKING")


def text(steps: list[Step]) -> str:
    """Return what is written."""
    return b"".join(step.data for step in steps if isinstance(step, Write)).decode()


def hear(dialogue: Dialogue, *lines: str) -> list[Step]:
    """Let the server say lines."""
    return dialogue.receive("".join(f"{line}\r\n" for line in lines).encode())


def opened(ehlo: str = PIPELINED) -> Dialogue:
    """Return a dialogue that is ready for MAIL."""
    dialogue = Dialogue("me.test", wants_tls=False)
    hear(dialogue, "220 hello")
    assert Ready() in hear(dialogue, ehlo)
    return dialogue


def message(*names: str) -> Transaction:
    """Return a transaction to these recipients."""
    paths = tuple(f"{name}@peer.test" for name in names or ("a",))
    return Transaction(WireMessage("from@me.test", paths, b"hello\r\n"))


def verdicts(transaction: Transaction) -> list[tuple[int, str, Scope] | None]:
    """Return what decided over each recipient."""
    return [
        None if known is None else (known.reply.code, known.stage, known.scope)
        for known in transaction.verdicts
    ]
