"""What had become of recipients that a restored ledger believes to be queued.

Gives    end_of
Takes    the events of one recipient, as the statistics have them
Raises   nothing
Follows  docs/reliability.md, a restored backup
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mailcore.events import FINAL_KINDS, EventKind

_FINAL = frozenset(kind.value for kind in FINAL_KINDS)


def end_of(events: Iterable[Mapping[str, Any]]) -> str:
    """Return the kind of the event that ended a recipient, "" if none has.

    A purge that was undone is followed by another acceptance, and then nothing has ended.
    """
    ended_ms, accepted_ms, kind = -1, -1, ""
    for event in events:
        told, at_ms = str(event["kind"]), int(event["occurred_ms"])
        if told == EventKind.ACCEPTED.value:
            accepted_ms = max(accepted_ms, at_ms)
        elif told in _FINAL and at_ms > ended_ms:
            ended_ms, kind = at_ms, told
    is_undone = kind == EventKind.PURGED.value and accepted_ms >= ended_ms
    return "" if is_undone or accepted_ms > ended_ms else kind
