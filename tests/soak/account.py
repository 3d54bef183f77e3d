"""What became of every message, and which fault made which copy.

Gives    Account: line, faults, copies; account_of()
Takes    the reckoning of the fleet's demonstrations; which recipients each fault found on the wire
Raises   nothing
Follows  control.management.fleet.reckoning (each recipient has one end)

A copy is *explained* by a fault that found its recipient on the wire, or by a receiver that lost
its own reply; each explains one. And our events must say that the outcome was unknown: what is
sent again at once, blindly, is a failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from control.management.fleet.reckoning import End, Reckoning


@dataclass(frozen=True, slots=True)
class Hit:
    """Whom a fault found on the wire; `name` says which fault it was."""

    name: str
    recipients: frozenset[str]


@dataclass(frozen=True, slots=True)
class Copy:
    """A recipient with more than one copy, and what made them."""

    recipient: str
    copies: int  # beyond the first
    made_by: tuple[str, ...]
    was_unknown: bool  # whether our events say that the outcome was not known, as they must

    @property
    def is_explained(self) -> bool:
        """Whether there was a fault for each copy, and we knew that we did not know."""
        return self.copies <= len(self.made_by) and self.was_unknown

    def __str__(self) -> str:
        made_by = ", ".join(self.made_by) or "nothing"
        blind = "" if self.was_unknown else ", sent again without a doubt"
        return f"{self.recipient}: {self.copies} by {made_by}{blind}"


@dataclass(frozen=True, slots=True)
class Account:
    """The account of a run."""

    struck: int
    reckoning: Reckoning
    copies: Sequence[Copy]
    on_the_wire: int
    refused: Sequence[str] = ()

    @property
    def copied(self) -> int:
        """How many copies there are beyond the first."""
        return sum(one.copies for one in self.copies)

    @property
    def line(self) -> str:
        """The last line."""
        total = self.reckoning.total
        ends = " ".join(f"{end.value}={total.ends[end]}" for end in End)
        return (
            f"soak: faults={self.struck} accepted={total.accepted} {ends}"
            f" copies={self.copied} on_the_wire={self.on_the_wire}"
        )

    @property
    def faults(self) -> list[str]:
        """What is not as it must be, in words."""
        found = [one for one in self.reckoning.faults if " duplicated" not in one]
        found += [f"a copy nothing explains: {one}" for one in self.copies if not one.is_explained]
        if self.copied > self.on_the_wire:
            found.append(f"{self.copied} copies, and {self.on_the_wire} were on the wire")
        found += [f"the API refused what is good: {one}" for one in self.refused[:5]]
        return found


def account_of(
    struck: int,
    reckoning: Reckoning,
    *,
    facts: Iterable[Mapping[str, Any]],
    hits: Sequence[Hit],
    unknown: frozenset[str],
    refused: Sequence[str] = (),
) -> Account:
    """Return the account of a run, from what the receivers noted, whom each fault hit, and whose
    outcome our events call unknown."""
    taken: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for fact in facts:
        if fact["fate"] == "accepted":
            taken[fact["recipient"]] += 1
            lost[fact["recipient"]] += fact["reply"] is None
    copies = []
    for recipient, count in taken.items():
        if count > 1:
            made_by = [hit.name for hit in hits if recipient in hit.recipients]
            made_by += ["a reply its receiver lost"] * lost[recipient]
            copies.append(Copy(recipient, count - 1, tuple(made_by), recipient in unknown))
    on_the_wire = sum(len(hit.recipients) for hit in hits) + lost.total()
    return Account(struck, reckoning, tuple(copies), on_the_wire, tuple(refused))
