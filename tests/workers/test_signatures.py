"""Mail carries the signatures of its From domain and of its sender, and each of them verifies."""

from __future__ import annotations

from dataclasses import replace

import dkim
import pytest

from mailcore.dkim import DkimAlgorithm, generate, public_record
from mailcore.outcome import RowState
from mailcore.policy.model import DkimKey, PolicySnapshot, SendingDomain
from mailcore.policy.words import Encoding
from tests.support.builders import policy, row
from tests.support.fakes import World, world
from tests.workers.test_drain import drained

PEMS = {
    "dkim:1": generate(DkimAlgorithm.RSA_SHA256),
    "dkim:2": generate(DkimAlgorithm.ED25519_SHA256),
    "dkim:3": generate(DkimAlgorithm.ED25519_SHA256),
}
SPECS = {
    1: DkimKey(1, "sender.test", "r1", "rsa-sha256", "dkim:1"),
    2: DkimKey(2, "sender.test", "e1", "ed25519-sha256", "dkim:2"),
    3: DkimKey(3, "platform.test", "p1", "ed25519-sha256", "dkim:3"),
}
RECORDS = {
    f"{spec.selector}._domainkey.{spec.domain}.".encode(): public_record(PEMS[spec.secret_ref])
    for spec in SPECS.values()
}


class OpenVault:
    """A vault with these keys in it."""

    async def open(self, secret_ref: str) -> bytes:
        return PEMS[secret_ref]


def lookup(name: bytes, timeout: int = 5) -> bytes | None:
    """Answer as DNS would."""
    record = RECORDS.get(name)
    return record.encode() if record is not None else None


def signed_world(*, of_domain: tuple[int, ...], of_sender: tuple[int, ...]) -> World:
    """One row; which keys sign for its From domain, which for its sender."""
    base = policy()
    snapshot: PolicySnapshot = replace(
        base,
        sending_domains={"sender.test": SendingDomain(1, "sender.test", (1,), "", of_domain)},
        senders={1: replace(base.senders[1], dkim_key_ids=of_sender)},
        dkim_keys=SPECS,
        isps={1: replace(base.isps[1], add_headers=(("X-Peer", "größe"),),
                         encoding_global=Encoding.BASE64)},
    )  # fmt: skip
    it = world(snapshot)
    it = replace(it, ports=replace(it.ports, vault=OpenVault()))
    it.spool.content = (
        b"From: a@sender.test\r\nMIME-Version: 1.0\r\nList-Unsubscribe: <https://x.test>\r\n"
        b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\r\nhello\r\n"
    )
    it.ledger.add(row(1))
    return it


def domains_of(content: bytes) -> list[str]:
    """Return the domains that signed, from the top; every signature must verify."""
    fields = [value for name, value in dkim.DKIM(content).headers if name == b"DKIM-Signature"]
    for index in range(len(fields)):
        assert dkim.DKIM(content).verify(idx=index, dnsfunc=lookup), index
    tags = (dict(tag.split(b"=", 1) for tag in value.split(b";")) for value in fields)
    return [next(v.decode().strip() for k, v in one.items() if k.strip() == b"d") for one in tags]


@pytest.mark.parametrize(
    ("of_domain", "of_sender", "expected"),
    [
        ((1, 2), (), ["sender.test", "sender.test"]),
        ((1, 2), (3,), ["sender.test", "sender.test", "platform.test"]),
        ((), (3,), ["platform.test"]),
        ((2,), (3, 2), ["sender.test", "platform.test"]),
        ((), (), []),
    ],
)
async def test_the_from_domain_signs_and_then_the_sender_each_key_once(
    of_domain: tuple[int, ...], of_sender: tuple[int, ...], expected: list[str]
) -> None:
    it = signed_world(of_domain=of_domain, of_sender=of_sender)
    await drained(it)
    (message,) = it.receiver.delivered
    assert domains_of(message.content) == expected


async def test_two_senders_of_one_domain_sign_each_with_their_own_keys() -> None:
    it = signed_world(of_domain=(1,), of_sender=(3,))
    snapshot = it.policy.snapshot
    other = replace(snapshot.senders[1], id=2, name="other", dkim_key_ids=())
    it.policy.snapshot = replace(snapshot, senders={**snapshot.senders, 2: other})
    it.ledger.add(replace(row(2), sender_id=2))
    await drained(it)
    shown = {one.forward_paths[0]: domains_of(one.content) for one in it.receiver.delivered}
    assert shown == {
        "r1@peer.test": ["sender.test", "platform.test"],
        "r2@peer.test": ["sender.test"],
    }


async def test_the_token_and_the_way_to_unsubscribe_are_signed() -> None:
    it = signed_world(of_domain=(1,), of_sender=())
    await drained(it)
    (message,) = it.receiver.delivered
    for old, new in (
        (b"X-Postfleet-Token: ", b"X-Postfleet-Token: a"),
        (b"https://x.test", b"https://y.test"),
        (b"One-Click", b"None"),
    ):
        changed = message.content.replace(old, new)
        assert changed != message.content
        assert not dkim.DKIM(changed).verify(dnsfunc=lookup)


async def test_a_sender_s_key_that_is_gone_defers_its_mail() -> None:
    it = signed_world(of_domain=(1,), of_sender=(3,))
    specs = {key_id: spec for key_id, spec in SPECS.items() if key_id != 3}
    it.policy.snapshot = replace(it.policy.snapshot, dkim_keys=specs)
    await drained(it)
    assert it.receiver.delivered == []
    assert it.ledger.rows[1].state is RowState.WAITING
