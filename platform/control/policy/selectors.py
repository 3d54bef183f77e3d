"""What the fleet runs, for every page and for readiness.

Gives    fleet_state() in two queries
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db import connection

from control.policy.models import PolicyRevision
from mailio.snapshots import SYNC_WINDOW_S


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node: does it report, and does all of it run the active revision?"""

    name: str
    process_count: int
    is_synced: bool


@dataclass(frozen=True, slots=True)
class FleetState:
    """The policy in force, and who runs it. `newest` is beyond `active` while one is pinned."""

    active: int | None
    newest: int | None
    is_pinned: bool
    nodes: tuple[NodeState, ...]

    @property
    def is_pending(self) -> bool:
        """Whether saved changes wait for unpinning."""
        return self.is_pinned and self.active != self.newest


_NODES = """
    SELECT names.name, count(ack.id), coalesce(bool_and(ack.revision = %s), false)
    FROM (SELECT name FROM nodes_node
          UNION SELECT node FROM policy_ack
          WHERE at > statement_timestamp() - make_interval(secs => %s)) AS names
    LEFT JOIN policy_ack AS ack
        ON ack.node = names.name AND ack.at > statement_timestamp() - make_interval(secs => %s)
    GROUP BY names.name ORDER BY names.name
"""


def fleet_state() -> FleetState:
    """Return the active revision and which nodes run it."""
    top = list(
        PolicyRevision.objects.order_by("-revision").values_list(
            "revision", "is_active", "is_pinned"
        )[:1]
    )
    newest = top[0][0] if top else None
    active, is_pinned = (top[0][0], top[0][2]) if top and top[0][1] else (None, False)
    if top and active is None:
        row = PolicyRevision.objects.filter(is_active=True).values_list("revision", "is_pinned")
        active, is_pinned = next(iter(row), (None, False))
    with connection.cursor() as cursor:
        cursor.execute(_NODES, (active or 0, SYNC_WINDOW_S, SYNC_WINDOW_S))
        nodes = tuple(NodeState(name, count, synced) for name, count, synced in cursor.fetchall())
    return FleetState(active, newest, is_pinned, nodes)
