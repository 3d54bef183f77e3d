"""What a session says, and when its patience ends.

Gives    Answers: the steps to hand over, errors counted; CHATTER, commands that change nothing
Follows  RFC 5321 §4.2.5 and §3.8 (a server may end a session with 421 at any time)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mailcore.reception import replies
from mailcore.reception.values import Close, Limits, Say, Step
from mailcore.reply import SmtpReply


class Answers:
    """Steps in order. `is_over`: the last one was said."""

    __slots__ = ("_errors", "_idle_commands", "_limits", "_steps", "is_over")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._errors = 0
        self._idle_commands = 0
        self._steps: list[Step] = []
        self.is_over = False

    def say(self, octets: bytes) -> None:
        """Answer."""
        self._steps.append(Say(octets))

    def do(self, step: Step) -> None:
        """Have something done."""
        self._steps.append(step)

    def refuse(self, code: int, enhanced: str, text: str) -> None:
        """Answer with an error of one line."""
        self.say(replies.line(code, enhanced, text))
        self._count_error()

    def refuse_with(self, reply: SmtpReply) -> None:
        """Answer with an error."""
        self.say(replies.reply_octets(reply))
        self._count_error()

    def end(self, octets: bytes, *, is_peer_talking: bool = True) -> None:
        """Say this and close."""
        self.say(octets)
        self._steps.append(Close(is_peer_talking))
        self.is_over = True

    def goes_on_idly(self) -> bool:
        """Count a command that brings no mail forward; return whether the session goes on."""
        self._idle_commands += 1
        if self._idle_commands <= self._limits.idle_commands:
            return True
        self.end(b"421 4.7.0 too many commands without a message, closing\r\n")
        return False

    def forgive(self) -> None:
        """A message came: forget what was counted."""
        self._errors = self._idle_commands = 0

    def handed_over(self) -> list[Step]:
        """Return the steps; they are not kept."""
        steps, self._steps = self._steps, []
        return steps

    def _count_error(self) -> None:
        self._errors += 1
        if self._errors > self._limits.errors and not self.is_over:
            self.end(b"421 4.7.0 too many errors, closing\r\n")


# ── commands that change nothing ──────────────────────────────────────────────────────────────


def _noop(answers: Answers, argument: str) -> None:
    if answers.goes_on_idly():
        answers.say(replies.OK)


def _vrfy(answers: Answers, argument: str) -> None:
    if not argument:
        answers.refuse(501, "5.5.4", "VRFY takes an address")
    elif answers.goes_on_idly():
        answers.say(b"252 2.5.0 cannot say; send it and see\r\n")


def _expn(answers: Answers, argument: str) -> None:
    answers.refuse(502, "5.5.1", "there are no lists here")


def _help(answers: Answers, argument: str) -> None:
    if answers.goes_on_idly():
        answers.say(replies.HELP)


def _quit(answers: Answers, argument: str) -> None:
    if argument:
        answers.refuse(501, "5.5.4", "QUIT takes no argument")
    else:
        answers.end(b"221 2.0.0 bye\r\n", is_peer_talking=False)


CHATTER: Final[dict[str, Callable[[Answers, str], None]]] = {
    "NOOP": _noop,
    "VRFY": _vrfy,
    "EXPN": _expn,
    "HELP": _help,
    "QUIT": _quit,
}
