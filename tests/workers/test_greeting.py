"""As whom a session greets: the name in EHLO, and mail that may share it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mailcore.policy.model import PolicySnapshot, Source, Strategy
from mailcore.policy.words import DomainType, HeloMode
from mailcore.ports import Endpoint, WireMessage
from tests.support.builders import DOMAIN, NODE, policy, row
from tests.support.fakes import OneTransaction, ScriptedConnection, world
from tests.workers.test_opening import SOURCE, meeting, send


@pytest.mark.parametrize(
    ("helo", "domain_type", "name"),
    [
        (HeloMode.PTR, DomainType.FROM_HEADER, "out1.sender.test"),
        (HeloMode.FIXED, DomainType.FROM_HEADER, "out1.sender.test"),
        (HeloMode.IP, DomainType.FROM_HEADER, f"[{SOURCE}]"),
        (HeloMode.FROM_DOMAIN, DomainType.FROM_HEADER, "xn--bcher-kva.test"),
        (HeloMode.FROM_DOMAIN, DomainType.PTR, "out1.sender.test"),
        (HeloMode.FROM_DOMAIN, DomainType.FIXED, "xn--hs-eka.test"),
    ],
)
async def test_each_way_to_greet_and_no_name_but_in_a_labels(
    helo: HeloMode, domain_type: DomainType, name: str
) -> None:
    base = policy(strategy=Strategy(1, "u", 0, 0, 0, 0.0, helo=helo))
    sender = replace(base.senders[1], domain_type=domain_type, fixed_domain="xn--hs-eka.test")
    snapshot: PolicySnapshot = replace(base, senders={1: sender})
    it = world(snapshot)
    it.ledger.add(replace(row(1), header_from="xn--bcher-kva.test"))
    await send(it)
    assert [endpoint.ehlo_name for endpoint in it.receiver.endpoints] == [name]
    assert it.ledger.kinds() == ["delivered"]


async def test_a_session_greets_for_one_from_domain_and_carries_no_other() -> None:
    base = policy(strategy=Strategy(1, "u", 1, 0, 0, 0.0, helo=HeloMode.FROM_DOMAIN))
    it = world(base)
    domains = ["one.test", "two.test"]
    for n in range(1, 21):
        name = domains[n % 2]
        it.ledger.add(replace(row(n, recipient=f"{name}@{DOMAIN}"), header_from=name))
    real, said = it.receiver.connect, set[tuple[str, str]]()

    async def connect(endpoint: Endpoint) -> ScriptedConnection:
        connection = await real(endpoint)
        begin = connection.begin

        def note(message: WireMessage, **rest: Any) -> OneTransaction:
            said.add((endpoint.ehlo_name, message.forward_paths[0].partition("@")[0]))
            return begin(message, **rest)

        connection.begin = note  # type: ignore[method-assign]
        return connection

    it.receiver.connect = connect  # type: ignore[method-assign]
    await send(it)
    assert it.ledger.kinds() == ["delivered"] * 20
    assert said == {(name, name) for name in domains}
    assert len(it.receiver.endpoints) < 20


async def test_a_source_of_ipv6_greets_with_its_address_as_the_rfc_writes_it() -> None:
    base = policy(strategy=Strategy(1, "u", 0, 0, 0, 0.0, helo=HeloMode.IP))
    it = world(replace(base, sources={1: Source(1, NODE, "::9", "out1.sender.test")}))
    await send(meeting({"mx1.test": (10, ("::1",))}, it))
    assert [endpoint.ehlo_name for endpoint in it.receiver.endpoints] == ["[IPv6:::9]"]
