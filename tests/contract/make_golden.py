"""Make the golden files: stored bytes of every form that outlives the program that wrote it.

Gives    bell_samples, event_samples, journal_entries, token_samples (the values the
         files hold); files() (name -> bytes as this program writes them); a command:
         `PYTHONPATH=.:platform python -m tests.contract.make_golden [--again]`
Raises   nothing

Without --again only missing files are written: the file of a form that was released must stay as
it is, for rows, journals and mail of that form are out there. A new version of a form gets a file
of its own and the old file stays until the form is no longer read. --again is for a form that no
release has written yet.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

from mailcore import bells, dsn, events, outcome, tokens
from mailcore.bells import ApplyBell, DrainBell, RouteBell, UpkeepBell
from mailcore.classify.inbound import InboundKind
from mailcore.events import Event, EventKind, encode_lines, event_id, recipient_hash
from mailcore.inbound import Fate
from mailcore.outcome import (
    MailClass,
    Outcome,
    Scope,
    SessionInfo,
    Verdict,
)
from mailcore.policy import codec, words
from mailcore.reply import EnhancedStatus, SmtpReply
from mailcore.report import ReportKind
from mailio.journal import FileJournal
from tests.contract.golden_policy import policy_sample

GOLDEN = Path(__file__).parent / "golden"
MESSAGE_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
RING = {1: bytes(range(32)), 2: bytes(range(32, 64))}

Bell = DrainBell | RouteBell | ApplyBell | UpkeepBell
Claim = tuple[int, int]

# Every closed vocabulary whose values are stored or sent.
VOCABULARIES: tuple[type[Enum], ...] = (
    dsn.DsnReturn,
    dsn.Notify,
    ReportKind,
    outcome.Verdict,
    outcome.Scope,
    outcome.BounceType,
    outcome.BounceClass,
    outcome.MailClass,
    outcome.TlsNeed,
    outcome.TlsPolicy,
    outcome.TlsResult,
    outcome.RowState,
    outcome.WaitReason,
    EventKind,
    words.RetryMode,
    words.RetryType,
    words.HeloMode,
    words.DomainType,
    words.ReturnPathMode,
    words.RelayTls,
    words.RelayAuth,
    words.TlsMode,
    words.DomainTlsLevel,
    words.Encoding,
    words.RuleAction,
    words.UnknownAction,
    words.MailboxProtocol,
    words.MailboxTls,
    words.MailboxPurpose,
    InboundKind,
    Fate,
)


# --- bells ----------------------------------------------------------------------------------------


def bell_samples() -> Sequence[Bell]:
    """One bell of each kind, and of each form a drain bell takes."""
    paths = (bells.Path(1, "provider.test"), bells.Path(2, "mx.example.com+2"))
    return [
        DrainBell("node1", MailClass.PRIORITY, paths[:1]),
        DrainBell("node1", MailClass.MAIN, paths),
        DrainBell("node1", MailClass.MAIN, paths[1:], is_retry=True),
        RouteBell(),
        ApplyBell("statistics"),
        UpkeepBell("node1"),
        UpkeepBell(),
    ]


# --- outbox ---------------------------------------------------------------------------------------


def event_samples() -> Sequence[Event]:
    """An event with every field set, one with as few as there can be, one of each kind."""
    return [_full_event(), *(_short_event(number, kind) for number, kind in enumerate(EventKind))]


def _full_event() -> Event:
    text = {
        name: f"{name} ü {number}"
        for number, name in enumerate(events.FIELDS)
        if Event.__dataclass_fields__[name].type == "str"
    }
    counted = {
        name: 1_700_000_000_000 + number
        for number, name in enumerate(events.FIELDS)
        if Event.__dataclass_fields__[name].type == "int"
    }
    fields: dict[str, Any] = {**text, **counted}
    known = _event_id(0, EventKind.BOUNCED)
    fields |= {"event_id": known, "kind": "bounced", "message_id": str(MESSAGE_ID)}
    fields |= {"recipient_hash": recipient_hash("someone@example.com"), "recipient_no": 0}
    return Event(**{**fields, "recipient_no": 65_535})


def _short_event(number: int, kind: EventKind) -> Event:
    return Event(
        event_id=_event_id(number, kind),
        kind=kind.value,
        occurred_ms=1_700_000_000_000,
        message_id=str(MESSAGE_ID),
        recipient_no=number,
        claim_no=1,
        account_id=1,
    )


def _event_id(recipient_no: int, kind: EventKind) -> str:
    return event_id(message_id=MESSAGE_ID, recipient_no=recipient_no, claim_no=1, kind=kind)


# --- journal --------------------------------------------------------------------------------------


def journal_entries() -> tuple[Sequence[Outcome], Sequence[Claim], Sequence[Claim]]:
    """What a dead process left: outcomes to settle, dots nobody answered, claims it had settled."""
    session = SessionInfo(
        *("mx1.provider.test", "192.0.2.25", "192.0.2.10", "out1.example.com", "TLSv1.3", "AES"),
        *("sts", "certificate-expired"),
    )
    verdicts = list(Verdict)
    outcomes = [
        Outcome(
            row_id=100 + number,
            claim_no=number + 1,
            verdict=verdicts[number % len(verdicts)],
            scope=scope,
            reply=SmtpReply(250 + 60 * number, ("first ü", "second"), EnhancedStatus(4, 7, number)),
            stage="dot",
            session=session,
            dialogue_ms=40 + number,
            after_dot=number == 3,
            source_id=10 + number,
            occurred_ms=1_800_000_000_000 + number,
        )
        for number, scope in enumerate(Scope)
    ]
    outcomes.append(
        Outcome(200, 1, Verdict.DEFERRED, Scope.SITE, SmtpReply(451, ("no MX",), None, True), "dns")
    )
    return outcomes, [(300, 1), (2**40, 2**31 - 1)], [(400, 1), (401, 3)]


def _journal() -> bytes:
    outcomes, open_dots, settled = journal_entries()
    with tempfile.TemporaryDirectory() as folder:
        journal = FileJournal(Path(folder), "sample")
        for one in outcomes:
            if one.stage == "dot":
                journal.dot(one.row_id, one.claim_no)
            journal.outcome(one)
        for claim in (*open_dots, *settled):
            journal.dot(*claim)
        journal.forget(settled)
        journal.stop()
        return (Path(folder) / "sample.journal.000001").read_bytes()


# --- tokens and words -----------------------------------------------------------------------------


def token_samples() -> Sequence[tuple[int, int, str]]:
    """(key number, recipient number, token): both keys of the ring, both ends of the count."""
    return [(key_id, number, _sign(key_id, number)) for key_id in RING for number in (0, 1, 65_535)]


def _sign(key_id: int, recipient_no: int) -> str:
    token = tokens.MessageToken(MESSAGE_ID, recipient_no)
    return tokens.sign(token, ring={key_id: RING[key_id]})


def vocabularies() -> dict[str, dict[str, Any]]:
    """Every closed vocabulary: name of each word -> its stored value."""
    return {kind.__name__: {one.name: one.value for one in kind} for kind in VOCABULARIES}


# --- files ----------------------------------------------------------------------------------------


def files() -> dict[str, bytes]:
    """Return each golden file as this program writes it."""
    encoded = codec.encode(policy_sample())
    tokens_shown = {
        "ring": {number: key.hex() for number, key in RING.items()},
        "message_id": str(MESSAGE_ID),
        "tokens": token_samples(),
    }
    return {
        f"policy_v{encoded.schema_version}.bin": encoded.body,
        f"policy_v{encoded.schema_version}.digest": f"{encoded.digest}\n".encode(),
        f"bells_v{bells.SCHEMA}.txt": "".join(f"{b.to_json()}\n" for b in bell_samples()).encode(),
        "outbox_e1.bin": encode_lines(event_samples()),
        "journal_v1.bin": _journal(),
        "tokens_v1.json": _shown(tokens_shown),
        "vocabularies.json": _shown(vocabularies()),
    }


def _shown(value: object) -> bytes:
    return f"{json.dumps(value, indent=1)}\n".encode()


def main() -> None:
    """Write what is missing; with --again all."""
    parser = argparse.ArgumentParser(description="Make the golden files.")
    parser.add_argument("--again", action="store_true", help="also those that are there")
    again = parser.parse_args().again
    GOLDEN.mkdir(exist_ok=True)
    for name, content in files().items():
        path = GOLDEN / name
        if again or not path.exists():
            path.write_bytes(content)
            print(f"written: {path.name}, {len(content)} octets")


if __name__ == "__main__":
    main()
