"""Tell senders by mail what became of a message that came by SMTP.

Gives    Reporter.tell
Takes    outbox bodies, the policy in force, a ReportDoor
Raises   SchemaError for a body that cannot be read; StoreUnavailable: the events wait
Follows  RFC 3461 §6, RFC 3464; style.md rule 7: a report has a key, so a repeat sends nothing

What is wrong with one event or one message is that report's end and nobody else's: it is logged
and left out, for a report can be lost and the event is told elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from mailcore.errors import SchemaError
from mailcore.events import decode_lines, raw_lines
from mailcore.policy.model import PolicySnapshot
from mailcore.ports import Clock, KeyedMail, PolicySource, ReportDoor, StoreUnavailable
from mailcore.report import (
    Report,
    ReportKind,
    Way,
    build_report,
    may_lead_to_reports,
    report_of,
    submission_of,
    way_of,
)

# Reports of one commit; each may carry a returned message.
CHUNK = 50

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Due:
    """A report, and through what it goes."""

    report: Report
    way: Way


class Reporter:
    """Makes reports of events. `host` is who we are in them."""

    def __init__(
        self, *, policy: PolicySource, door: ReportDoor, clock: Clock, host: str, chunk: int = CHUNK
    ) -> None:
        self._policy = policy
        self._door = door
        self._clock = clock
        self._host = host
        self._chunk = chunk

    def tell(self, bodies: Sequence[bytes]) -> int:
        """Queue the reports that these events lead to; return how many were due."""
        policy = self._policy.current()
        due: dict[str, Due] = {}
        for body in bodies:
            if may_lead_to_reports(raw_lines(body)):
                for one in self._due(body, policy):
                    due.setdefault(one.report.key, one)
        fresh = [one for one in due.values() if not self._is_repeat(one.report)]
        for at in range(0, len(fresh), self._chunk):
            self._send(fresh[at : at + self._chunk])
        return len(fresh)

    def _is_repeat(self, report: Report) -> bool:
        """A late message is deferred again and again; all else is seldom seen twice, and then its
        key tells."""
        return report.kind is ReportKind.DELAYED and self._door.is_known(report.key)

    def _due(self, body: bytes, policy: PolicySnapshot) -> list[Due]:
        try:
            events = decode_lines(body)
        except SchemaError:
            raise
        except (ValueError, TypeError, AttributeError) as exc:
            raise SchemaError(f"an event is damaged: {exc}") from exc
        found: list[Due] = []
        for event in events:
            try:
                report = report_of(event)
                way = way_of(report, policy, host=self._host) if report is not None else None
            except Exception:
                # Whatever is wrong with this one, the others are owed their reports.
                log.exception("no report of an event", extra={"event": event.event_id})
                continue
            if report is not None and way is not None:
                found.append(Due(report, way))
        return found

    def _send(self, due: Sequence[Due]) -> None:
        self._submit([mail for one in due if (mail := self._mail(one)) is not None])

    def _mail(self, due: Due) -> KeyedMail | None:
        report, way = due.report, due.way
        # One after the other: a message may be large, and little of it is returned.
        content = self._door.content(report.facts.content)
        now = self._clock.now()
        try:
            built = build_report(report, way, content=content, host=self._host, now=now)
            submission = submission_of(report, way, message_id=self._door.new_id(), content=built)
        except Exception:
            log.exception("no report of an event", extra={"event": report.event.event_id})
            return None
        return KeyedMail(report.key, submission, way.lifetime_s, way.revision)

    def _submit(self, mails: Sequence[KeyedMail]) -> None:
        if not mails:
            return
        try:
            self._door.submit(mails)
        except StoreUnavailable:
            raise
        except Exception:
            # Nothing of it was committed. Alone, only what cannot be stored is left out.
            if len(mails) == 1:
                log.exception("a report cannot be queued", extra={"report": mails[0].key})
                return
            for mail in mails:
                self._submit([mail])
