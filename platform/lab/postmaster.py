"""What comes back: reports on mail that was accepted, put into our mailboxes some time later.

Gives    Postmaster: consider(), report(), reports(), counts(), start(), stop(), reset()
Takes    a world (shares and styles per provider), the mailboxes for bounces and complaints
Raises   ValueError from report() when there is nobody to report to
Follows  RFC 5321 §4.5.5 (no report to the null reverse-path), RFC 3461 §4.1 (NOTIFY=NEVER)

One draw per (id, recipient), from the seed: the first copy is judged, its duplicates never. A
report counts in the moment it lies in a mailbox. Those still to come when the lab is stopped are
delivered then; a lab that is killed never counted them.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import Iterable

from lab.complaint import compose_complaint
from lab.dsn import REASONS, Correspondence, Reason, compose_dsn
from lab.maildrop import Maildrop, Report, ReportKind
from lab.manner import Feedback, draw
from lab.tally import StoredMessage
from lab.world import World

INTERVAL_S = 0.1
MAX_PER_TURN = 200  # reports written before the receivers may go on

_Due = tuple[float, int, StoredMessage, str, ReportKind]


class Postmaster:
    """The postmasters of all providers."""

    def __init__(self, world: World, *, bounces: Maildrop, complaints: Maildrop) -> None:
        self._world = world
        self._drops = {ReportKind.LATE_BOUNCED: bounces, ReportKind.COMPLAINED: complaints}
        self._feedback = {p.key: p.feedback for p in world.providers if p.feedback is not None}
        self._hosts = {p.key: p.mx_hosts[0].name for p in world.providers}
        self._due: list[_Due] = []
        self._numbers = itertools.count()
        self._planned: set[tuple[str, str]] = set()
        self._reported: set[tuple[ReportKind, str, str]] = set()
        self._counts: dict[tuple[str, ReportKind], int] = {}
        self._task: asyncio.Task[None] | None = None
        for one in (*bounces.reports, *complaints.reports):
            self._remember(one)

    # -- what happens ----------------------------------------------------------------------------

    def consider(self, message: StoredMessage) -> None:
        """Look at a message that was just accepted; most will be heard of no more."""
        feedback = self._feedback.get(message.provider)
        if feedback is None:
            return
        for recipient in message.recipients:
            name = f"{message.lab_id} {recipient}"
            luck = draw(self._world.seed, "feedback", name)
            kind = self._kind_of(feedback, luck, message, recipient)
            if kind is None or (message.lab_id, recipient) in self._planned:
                continue
            self._planned.add((message.lab_id, recipient))
            delay_s = feedback.after_s * (1 + draw(self._world.seed, "feedback delay", name))
            due_at = time.monotonic() + delay_s
            heapq.heappush(self._due, (due_at, next(self._numbers), message, recipient, kind))

    def report(self, message: StoredMessage, recipient: str, kind: ReportKind) -> Report:
        """Put a report into the mailbox now. It counts, though no draw asked for it; a second one
        of its kind for the same recipient lies in the mailbox too, and counts no more.
        """
        if recipient not in message.recipients:
            raise ValueError(f"{recipient}: not a recipient of {message.lab_id}")
        if kind is ReportKind.LATE_BOUNCED and not message.reverse_path:
            raise ValueError(f"{message.lab_id}: came from the null reverse-path")
        feedback = self._feedback.get(message.provider, Feedback())
        about = Correspondence(message, recipient, self._hosts[message.provider], time.time())
        status = None
        if kind is ReportKind.LATE_BOUNCED:
            reason = self._reason(message, recipient)
            status = reason.status
            content = compose_dsn(about, reason, feedback.style)
        else:
            to = self._world.complaints.address
            content = compose_complaint(about, to=to, redacts=feedback.redacts)
        report = Report(
            kind=kind,
            provider=message.provider,
            lab_id=message.lab_id,
            recipient=recipient,
            reverse_path=message.reverse_path,
            status=status,
            at=about.at,
        )
        self._drops[kind].append(content, report)
        self._remember(report)
        return report

    @staticmethod
    def _kind_of(
        feedback: Feedback, luck: float, message: StoredMessage, recipient: str
    ) -> ReportKind | None:
        if luck < feedback.late_bounce_share:
            may = message.reverse_path and recipient not in message.unnotified
            return ReportKind.LATE_BOUNCED if may else None
        if luck < feedback.late_bounce_share + feedback.complaint_share:
            return ReportKind.COMPLAINED
        return None

    def _reason(self, message: StoredMessage, recipient: str) -> Reason:
        luck = draw(self._world.seed, "reason", f"{message.lab_id} {recipient}")
        for reason in REASONS[:-1]:
            luck -= reason.weight
            if luck < 0:
                return reason
        return REASONS[-1]

    def _remember(self, report: Report) -> None:
        self._planned.add((report.lab_id, report.recipient))
        fact = (report.kind, report.lab_id, report.recipient)
        if fact not in self._reported:
            self._reported.add(fact)
            key = (report.provider, report.kind)
            self._counts[key] = self._counts.get(key, 0) + 1

    # -- what is asked ---------------------------------------------------------------------------

    def reports(self, kind: ReportKind) -> list[Report]:
        """Return every report of a kind, oldest first, those fetched and deleted too."""
        return list(self._drops[kind].reports)

    def counts(self, providers: Iterable[str]) -> dict[str, dict[str, int]]:
        """Return for how many (id, recipient) each kind of report came, per provider."""
        return {
            key: {kind.value: self._counts.get((key, kind), 0) for kind in ReportKind}
            for key in providers
        }

    @property
    def due_count(self) -> int:
        """How many reports are still to come."""
        return len(self._due)

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Deliver what is due from now on."""
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """Deliver what is still to come, and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        while self._due:
            self._deliver_next()

    def reset(self) -> None:
        """Forget reports, mails, and what was still to come."""
        self._due.clear()
        self._planned.clear()
        self._reported.clear()
        self._counts.clear()
        for drop in self._drops.values():
            drop.clear()

    async def _work(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            now = time.monotonic()
            for number in itertools.count(1):
                if not self._due or self._due[0][0] > now:
                    break
                self._deliver_next()
                if number % MAX_PER_TURN == 0:
                    await asyncio.sleep(0)

    def _deliver_next(self) -> None:
        _, _, message, recipient, kind = heapq.heappop(self._due)
        self.report(message, recipient, kind)
