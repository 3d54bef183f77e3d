"""Tell what the receivers counted, as a table a person can read.

Gives    table(): one line per provider and a total; summary(): the sums a check needs
Takes    the answer of GET /counts; what was offered per provider, when that is known
Raises   KeyError when the counts are not those of a lab
Follows  design.md section 5: counted at the receivers, not from the product's database
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_COLUMNS = (
    ("accepted", "accepted_unique"),
    ("twice", "duplicates"),
    ("refused", "refused_unique"),
    ("deferrals", "deferred"),
    ("unanswered", "unanswered"),
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
    )


def table(counts: Mapping[str, Any], *, offered: Mapping[str, int] | None = None) -> str:
    """Return the table: providers in the order of the world, then the total."""
    head = ["provider"] + (["offered"] if offered is not None else [])
    rows = [head + [title for title, _ in _COLUMNS]]
    for name, one in [*counts["providers"].items(), ("total", counts["total"])]:
        row = [name]
        if offered is not None:
            row.append(str(sum(offered.values()) if name == "total" else offered.get(name, 0)))
        rows.append(row + [str(one[key]) for _, key in _COLUMNS])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
