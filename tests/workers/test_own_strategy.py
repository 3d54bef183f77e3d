"""On a path that senders share the slowest sets the pace, and each keeps its own word on TLS."""

from __future__ import annotations

from dataclasses import replace

from mailcore.policy.model import PolicySnapshot, Strategy
from mailcore.policy.words import HeloMode, TlsMode
from mailcore.security import CLEAR, Proven
from tests.support.builders import policy, row
from tests.support.fakes import world
from tests.workers.test_drain import drained

SLOW = Strategy(1, "slow", 1, 0, 0, 0.0, tls=TlsMode.NONE, helo=HeloMode.IP)
STRICT = Strategy(2, "strict", 0, 0, 0, 0.0, tls=TlsMode.REQUIRED)


def mixed() -> PolicySnapshot:
    """Sender 1 is slow and wants no TLS, sender 2 demands it by its strategy."""
    made = policy()
    sender = replace(made.senders[1], strategy_id=1)
    strict = replace(sender, id=2, name="secure", strategy_id=2)
    return replace(made, strategies={1: SLOW, 2: STRICT}, senders={1: sender, 2: strict})


async def test_a_demand_for_tls_is_not_lost_to_a_slower_strategy() -> None:
    it = world(mixed())
    it.receiver.tls = lambda endpoint: CLEAR if endpoint.tls is TlsMode.NONE else Proven(True)
    it.ledger.add(row(1), replace(row(2), sender_id=2, lane_id=99))
    await drained(it)
    assert it.ledger.kinds() == ["delivered", "delivered"]
    assert {endpoint.tls for endpoint in it.receiver.endpoints} == {TlsMode.NONE, TlsMode.REQUIRED}


async def test_each_greets_as_its_own_strategy_says() -> None:
    it = world(mixed())
    it.receiver.tls = lambda endpoint: CLEAR if endpoint.tls is TlsMode.NONE else Proven(True)
    it.ledger.add(row(1), replace(row(2), sender_id=2, lane_id=99))
    await drained(it)
    names = {endpoint.tls: endpoint.ehlo_name for endpoint in it.receiver.endpoints}
    assert names == {TlsMode.NONE: "[127.0.100.1]", TlsMode.REQUIRED: "out1.sender.test"}
