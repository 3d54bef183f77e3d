"""Every fault at every step of the dialogue: nothing hangs, bounces or is delivered by mistake.

The cells are the product of two lists and of what the server offers. Each is one session with a
chain of two messages, one to two recipients and one to a third; all run at once. A cell that
cannot be has its reason in `why_not`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from dataclasses import dataclass, replace
from itertools import product

import pytest

from mailcore.policy.words import TlsMode
from mailcore.ports import TransportError, WireTransaction
from mailcore.transaction import Credentials
from mailio.smtp import SmtpConnector, Timeouts
from tests.support.smtp_faults import REFUSALS, Fault, Faulty, Manner, Step
from tests.support.smtp_peer import serving
from tests.support.smtp_session import endpoint, message, yes
from tests.support.smtp_tls import server_context

OPENING = (
    Step.BANNER,
    Step.EHLO,
    Step.HELO,
    Step.STARTTLS,
    Step.HANDSHAKE,
    Step.EHLO_TLS,
    Step.AUTH,
)
MIXED = (Step.MIXED_MAIL, Step.MIXED_RCPT, Step.REFUSED_RCPT)
SMALL = (b"n: 1\r\n\r\n.one\r\n", b"n: 2\r\n\r\ntwo\r\n")
LARGE = (b"x" * 998 + b"\r\n") * 12_000
# What a stalled step may take; every other step has the time that RFC 5321 gives it.
HASTE_S = 0.5
# Nothing may come near this: it is the suite's own, so that a hang is a failure and no silence.
HANGS_S = 25
Cell = tuple[Step, Fault, Manner]


@dataclass(frozen=True)
class Seen:
    """What the client said of the session, or of each message; and what the server knows."""

    told: tuple[str, ...]
    codes: tuple[tuple[int, ...], ...]
    server: Faulty


def why_not(step: Step, fault: Fault, manner: Manner) -> str:
    """Return why there is no such case; "" if there is."""
    if step in OPENING and manner is not Manner.PIPELINED:
        return "nothing of the opening depends on what is offered for transactions"
    if step in MIXED and fault not in (Fault.LOST, Fault.TWICE):
        return "it counts who was refused only where one reply is taken for another"
    if step is Step.DATA and manner is Manner.CHUNKED:
        return "DATA is not said"
    if fault is Fault.TLS_FAILURE and step is not Step.HANDSHAKE:
        return "only a handshake can fail for TLS's own reasons"
    if fault is Fault.CHANGED and step is not Step.EHLO_TLS:
        return "extensions are offered anew only here"
    if step is Step.HANDSHAKE and fault not in (
        Fault.TLS_FAILURE, Fault.STALL, Fault.CLOSE, Fault.RESET, Fault.CLOSING
    ):  # fmt: skip
        return "a handshake has no replies, and every octet that is no TLS is the same fault"
    if step is Step.CONTENT and fault in (Fault.LOST, Fault.ODD_FORM):
        return "no reply is due while content travels"
    if step is Step.IDLE and fault in (Fault.LOST, Fault.STALL, Fault.HALF_STALL):
        return "no reply is due between transactions"
    if step is Step.IDLE and fault is Fault.ODD_FORM:
        return "a reply nobody asked for is wrong in any form"
    return ""


CELLS = [cell for cell in product(Step, Fault, Manner) if not why_not(*cell)]

# ── what must come of it ──────────────────────────────────────────────────────────────────────

FINE = "250 dot message"
BROKEN = "Disconnected {} session"
# A line that breaks, in whatever words.
BREAKS = {
    Fault.CLOSE, Fault.RESET, Fault.GARBAGE, Fault.OVERSIZE, Fault.MANY_LINES, Fault.HALF_LINE,
    Fault.TWO_CODES, Fault.FOREIGN,
}  # fmt: skip
# After these a refusal that came before stands.
SOUND = {
    Fault.CLOSING, Fault.CLOSE, Fault.RESET, Fault.HALF_LINE, Fault.TWICE, Fault.ODD_FORM,
}  # fmt: skip
STALLS = {Fault.STALL, Fault.HALF_STALL}
HASTY = {
    Step.BANNER: "greeting", Step.EHLO: "greeting", Step.HELO: "greeting",
    Step.STARTTLS: "greeting", Step.EHLO_TLS: "greeting", Step.AUTH: "greeting",
    Step.HANDSHAKE: "tls", Step.MAIL: "mail", Step.RCPT: "rcpt", Step.DATA: "data",
    Step.CONTENT: "block", Step.DOT: "dot", Step.RSET: "mail", Step.MIXED_MAIL: "mail",
    Step.MIXED_RCPT: "rcpt", Step.REFUSED_RCPT: "rcpt", Step.PROOF: "mail",
}  # fmt: skip
TOLD = {
    Step.HELO: "ehlo", Step.HANDSHAKE: "starttls", Step.EHLO_TLS: "ehlo",
    Step.MIXED_MAIL: "mail", Step.MIXED_RCPT: "rcpt", Step.REFUSED_RCPT: "rcpt",
    Step.PROOF: "rcpt",
}  # fmt: skip


def expected(step: Step, fault: Fault, manner: Manner) -> set[tuple[str, ...]]:
    """Return what the client may tell: of the session, or of both messages."""
    if step in OPENING:
        return {_of_opening(step, fault)}
    if fault is Fault.ODD_FORM:
        return {(_fine_first(step), FINE)}
    if step is Step.RSET:
        return {(_fine_first(step), each) for each in _of_rset(fault, manner)}
    if step is Step.PROOF:
        return {_of_proof(fault)}
    if step is Step.IDLE:
        return {(FINE, "Disconnected mail session")}
    return _of_transaction(step, fault, manner)


def _fine_first(step: Step) -> str:
    first = {Step.RSET: "450 rcpt recipient", Step.PROOF: "550 rcpt recipient"}
    return first.get(step, FINE)


def _of_opening(step: Step, fault: Fault) -> tuple[str, ...]:
    told = TOLD.get(step, step.value)
    in_clear = step is Step.STARTTLS and fault in (Fault.REFUSE_4, Fault.REFUSE_5)
    with_helo = step is Step.EHLO and fault is Fault.REFUSE_5
    if in_clear or with_helo or fault in (Fault.CHANGED, Fault.ODD_FORM):
        return FINE, FINE
    if step is Step.HANDSHAKE:
        return ("TlsFailed starttls host",)
    is_busy = step is Step.EHLO_TLS and fault in (Fault.REFUSE_4, Fault.CLOSING)
    if step in (Step.STARTTLS, Step.EHLO_TLS) and fault is not Fault.TWICE and not is_busy:
        # In clear it may work, so it is told as a fault of TLS.
        return (f"TlsFailed {told} host",)
    if fault in STALLS or fault is Fault.LOST:
        return (f"TimedOut {told} host",)
    if fault is Fault.TWICE and step is Step.STARTTLS:
        # What came in clear behind the 220 is forgotten.
        return FINE, FINE
    if fault is Fault.TWICE and step is not Step.BANNER:
        # The session is ready with the first; nobody asked for the second.
        return "Disconnected mail session", "Disconnected mail session"
    if fault in REFUSALS:
        return (f"ConnectFailed {told} host",)
    # A second greeting is taken for the answer to EHLO, and is none.
    return (f"Disconnected {'ehlo' if fault is Fault.TWICE else told} host",)


def _of_rset(fault: Fault, manner: Manner) -> set[str]:
    if fault in (Fault.REFUSE_4, Fault.REFUSE_5, Fault.TWO_CODES, Fault.FOREIGN):
        # Nobody's verdict; but a reply that cannot be read ends the session.
        return {BROKEN.format("mail")} if fault is Fault.TWO_CODES else {FINE}
    if fault is Fault.LOST and manner is Manner.PIPELINED:
        return {BROKEN.format("rcpt")}
    if fault is Fault.LOST and manner is Manner.CHUNKED:
        return {"TimedOut rcpt host"}
    if fault in STALLS or fault is Fault.LOST:
        return {"TimedOut mail host"}
    if fault is Fault.TWICE:
        early = {BROKEN.format("mail")} if manner is Manner.ONE_BY_ONE else set()
        return {BROKEN.format("data"), BROKEN.format("dot") + " unknown"} | early
    return {BROKEN.format("mail")}


def _of_proof(fault: Fault) -> tuple[str, str]:
    """Nobody bounces before the RSET is answered as it should be, or the server ends it all."""
    lost = BROKEN.format("mail")
    if fault in (Fault.CLOSING, Fault.TWICE):
        return "550 rcpt recipient", lost
    if fault in STALLS or fault is Fault.LOST:
        return "TimedOut rcpt host", lost
    return BROKEN.format("rcpt"), lost


def _of_transaction(step: Step, fault: Fault, manner: Manner) -> set[tuple[str, ...]]:
    told = "data" if step is Step.CONTENT else TOLD.get(step, step.value)
    unknown = " unknown" if step is Step.DOT else ""
    lost = BROKEN.format("mail")
    if fault is Fault.CLOSING:
        return {(f"421 {told} session", lost)}
    if fault in (Fault.REFUSE_4, Fault.REFUSE_5):
        return {_refused(step, fault, told)}
    if step is Step.CONTENT and fault is Fault.HALF_STALL:
        fault = Fault.STALL
    if fault in STALLS:
        return {(f"TimedOut {told} host{unknown}", lost)}
    if fault is Fault.TWICE:
        return _twice(step, manner)
    if fault is Fault.LOST:
        return _lost(step, manner)
    return {(BROKEN.format(told) + unknown, lost)}


def _refused(step: Step, fault: Fault, told: str) -> tuple[str, str]:
    code = int(REFUSALS[fault][:3])
    if step is Step.CONTENT:
        # It speaks before it should, so the session ends; without its end nobody has the message.
        return f"{code} data message", BROKEN.format("mail")
    if step is Step.RCPT:
        return f"{code} rcpt recipient | {FINE}", FINE
    scope = "host" if step is Step.MAIL and code >= 500 else "message"
    return f"{code} {told} {scope}", FINE


def _twice(step: Step, manner: Manner) -> set[tuple[str, ...]]:
    """A reply too many: what follows is out of step, and is found out."""
    lost = BROKEN.format("mail")
    if step is Step.CONTENT or step is Step.DATA:
        return {(BROKEN.format("data"), lost)}
    if step is Step.DOT:
        # It may come before the next MAIL has left, or take the place of its answer.
        astray = {BROKEN.format("data"), BROKEN.format("dot") + " unknown"}
        return {(FINE, each) for each in (lost, *astray)}
    if step is Step.REFUSED_RCPT and manner is not Manner.PIPELINED:
        return {(BROKEN.format("rcpt"), lost)}
    if manner is Manner.CHUNKED:
        return {(BROKEN.format("data"), lost), (BROKEN.format("dot") + " unknown", lost)}
    if manner is Manner.ONE_BY_ONE:
        # It may come before the command that it would answer.
        return {(BROKEN.format(told), lost) for told in ("rcpt", "data")}
    return {(BROKEN.format("data"), lost)}


def _lost(step: Step, manner: Manner) -> set[tuple[str, ...]]:
    """A reply too few: the next one takes its place, or none comes."""
    lost = BROKEN.format("mail")
    if step is Step.DATA:
        return {("TimedOut data host", lost)}
    if step is Step.DOT and manner is Manner.PIPELINED:
        # The answer to the next MAIL says yes, which is true.
        return {(FINE, BROKEN.format("rcpt"))}
    if step is Step.DOT and manner is Manner.CHUNKED:
        return {(BROKEN.format("dot") + " unknown", lost)}
    if step is Step.DOT:
        return {("TimedOut dot host unknown", lost)}
    if manner is Manner.PIPELINED:
        return {(BROKEN.format("rcpt"), lost)}
    told = TOLD.get(step, step.value) if manner is Manner.ONE_BY_ONE else "rcpt"
    return {(f"TimedOut {told} host", lost)}


# ── playing ───────────────────────────────────────────────────────────────────────────────────


def _timeouts(cell: Cell) -> Timeouts:
    """Hurry only where the client must run out of patience."""
    text = " ".join(word for told in expected(*cell) for word in told)
    hasty = {step for step in HASTY if f"TimedOut {TOLD.get(step, step.value)} " in text}
    hasty |= {cell[0]} & set(HASTY) if cell[1] is Fault.LOST and "TlsFailed" in text else set()
    if cell[0] is Step.CONTENT or cell[1] in STALLS:
        hasty = {cell[0]} & set(HASTY) if "TimedOut" in text or "TlsFailed" in text else set()
    return replace(Timeouts(quit_s=0.2), **{f"{HASTY[step]}_s": HASTE_S for step in hasty})


async def _told(transaction: WireTransaction) -> tuple[str, tuple[int, ...]]:
    try:
        replies = await transaction.replies
    except TransportError as error:
        unknown = " unknown" if error.after_dot else ""
        words = f"{type(error).__name__} {error.stage} {error.scope.value}{unknown}"
        codes = [known.reply.code for known in error.decided if known is not None]
        return words, (error.reply.code, *codes)
    words = " | ".join(dict.fromkeys(f"{r.reply.code} {r.stage} {r.scope.value}" for r in replies))
    return words, tuple(r.reply.code for r in replies)


async def _play(cell: Cell, tls: ssl.SSLContext) -> Seen:
    server = Faulty(*cell, tls)
    known = Credentials("me", "secret", allows_clear=True) if cell[0] is Step.AUTH else None
    contents = (LARGE, SMALL[1]) if cell[0] is Step.CONTENT else SMALL
    async with asyncio.timeout(HANGS_S), serving(server.script) as heard:
        connector = SmtpConnector(_timeouts(cell), confine_to_loopback=True)
        where = endpoint(heard, TlsMode.OPPORTUNISTIC, credentials=known)
        try:
            connection = await connector.connect(where)
        except TransportError as error:
            words = f"{type(error).__name__} {error.stage} {error.scope.value}"
            return Seen((words,), ((error.reply.code,),), server)
        first = connection.begin(
            message("a@peer.test", "b@peer.test", content=contents[0]), before_dot=yes
        )
        await first.content_sent
        if cell[0] is Step.IDLE:
            await _told(first)
            await server.speak_up()
            while connection.is_usable:
                await asyncio.sleep(0.005)
        second = connection.begin(message("c@peer.test", content=contents[1]), before_dot=yes)
        told = [await _told(first), await _told(second)]
        await connection.close()
    return Seen(tuple(words for words, _ in told), tuple(codes for _, codes in told), server)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[Cell, Seen | BaseException]:
    """Play all cells, many at a time on one loop."""
    tls = server_context(tmp_path_factory.mktemp("tls"))

    async def play_all() -> list[Seen | BaseException]:
        room = asyncio.Semaphore(40)

        async def play(cell: Cell) -> Seen:
            async with room:
                return await _play(cell, tls)

        return await asyncio.gather(*map(play, CELLS), return_exceptions=True)

    return dict(zip(CELLS, asyncio.run(play_all()), strict=True))


def _name(cell: Cell) -> str:
    return "-".join(each.name.lower() for each in cell)


@pytest.mark.parametrize("cell", CELLS, ids=_name)
def test_a_fault_ends_as_it_must_and_costs_nobody_a_message(
    cell: Cell, played: dict[Cell, Seen | BaseException]
) -> None:
    seen = played[cell]
    if isinstance(seen, BaseException):
        raise seen
    assert seen.told in expected(*cell)
    assert seen.server.wrong == []
    _assert_nobody_bounces_by_mistake(cell, seen)
    _assert_the_client_tells_the_truth(seen)


def _assert_nobody_bounces_by_mistake(cell: Cell, seen: Seen) -> None:
    said = {550} if cell[0] is Step.PROOF and cell[1] in SOUND else set()
    if cell[1] is Fault.REFUSE_5:
        said.add(554)
    assert {code for codes in seen.codes for code in codes if code >= 500} <= said


def _assert_the_client_tells_the_truth(seen: Seen) -> None:
    """Delivered means taken, once; taken means delivered or unknown."""
    counts = Counter(path for paths, _ in seen.server.taken for path in paths)
    assert set(counts.values()) <= {1}
    if len(seen.codes) < 2:
        assert not counts
        return
    for names, words, codes in zip(["ab", "c"], seen.told, seen.codes, strict=True):
        is_unknown = words.endswith("unknown")
        if not words[0].isdigit():
            assert is_unknown or not any(counts[f"{name}@peer.test"] for name in names)
            continue
        for name, code in zip(names, codes, strict=True):
            assert counts[f"{name}@peer.test"] == (code == 250)


def test_every_cell_is_played_or_has_its_reason() -> None:
    whole = len(Step) * len(Fault) * len(Manner)
    reasons = Counter(why_not(*cell) for cell in product(Step, Fault, Manner))
    assert sum(reasons.values()) == whole
    assert reasons.pop("") == len(CELLS) > 250
    assert all(len(reason) > 10 for reason in reasons)
