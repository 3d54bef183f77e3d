"""The corpus of what comes back, and its results in the form of the files beside the samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mailcore.classify.inbound import Inbound, read_inbound
from mailcore.policy.words import MailboxPurpose

CORPUS = Path(__file__).parent.parent / "corpus"
RING = {1: bytes(range(32)), 2: bytes(range(32, 64))}
HEADER = "X-Postfleet-Token"


def samples(folder: str) -> list[Path]:
    """Return the messages of one folder; there must be some."""
    found = sorted((CORPUS / folder).glob("*.eml"))
    assert found
    return found


def read(octets: bytes, *, purpose: MailboxPurpose = MailboxPurpose.ALL) -> Inbound:
    """Read a message as a node with the standard header does."""
    return read_inbound(octets, ring=RING, headers=[HEADER], purpose=purpose)


def expected(path: Path) -> dict[str, Any]:
    """Return what the file beside a sample says."""
    told: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return told


def shown(inbound: Inbound) -> dict[str, Any]:
    """Return a result in the form of those files."""
    told: dict[str, Any] = {
        "kind": inbound.kind.value,
        "correlation": inbound.correlation.value,
    }
    if inbound.token is not None:
        told["recipient_no"] = inbound.token.recipient_no
    if inbound.dsn is not None:
        told["is_standard"] = inbound.dsn.is_standard
        told["recipients"] = [
            {
                "action": one.action.value,
                "final": one.final,
                "original": one.original,
                "reply": str(one.reply()),
            }
            for one in inbound.dsn.recipients
        ]
    if inbound.feedback is not None:
        told["feedback"] = {
            "kind": inbound.feedback.kind.value,
            "user_agent": inbound.feedback.user_agent,
            "original_rcpt_to": list(inbound.feedback.original_rcpt_to),
        }
    return told
