"""No server, however it answers or babbles, makes the dialogue mistake a reply or content."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.transaction import (
    SendContent,
    Step,
    dot_stuffed,
)
from tests.support.dialogue import ONE_BY_ONE, PIPELINED, message, opened, text

# ── any server ────────────────────────────────────────────────────────────────────────────────

MAILS = st.sampled_from([250, 250, 250, 451, 550])
RCPTS = st.lists(st.sampled_from([250, 250, 450, 550, 552]), min_size=1, max_size=4)
DATAS = st.sampled_from([354, 354, 354, 451, 554])
DOTS = st.sampled_from([250, 451, 554])


def expected(mail: int, rcpts: list[int], data: int, dot: int) -> list[int]:
    """Return the code each recipient must get, by RFC 5321 alone."""
    if mail != 250:
        return [mail] * len(rcpts)
    decided = dot if data == 354 else data
    return [decided if code == 250 else 452 if code == 552 else code for code in rcpts]


@given(st.lists(st.tuples(MAILS, RCPTS, DATAS, DOTS), min_size=1, max_size=6), st.data())
def test_a_chain_never_confuses_whose_reply_is_whose(
    plan: list[tuple[int, list[int], int, int]], data: st.DataObject
) -> None:
    dialogue = opened()
    owed = ""
    transactions = []
    for mail, rcpts, at_data, dot in plan:
        transaction = message(*(f"r{n}" for n in range(len(rcpts))))
        transactions.append(transaction)
        group = text(dialogue.begin(transaction))
        if group.startswith("RSET"):
            owed += "250 reset\r\n"
        # A server that refused the MAIL, takes a recipient and says 354 is another test's.
        at_data = at_data if mail == 250 or 250 not in rcpts else 503
        owed += f"{mail} m\r\n" + "".join(f"{code} r\r\n" for code in rcpts) + f"{at_data} d\r\n"
        steps: list[Step] = []
        while owed:
            cut = data.draw(st.integers(1, len(owed)))
            steps += dialogue.receive(owed[:cut].encode())
            owed = owed[cut:]
            if not owed and text(steps).endswith("RSET\r\n"):
                # Somebody was refused for good: our place in the dialogue is asked for.
                owed = "250 reset\r\n"
                steps = []
        if SendContent(transaction) in steps:
            dialogue.dot_sent(transaction)
            owed = f"{dot} dot\r\n"
        elif text(steps).endswith(".\r\n"):
            owed = "250 for nobody\r\n"
    dialogue.receive(owed.encode())
    assert not dialogue.is_over
    assert dialogue.awaits is None
    for transaction, (mail, rcpts, at_data, dot) in zip(transactions, plan, strict=True):
        codes = [known.reply.code for known in transaction.verdicts if known is not None]
        assert codes == expected(mail, rcpts, at_data, dot)


@given(st.binary(max_size=400), st.booleans())
def test_no_server_can_make_the_dialogue_fail_or_deliver_by_noise(
    noise: bytes, is_pipelined: bool
) -> None:
    dialogue = opened(PIPELINED if is_pipelined else ONE_BY_ONE)
    transaction = message("a", "b")
    dialogue.begin(transaction)
    dialogue.receive(noise + b"\r\n")
    assert all(known is None or known.reply.code >= 400 for known in transaction.verdicts)


# ── dots ──────────────────────────────────────────────────────────────────────────────────────


def unstuffed(wire: bytes) -> bytes:
    """Read content off the wire as RFC 5321 §4.5.2 tells a receiver to."""
    lines = wire.split(b"\r\n")
    end = lines.index(b".")
    assert lines[end + 1 :] == [b""], "content went on behind its dot"
    return b"".join((line[1:] if line.startswith(b".") else line) + b"\r\n" for line in lines[:end])


# A line of content that was repaired has any octet but those of its end.
LINE = st.one_of(
    st.text(st.sampled_from(".ab \t"), max_size=5).map(str.encode),
    st.binary(max_size=20).map(lambda octets: octets.replace(b"\r", b".").replace(b"\n", b".")),
)


@given(st.lists(LINE, max_size=30))
def test_content_reads_the_same_behind_its_stuffed_dots(lines: list[bytes]) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    assert unstuffed(dot_stuffed(content) + b".\r\n") == content


@pytest.mark.parametrize(
    ("content", "wire"),
    [
        (b"", b""),
        (b"a\r\n", b"a\r\n"),
        (b".", b"..\r\n"),
        (b".\r\n.\r\n", b"..\r\n..\r\n"),
        (b"no line end", b"no line end\r\n"),
        # Bare line feeds end a line for some receivers: nothing behind one may look like the end.
        (b"x\n.\nMAIL", b"x\n..\nMAIL\r\n"),
        (b"x\n.\r\nMAIL\r\n", b"x\n..\r\nMAIL\r\n"),
    ],
)
def test_dots_at_the_edge(content: bytes, wire: bytes) -> None:
    assert dot_stuffed(content) == wire
