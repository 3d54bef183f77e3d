"""Recipients of one message share a transaction where their return path is per message."""

from __future__ import annotations

from dataclasses import replace

from mailcore import tokens
from mailcore.address import ForwardPath
from mailcore.dsn import DsnOrder, Notify
from mailcore.envelope import QueuedRow
from mailcore.outcome import RowState, Scope, TlsNeed, WaitReason
from mailcore.policy.model import PolicySnapshot, Strategy
from mailcore.policy.words import ReturnPathMode
from mailcore.ports import (
    Disconnected,
    DnsStatus,
    Grant,
    MxAnswer,
    MxHost,
    RecipientReply,
)
from mailcore.reply import SmtpReply
from mailio.smtp import SmtpConnector
from tests.support.builders import SITE, policy, row
from tests.support.fakes import World, world
from tests.support.smtp_peer import PIPELINING, obedient, serving
from tests.support.smtp_session import PATIENT
from tests.workers.test_drain import drained

LOST = SmtpReply.local(421, "4.4.2", "connection lost")
GONE = SmtpReply.of(550, ("5.1.1 no such user",))


def sharing(strategy: Strategy | None = None) -> PolicySnapshot:
    made = policy() if strategy is None else policy(strategy=strategy)
    sender = replace(made.senders[1], return_path_mode=ReturnPathMode.PER_MESSAGE)
    return replace(made, senders={1: sender})


def message(count: int, *, first: int = 1) -> list[QueuedRow]:
    """The rows of one message to so many recipients."""
    one = row(first)
    return [
        replace(row(first + n), message_id=one.message_id, recipient_no=n, content=one.content)
        for n in range(count)
    ]


def shape(it: World) -> list[int]:
    """How many recipients each transaction delivered to."""
    return [len(sent.forward_paths) for sent in it.receiver.delivered]


async def test_a_message_goes_once_to_all_its_recipients_of_a_site() -> None:
    it = world(sharing())
    it.ledger.add(*message(5))
    await drained(it)
    (sent,) = it.receiver.delivered
    assert sent.forward_paths == tuple(f"r{n}@peer.test" for n in range(1, 6))
    assert it.ledger.kinds() == ["delivered"] * 5
    assert it.ledger.rows == {}
    assert sorted(it.journal.told) == [
        *(("dot", n) for n in range(1, 6)),
        *(("outcome", n) for n in range(1, 6)),
    ]


async def test_its_return_path_and_token_name_the_message_alone() -> None:
    it = world(sharing())
    it.ledger.add(*message(2))
    await drained(it)
    (sent,) = it.receiver.delivered
    local_part, _, domain = sent.reverse_path.partition("@")
    token = tokens.find_in_local_part(local_part, ring={1: b"k" * 32})
    assert domain == "bounce.sender.test"
    assert (token.message_id, token.is_of_all) == (row(1).message_id, True)
    assert sent.content.startswith(b"X-Postfleet-Token: ")
    assert tokens.sign(token, ring={1: b"k" * 32}).encode() in sent.content.split(b"\r\n")[0]


async def test_a_return_path_per_recipient_shares_nothing() -> None:
    it = world()
    it.ledger.add(*message(3))
    await drained(it)
    assert shape(it) == [1, 1, 1]
    assert len({sent.reverse_path for sent in it.receiver.delivered}) == 3


async def test_messages_are_not_mixed_and_keep_their_order() -> None:
    it = world(sharing())
    it.ledger.add(*message(3), *message(2, first=10))
    await drained(it)
    assert [sent.forward_paths[0] for sent in it.receiver.delivered] == [
        "r1@peer.test",
        "r10@peer.test",
    ]
    assert shape(it) == [3, 2]


async def test_a_hundred_are_the_most() -> None:
    it = world(sharing())
    it.ledger.add(*message(130))
    await drained(it)
    assert it.ledger.kinds() == ["delivered"] * 130
    assert max(shape(it)) <= 100
    assert len(it.receiver.delivered) < 40


async def test_each_recipient_has_a_fate_of_its_own() -> None:
    it = world(sharing())
    it.ledger.add(*message(4))
    busy = SmtpReply.of(451, ("4.7.1 greylisted",))
    it.receiver.refused = {"r2@peer.test": GONE, "r3@peer.test": busy}
    await drained(it)
    assert sorted(it.ledger.kinds()) == ["bounced", "deferred", "delivered", "delivered"]
    assert list(it.ledger.rows) == [3]
    assert it.ledger.rows[3].attempt == 1
    # Who was refused before the dot has no copy under way: no dot is journaled for him.
    assert ("dot", 2) not in it.journal.told
    assert ("dot", 3) not in it.journal.told


async def test_recipients_over_the_servers_limit_come_in_the_next_transaction() -> None:
    it = world(sharing())
    it.receiver.most_taken = 3
    it.ledger.add(*message(8))
    await drained(it)
    assert it.ledger.kinds() == ["delivered"] * 8
    assert shape(it) == [3, 3, 2]


async def test_a_single_recipient_refused_as_one_too_many_waits_for_its_retry() -> None:
    it = world(sharing())
    it.ledger.add(*message(1))
    full = SmtpReply.of(452, ("4.5.3 too many recipients",))
    it.receiver.refused = {"r1@peer.test": full}
    await drained(it)
    assert it.ledger.kinds() == ["deferred"]
    assert it.ledger.rows[1].attempt == 1


async def test_a_full_mailbox_is_no_limit_of_the_transaction() -> None:
    it = world(sharing())
    it.ledger.add(*message(2))
    it.receiver.refused = {"r1@peer.test": SmtpReply.of(452, ("4.2.2 mailbox full",))}
    await drained(it)
    assert sorted(it.ledger.kinds()) == ["deferred", "delivered"]
    assert it.ledger.rows[1].attempt == 1


async def test_content_refused_is_refused_for_all_who_were_taken() -> None:
    it = world(sharing())
    it.ledger.add(*message(3))
    it.receiver.refused = {"r1@peer.test": SmtpReply.of(450, ("4.2.1 later",))}
    it.receiver.script = [SmtpReply.of(554, ("5.7.1 spam",))]
    await drained(it)
    assert sorted(it.ledger.kinds()) == ["bounced", "bounced", "deferred"]


async def test_a_reply_lost_after_the_dot_is_unknown_for_all_but_those_decided_before() -> None:
    it = world(sharing())
    it.ledger.add(*message(3))
    word = RecipientReply(GONE, "rcpt", Scope.RECIPIENT)
    it.receiver.script = [
        Disconnected(
            LOST, scope=Scope.SESSION, stage="dot", after_dot=True, decided=(None, word, None)
        )
    ]
    await drained(it)
    assert sorted(it.ledger.kinds()) == ["bounced", "unknown", "unknown"]
    assert {row.state for row in it.ledger.rows.values()} == {RowState.UNKNOWN}
    assert len(it.receiver.endpoints) == 1


async def test_a_session_lost_before_the_dot_brings_all_of_them_back_together() -> None:
    it = world(sharing())
    it.ledger.add(row(50), *message(3))
    gone = Disconnected(LOST, scope=Scope.SESSION, stage="mail")
    it.receiver.script = [SmtpReply.of(250, ("ok",)), gone]
    await drained(it)
    assert it.ledger.kinds() == ["delivered"] * 4
    assert sorted(shape(it)) == [1, 3]


async def test_a_lease_that_is_lost_withholds_the_dot_for_all() -> None:
    it = world(sharing())
    it.ledger.add(*message(3))
    holds = it.ports.lease.holds
    asked: list[int | None] = []

    def once_lost(number: int | None = None) -> bool:
        if number is None:
            return holds()
        asked.append(number)
        return len(asked) > 1 and holds(number)

    it.ports.lease.holds = once_lost  # type: ignore[method-assign]
    await drained(it)
    assert it.receiver.delivered == []
    assert set(it.ledger.reasons.values()) == {WaitReason.RETURNED}
    assert it.journal.told == []


async def test_recipients_that_need_tls_do_not_ride_with_those_that_do_not() -> None:
    it = world(sharing())
    plain, secret = message(2)
    it.ledger.add(plain, replace(secret, tls_need=TlsNeed.REQUIRED))
    await drained(it)
    assert [sent.forward_paths for sent in it.receiver.delivered] == [("r1@peer.test",)]
    assert sorted(it.ledger.kinds()) == ["deferred", "delivered"]


async def test_a_rate_counts_recipients_and_none_goes_before_its_time() -> None:
    it = world(sharing(Strategy(1, "slow", 1, 10, 1, 1.0)))
    it.shaper.grants = [Grant(3, 0.0, 0.05), Grant(0, 60.0)]
    it.ledger.add(*message(5))
    await drained(it)
    assert shape(it) == [3]
    assert len(it.ledger.rows) == 2


async def test_who_a_recipient_was_at_first_keeps_nobody_from_sharing_and_goes_with_each() -> None:
    it = world(sharing())
    orcpts = ["rfc822;list@peer.test", "", "rfc822;list@peer.test"]
    asked = [DsnOrder(notify=frozenset({Notify.DELAY}), orcpt=orcpt).to_text() for orcpt in orcpts]
    it.ledger.add(*(replace(r, dsn=dsn) for r, dsn in zip(message(3), asked, strict=True)))
    await drained(it)
    (sent,) = it.receiver.delivered
    assert sent.dsn is not None
    assert sent.dsn.orcpts == tuple(orcpts)
    assert sent.dsn.notify == {Notify.DELAY}


async def test_who_was_somebody_else_shares_with_those_who_ask_for_nothing() -> None:
    it = world(sharing())
    asked = ["S", DsnOrder(orcpt="rfc822;list@peer.test").to_text()]
    it.ledger.add(*(replace(r, dsn=dsn) for r, dsn in zip(message(2), asked, strict=True)))
    await drained(it)
    (sent,) = it.receiver.delivered
    assert sent.dsn is not None
    assert sent.dsn.orcpts == ("", "rfc822;list@peer.test")


async def test_recipients_whose_reports_are_wanted_for_other_things_do_not_share() -> None:
    it = world(sharing())
    asked = [DsnOrder(notify=frozenset({each})).to_text() for each in (Notify.DELAY, Notify.NEVER)]
    it.ledger.add(*(replace(r, dsn=dsn) for r, dsn in zip(message(2), asked, strict=True)))
    await drained(it)
    assert shape(it) == [1, 1]


async def test_who_may_be_one_too_many_or_full_is_asked_about_once_more() -> None:
    it = world(sharing(Strategy(1, "one", 1, 0, 0, 0.0)))
    it.ledger.add(*message(250))
    full = SmtpReply.of(452, ("mailbox full",))
    it.receiver.refused = {"r3@peer.test": full}
    asked: list[str] = []
    answer = it.receiver.at_rcpt

    def at_rcpt(path: str, index: int) -> RecipientReply | None:
        asked.append(path)
        return answer(path, index)

    it.receiver.at_rcpt = at_rcpt  # type: ignore[method-assign]
    await drained(it)
    assert asked.count("r3@peer.test") == 2
    assert it.ledger.kinds().count("delivered") == 249
    assert it.ledger.rows[3].attempt == 1


async def test_recipients_the_servers_limits_left_out_come_next_whatever_the_others_met() -> None:
    offers = (*PIPELINING, "ENHANCEDSTATUSCODES", "LIMITS RCPTDOMAINMAX=1")
    async with serving(obedient({"RCPT": ["550 5.1.1 nobody"]}, offers)) as heard:
        it = world(sharing())
        connector = SmtpConnector(PATIENT, confine_to_loopback=True)
        it = replace(it, ports=replace(it.ports, connector=connector, smtp_port=heard.port))
        it.resolver.mxs["other.test"] = MxAnswer(DnsStatus.OK, (MxHost(10, SITE),))
        first, *others = message(4)
        it.ledger.add(
            first,
            *(replace(r, recipient=ForwardPath.parse(f"x{r.id}@other.test")) for r in others),
        )
        await drained(it)
    assert sorted(it.ledger.kinds()) == ["bounced", "delivered", "delivered", "delivered"]
    # They share a transaction, as before.
    assert sum(line.startswith("MAIL") for line in heard.lines) == 2
