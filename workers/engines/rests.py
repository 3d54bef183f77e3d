"""What this process remembers of paths that failed it, beyond the feeds.

Gives    Rests: `next_s`, `forgive`; is_about_path: whether an outcome says that others must wait
Takes    the limits, outcomes
Raises   nothing

A feed closes while its path rests, and the next rest must be longer all the same.
"""

from __future__ import annotations

from mailcore.bells import Path
from mailcore.outcome import Outcome, Scope, Verdict
from workers.engines.context import Limits

MOST_DOUBLINGS = 20


class Rests:
    """Used on the engine's loop only."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._failures: dict[Path, int] = {}

    def next_s(self, path: Path) -> float:
        """Note a failure of a path; return how long it should rest, longer each time."""
        failures = min(self._failures.get(path, 0), MOST_DOUBLINGS)
        self._failures[path] = failures + 1
        return min(self._limits.cool_first_s * 2.0**failures, self._limits.cool_most_s)

    def forgive(self, path: Path) -> None:
        """Mail is taken: the path starts anew."""
        self._failures.pop(path, None)


def is_about_path(outcome: Outcome) -> bool:
    """Whether the path must rest for what was said to one of its rows.

    A host that refuses MAIL, or says 421 before it took anything, would refuse the next as well;
    but a status X.1.Z is about this sender's address.
    """
    if outcome.verdict is Verdict.DELIVERED:
        return False
    if outcome.scope is not Scope.HOST:
        return outcome.scope in (Scope.SITE, Scope.SOURCE)
    reply = outcome.reply
    is_of_address = reply.enhanced is not None and reply.enhanced.subject == 1
    return reply.code == 421 or (outcome.stage == "mail" and not is_of_address)
