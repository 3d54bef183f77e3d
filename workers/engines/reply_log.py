"""Write the answer that decided each recipient of an attempt to the log, where a node is set to.

Takes    outcomes as they come, the policy in force
Gives    log_reply
Raises   nothing
Follows  reference setting 20; style.md rule 9: constant text, keyed fields, addresses only at debug

The log is standard error, which whatever supervises the processes keeps (journald: syslog).
"""

from __future__ import annotations

import logging

from mailcore.envelope import QueuedRow
from mailcore.outcome import Outcome
from mailcore.policy.model import PolicySnapshot

log = logging.getLogger(__name__)


def log_reply(outcome: Outcome, row: QueuedRow, *, policy: PolicySnapshot, node: str) -> None:
    """Write one line for an outcome, whoever spoke: a server, or we in its place."""
    settings = policy.nodes.get(node)
    if settings is None or not settings.logs_replies:
        return
    reply, session = outcome.reply, outcome.session
    log.info(
        "smtp reply",
        extra={
            "message_id": str(row.message_id),
            "recipient_no": row.recipient_no,
            "domain": row.recipient.domain,
            "source": session.source_address,
            "host": session.mx_host,
            "address": session.mx_address,
            "stage": outcome.stage,
            "verdict": outcome.verdict.value,
            "local": reply.is_local,
            "reply": str(reply),
        },
    )
