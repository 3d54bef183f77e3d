"""Whatever the bodies, verdicts and pace: each message goes to those who were accepted, once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailcore.errors import SubmissionRefused
from mailcore.render import repair
from mailcore.transaction import (
    Dialogue,
    Done,
    Failed,
    SendContent,
    Stage,
    Step,
    Transaction,
    WireMessage,
    Write,
)
from mailcore.transaction.message import ended
from tests.support.smtp_model import ModelServer, Plan

OFFERS = st.sampled_from(
    [
        ("8BITMIME",),
        ("PIPELINING", "8BITMIME"),
        ("CHUNKING", "ENHANCEDSTATUSCODES", "8BITMIME"),
        ("PIPELINING", "CHUNKING", "ENHANCEDSTATUSCODES", "8BITMIME", "SIZE 1000000"),
    ]
)
LINES = st.lists(st.text(st.sampled_from(".ab \tü="), max_size=5).map(str.encode), max_size=12)
# Content as it comes from intake: CRLF alone ends a line, however long it is.
SOUND = st.one_of(
    LINES.map(lambda lines: b"".join(line + b"\r\n" for line in lines)),
    st.integers(1, 5000).map(lambda size: b"." * size + b"\r\n"),
    st.just(b".\r\n"),
)
# And anything else but NUL: commands behind an end of some kind, bare CR and LF.
ANY = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"a", b"..", b"MAIL FROM:<x@y.test>", b"\xff"]),
    max_size=30,
).map(b"".join)
# What a client may bring: line ends of all kinds, dots where they hurt, long lines, any octet.
BROUGHT = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"\r",
                b"\n",
                b"\r\n",
                b".",
                b"..",
                b"\r\n.\r\n",
                b"\n.\n",
                b"\r.\r",
                b"RSET\r\n",
                b"\x1a",
            ]
        ),
        st.text(max_size=5).map(str.encode),
        st.binary(max_size=20),
        st.builds(
            bytes.__mul__, st.sampled_from([b".", b"x", b"\xc3\xbc "]), st.integers(990, 3000)
        ),
    ),
    max_size=12,
).map(b"".join)


def plans(contents: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[Plan]]:
    return st.lists(
        st.builds(
            Plan,
            mail=st.sampled_from([250, 250, 250, 451, 550]),
            rcpts=st.lists(st.sampled_from([250, 250, 450, 550, 552]), min_size=1, max_size=3).map(
                tuple
            ),
            data=st.sampled_from([354, 354, 354, 451, 554]),
            end=st.sampled_from([250, 250, 452, 554]),
            content=contents,
        ),
        min_size=1,
        max_size=5,
    )


class Wire:
    """Carries octets between a dialogue and a model server, at any pace."""

    def __init__(self, server: ModelServer, cut: Callable[[int], int]) -> None:
        self.server = server
        self.dialogue = Dialogue("me.test", wants_tls=False)
        self.steps: list[Step] = []
        self._cut = cut
        self._to_server = b""
        self._to_client = b""

    def settle(self) -> None:
        """Carry all that is on its way, and what follows from it."""
        while self._to_server or self._to_client or self.server.said:
            size = self._cut(len(self._to_server))
            self.server.hear(self._to_server[:size])
            self._to_server = self._to_server[size:]
            self._to_client += b"".join(self.server.said)
            self.server.said.clear()
            size = self._cut(len(self._to_client))
            now, self._to_client = self._to_client[:size], self._to_client[size:]
            self.do(self.dialogue.receive(now))

    def do(self, steps: list[Step]) -> None:
        """Write what is to be written, content included."""
        self.steps += steps
        for step in steps:
            if isinstance(step, Write):
                self._to_server += step.data
            elif isinstance(step, SendContent):
                self._to_server += b"".join(step.frame())
                self.dialogue.dot_sent(step.transaction)

    def send(self, transactions: list[Transaction]) -> None:
        """Send a chain: each begins when the content of the one before it was sent."""
        for transaction in transactions:
            self.do(self.dialogue.begin(transaction))
            while not (
                transaction.is_dot_sent or Done(transaction) in self.steps or self._is_stuck()
            ):
                self.settle()
        self.settle()

    def _is_stuck(self) -> bool:
        return self.dialogue.is_over or not (self._to_server or self._to_client or self.server.said)


def transactions_of(chain: list[Plan]) -> list[Transaction]:
    return [
        Transaction(
            WireMessage(
                f"m{n}@me.test",
                tuple(f"m{n}r{i}@peer.test" for i in range(len(plan.rcpts))),
                plan.content,
                needs_8bit=not plan.content.isascii(),
            )
        )
        for n, plan in enumerate(chain)
    ]


def carried(
    server: ModelServer, chain: list[Plan], data: st.DataObject
) -> tuple[Wire, list[Transaction]]:
    """Play the chain over a wire whose pace hypothesis draws."""
    wire = Wire(server, lambda size: data.draw(st.integers(min(size, 1), size)))
    wire.settle()
    transactions = transactions_of(chain)
    wire.send(transactions)
    return wire, transactions


@settings(max_examples=60)
@given(plans(SOUND), OFFERS, st.booleans(), st.booleans(), st.data())
def test_every_octet_reaches_those_who_were_accepted_and_nobody_else(
    chain: list[Plan],
    offers: tuple[str, ...],
    nests: bool,
    is_generous: bool,
    data: st.DataObject,
) -> None:
    server = ModelServer(chain, offers, nests=nests, is_generous=is_generous)
    wire, transactions = carried(server, chain, data)
    assert server.wrong == []
    assert not any(isinstance(step, Failed) for step in wire.steps)
    is_chunked = "CHUNKING" in offers
    for transaction, plan in zip(transactions, chain, strict=True):
        codes = [known.reply.code for known in transaction.verdicts if known is not None]
        assert codes == plan.expected(is_chunked=is_chunked)
        assert wire.steps.count(Done(transaction)) == 1
    assert server.taken == [
        (n, tuple(i for i, code in enumerate(plan.rcpts) if code == 250), ended(plan.content))
        for n, plan in enumerate(chain)
        if 250 in plan.expected(is_chunked=is_chunked)
    ]


@settings(max_examples=60)
@given(plans(ANY), OFFERS, st.data())
def test_no_content_ends_before_its_end(
    chain: list[Plan], offers: tuple[str, ...], data: st.DataObject
) -> None:
    server = ModelServer(chain, offers)
    _, transactions = carried(server, chain, data)
    # A message that was split would leave commands nobody said, and replies out of step.
    assert server.wrong == []
    for transaction, plan in zip(transactions, chain, strict=True):
        codes = [known.reply.code for known in transaction.verdicts if known is not None]
        assert codes == plan.expected(is_chunked="CHUNKING" in offers)
    if "CHUNKING" in offers:
        assert all(content == ended(chain[n].content) for n, _, content in server.taken)


@settings(max_examples=100)
@given(plans(SOUND), OFFERS, st.integers(2, 20), st.data())
def test_a_reply_that_comes_twice_delivers_nothing_that_was_not_taken(
    chain: list[Plan], offers: tuple[str, ...], doubled: int, data: st.DataObject
) -> None:
    server = Stammering(chain, offers, doubled=doubled)
    _, transactions = carried(server, chain, data)
    taken = {(n, i) for n, recipients, _ in server.taken for i in recipients}
    for n, transaction in enumerate(transactions):
        for i, known in enumerate(transaction.verdicts):
            if known is not None and known.reply.is_positive:
                assert (n, i) in taken
    # Out of step, content may leave that nobody asked for; but no octet of it becomes a command.
    assert not any(fault.startswith("no command") for fault in server.wrong)


@settings(max_examples=100)
@given(plans(SOUND), OFFERS, st.integers(2, 20), st.booleans(), st.data())
def test_a_reply_too_many_or_too_few_bounces_nobody_who_was_not_refused(
    chain: list[Plan], offers: tuple[str, ...], which: int, is_lost: bool, data: st.DataObject
) -> None:
    # The answer to a MAIL may be taken for that of the content before it, if that was lost; and
    # 552 is another word at DATA than at RCPT.
    chain = [
        replace(plan, mail=250, rcpts=tuple(450 if code == 552 else code for code in plan.rcpts))
        for plan in chain
    ]
    server = Stammering(chain, offers, doubled=which, is_lost=is_lost)
    wire, transactions = carried(server, chain, data)
    # What is awaited now does not come.
    wire.dialogue.is_in_doubt |= wire.dialogue.awaits is not Stage.DOT
    wire.dialogue.break_off()
    for transaction, plan in zip(transactions, chain, strict=True):
        for known, code in zip(
            transaction.verdicts, plan.expected(is_chunked="CHUNKING" in offers), strict=True
        ):
            if known is not None and known.reply.is_permanent and known.stage != "mail":
                assert code >= 500


class Stammering(ModelServer):
    """Says one of its replies twice, or loses it."""

    def __init__(
        self, chain: list[Plan], offers: tuple[str, ...], *, doubled: int, is_lost: bool = False
    ) -> None:
        super().__init__(chain, offers)
        self._left = doubled
        self._is_lost = is_lost

    def hear(self, data: bytes) -> None:
        """Take octets, and stammer once."""
        super().hear(data)
        if 0 < self._left <= len(self.said):
            reply = self.said.pop(self._left - 1)
            if not self._is_lost:
                self.said[self._left - 1 : self._left - 1] = [reply, reply]
            self._left = 0
        self._left -= len(self.said)


@given(ANY)
def test_no_content_holds_an_end_for_receivers_that_take_a_bare_line_feed(content: bytes) -> None:
    transaction = Transaction(WireMessage("a@me.test", ("b@peer.test",), content))
    head, body, mark = SendContent(transaction).frame()
    assert head == b""
    lax = (b"\n" + body.replace(b"\r\n", b"\n") + mark.replace(b"\r\n", b"\n")).split(b"\n")
    assert lax.index(b".") == len(lax) - 2


@settings(deadline=None)
@given(BROUGHT, OFFERS, st.sampled_from([89, 1000, 1 << 20]))
def test_every_octet_that_was_accepted_arrives(
    body: bytes, offers: tuple[str, ...], pace: int
) -> None:
    raw = b"From: a@me.test\r\n\r\n" + body
    if b"\0" in raw:
        with pytest.raises(SubmissionRefused):
            _repaired(raw)
        return
    content = _repaired(raw)
    # What comes this far: CRLF alone ends a line, and none is longer than a server must take.
    assert content.count(b"\r\n") == content.count(b"\r") == content.count(b"\n")
    assert max(map(len, content.split(b"\r\n"))) <= 998
    chain = [Plan(250, (250,), 354, 250, content)] * 2
    server = ModelServer(chain, offers)
    wire = Wire(server, lambda size: min(size, pace))
    wire.settle()
    wire.send(transactions_of(chain))
    assert server.wrong == []
    assert [octets for _, _, octets in server.taken] == [content, content]


def _repaired(raw: bytes) -> bytes:
    return repair(raw, message_id=UUID(int=1), date=datetime(2026, 1, 1, tzinfo=UTC)).content
