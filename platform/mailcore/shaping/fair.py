"""Who gets how much of a claim when several lanes want the same room.

Gives    share_budget
Takes    the room there is, and per lane whose it is and how much it could use
Raises   nothing
Follows  deficit round robin over accounts first, then over each account's lanes, so that no
         account, campaign or class starves another (design.md section 3, step 4)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Demand:
    """One lane that could use `wanted` places; `owner` is whose fair share it draws on."""

    lane_id: int
    owner: int
    wanted: int


def share_budget(room: int, demands: Sequence[Demand], *, turn: int = 0) -> Mapping[int, int]:
    """Return places per lane: equal per owner, then per lane, leftovers to who still wants.

    `turn` rotates who gets the odd place, so that over many rounds all are equal.
    """
    lanes: dict[int, list[Demand]] = {}
    for demand in demands:
        if demand.wanted > 0:
            lanes.setdefault(demand.owner, []).append(demand)
    totals = {owner: sum(d.wanted for d in group) for owner, group in lanes.items()}
    given: dict[int, int] = {}
    for owner, part in _split(room, totals, turn).items():
        given |= _split(part, {d.lane_id: d.wanted for d in lanes[owner]}, turn)
    return {lane: count for lane, count in given.items() if count}


def _split(room: int, wanted: Mapping[int, int], turn: int) -> dict[int, int]:
    """Split `room` equally among keys, none above what it wants."""
    given = dict.fromkeys(wanted, 0)
    open_keys = sorted(wanted)
    if not open_keys:
        return given
    start = turn % len(open_keys)
    open_keys = open_keys[start:] + open_keys[:start]
    while room > 0 and open_keys:
        part, odd = divmod(room, len(open_keys))
        still = []
        for position, key in enumerate(open_keys):
            share = min(part + (1 if position < odd else 0), wanted[key] - given[key])
            given[key] += share
            room -= share
            if given[key] < wanted[key]:
                still.append(key)
        open_keys = still
    return given
