"""Tell what the receivers counted, as a table a person can read.

Gives    per_isp(): a row per provider and their sums; table(): the rows as text; summary(): the
         sums a check needs; aligned(): any rows as text
Takes    the answer of GET /counts; what was offered per provider, when that is known; an earlier
         answer, to count from there on
Raises   KeyError when the counts are not those of a lab
Follows  design.md section 5: counted at the receivers, not from the product's database
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_THROTTLED = "421"


@dataclass(frozen=True, slots=True)
class IspRow:
    """What became of the mail for one provider, or for all of them."""

    name: str
    offered: int | None  # None where nobody said
    accepted: int  # recipients with a copy
    twice: int  # copies beyond the first
    refused: int  # recipients refused for good
    deferrals: int  # 4yz replies to recipients
    throttled: int  # 421 replies, whatever they spoke of
    unanswered: int  # recipients whose transaction was cut off before the reply at the dot
    lost_replies: int  # recipients taken by a receiver that did not say so
    on_the_wire: int  # recipients whose sender could not know, those with lost replies among them
    late_bounced: int  # accepted recipients reported undeliverable later
    complained: int  # accepted recipients who complained
    connections: int
    tls_connections: int

    @property
    def unaccounted(self) -> int | None:
        """How many of the offered recipients were neither accepted nor refused."""
        return None if self.offered is None else self.offered - self.accepted - self.refused


_COLUMNS = (
    ("accepted", "accepted"),
    ("twice", "twice"),
    ("refused", "refused"),
    ("deferrals", "deferrals"),
    ("421s", "throttled"),
    ("unanswered", "unanswered"),
    ("lost replies", "lost_replies"),
    ("late bounced", "late_bounced"),
    ("complained", "complained"),
    ("connections", "connections"),
    ("TLS", "tls_connections"),
)


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of a load, seen from the receivers."""

    delivered: int  # recipients with a copy
    duplicated: int  # copies beyond the first
    bounced: int  # recipients refused for good
    on_the_wire: int  # recipients whose sender could not know, and may rightly have sent again
    late_bounced: int = 0  # delivered recipients reported undeliverable later
    complained: int = 0  # delivered recipients who complained

    def unaccounted(self, offered: int) -> int:
        """Return how many of the offered recipients met neither fate."""
        return offered - self.delivered - self.bounced


def summary(counts: Mapping[str, Any]) -> Summary:
    """Return the sums over all providers."""
    total = counts["total"]
    return Summary(
        delivered=total["accepted_unique"],
        duplicated=total["duplicates"],
        bounced=total["refused_unique"],
        on_the_wire=total["on_the_wire"],
        late_bounced=total.get("late_bounced", 0),
        complained=total.get("complained", 0),
    )


def per_isp(
    counts: Mapping[str, Any],
    *,
    offered: Mapping[str, int] | None = None,
    before: Mapping[str, Any] | None = None,
) -> list[IspRow]:
    """Return a row per provider in the order of the world, and as the last one their sums.

    Differences to `before` are right for ids that were not offered before it.
    """
    rows = []
    for name, one in [*counts["providers"].items(), ("total", counts["total"])]:
        earlier: Mapping[str, Any] = {}
        if before is not None:
            earlier = before["total"] if name == "total" else before["providers"].get(name, {})
        mine = None
        if offered is not None:
            mine = sum(offered.values()) if name == "total" else offered.get(name, 0)
        rows.append(_row(name, one, earlier, mine))
    return rows


def _row(name: str, now: Mapping[str, Any], earlier: Mapping[str, Any], mine: int | None) -> IspRow:
    def grown(key: str) -> int:
        return int(now[key]) - int(earlier.get(key, 0))

    def reported(key: str) -> int:  # not in the counts of a tally that stands alone
        return int(now.get(key, 0)) - int(earlier.get(key, 0))

    return IspRow(
        name=name,
        offered=mine,
        accepted=grown("accepted_unique"),
        twice=grown("duplicates"),
        refused=grown("refused_unique"),
        deferrals=grown("deferred"),
        throttled=_throttled(now) - _throttled(earlier),
        unanswered=grown("unanswered"),
        lost_replies=grown("lost_replies"),
        on_the_wire=grown("on_the_wire"),
        late_bounced=reported("late_bounced"),
        complained=reported("complained"),
        connections=grown("connections"),
        tls_connections=grown("tls_connections"),
    )


def _throttled(counts: Mapping[str, Any]) -> int:
    replies: Mapping[str, int] = counts.get("replies", {})
    return sum(count for reply, count in replies.items() if reply.startswith(_THROTTLED))


def table(
    counts: Mapping[str, Any],
    *,
    offered: Mapping[str, int] | None = None,
    before: Mapping[str, Any] | None = None,
) -> str:
    """Return the table: providers in the order of the world, then the total."""
    head = ["provider"] + (["offered"] if offered is not None else [])
    rows = [head + [title for title, _ in _COLUMNS]]
    for one in per_isp(counts, offered=offered, before=before):
        row = [one.name] + ([str(one.offered)] if offered is not None else [])
        rows.append(row + [str(getattr(one, name)) for _, name in _COLUMNS])
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]], *, gap: str = "  ") -> str:
    """Return rows of equal length as lines: names to the left, figures to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        gap.join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
