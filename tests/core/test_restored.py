"""What had become of a recipient that a restored ledger has in its queue."""

import pytest

from mailcore.restored import end_of


def told(*events: tuple[str, int]) -> list[dict[str, object]]:
    return [{"kind": kind, "occurred_ms": at_ms} for kind, at_ms in events]


@pytest.mark.parametrize(
    ("events", "end"),
    [
        ([], ""),
        ([("accepted", 1)], ""),
        ([("accepted", 1), ("deferred", 2), ("unknown", 3)], ""),
        ([("accepted", 1), ("delivered", 1)], "delivered"),
        ([("bounced", 5), ("accepted", 1)], "bounced"),
        ([("accepted", 1), ("delivered", 5), ("late_bounced", 9)], "delivered"),
        ([("accepted", 1), ("expired", 5)], "expired"),
        ([("accepted", 1), ("purged", 5)], "purged"),
        ([("accepted", 1), ("purged", 5), ("accepted", 6)], ""),
        ([("accepted", 1), ("purged", 5), ("accepted", 5)], ""),
        ([("accepted", 1), ("purged", 5), ("accepted", 6), ("delivered", 7)], "delivered"),
    ],
)
def test_the_last_end_counts_unless_it_was_undone(events: list[tuple[str, int]], end: str) -> None:
    assert end_of(told(*events)) == end
