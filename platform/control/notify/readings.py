"""What is watched, as it stands now.

Gives    PROBES: for each kind of alert a function from its rule and the time to Readings
Raises   StoreUnavailable when what it asks is away: then nothing is known, which is no end of an
         alert

The queue is read by lane counts and the claim's index, so a long queue costs what a short one does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.utils.translation import gettext as _

from control.accounts.models import Account
from control.jobs.choices import JobState
from control.jobs.models import Job
from control.mailboxes.models import Mailbox
from control.mailboxes.models import Reading as MailboxReading
from control.mta.models import Isp
from control.notify.choices import AlertKind, AlertState, NoticeKind, NoticeState
from control.notify.decide import Reading
from control.notify.models import Alert, AlertRule, Notice
from control.policy.selectors import fleet_state
from control.reports.check import CheckRow, FindingRow, checks, standing
from control.reports.selectors import reports
from mailcore.events import EventKind
from mailcore.outcome import BounceType
from mailio.broker import CONSUMERS

Probe = Callable[[AlertRule, datetime], Sequence[Reading]]
JOBS_LOOKED_BACK = timedelta(days=1)
MAIL_LOOKED_BACK = timedelta(days=1)
TRIES_UNTIL_STUCK = 3

# Since its last word, or since it was entered if it never said one.
_SILENT = """
SELECT n.name, extract(epoch FROM statement_timestamp() - greatest(max(a.at), n.created_at))::float8
  FROM nodes_node n LEFT JOIN policy_ack a ON a.node = n.name
 WHERE EXISTS (SELECT FROM nodes_source s WHERE s.node_id = n.id AND s.is_active)
 GROUP BY n.id, n.name, n.created_at ORDER BY n.name
"""

# The first row by due time of each lane that no hold covers. Rows of held domains are not due.
_STUCK = """
SELECT l.isp_id, extract(epoch FROM statement_timestamp() - min(f.due_at))::float8, sum(l.waiting)
  FROM ledger_lane l
 CROSS JOIN LATERAL (SELECT r.due_at FROM ledger_row r
                      WHERE r.lane_id = l.id AND r.state = 0
                      ORDER BY r.due_at, r.id LIMIT 1) AS f
 WHERE l.waiting > 0 AND f.due_at <= statement_timestamp()
   AND NOT EXISTS (
       SELECT FROM queue_hold h
        WHERE h.released_at IS NULL AND (h.ends_at IS NULL OR h.ends_at > statement_timestamp())
          AND (h.scope = 'everything'
               OR (h.scope = 'sender' AND h.target_id = l.sender_id)
               OR (h.scope = 'account' AND h.target_id = l.account_id)
               OR (h.scope = 'campaign' AND h.target_id = l.campaign_id)
               OR (h.scope = 'isp' AND h.target_id = l.isp_id)
               OR (h.scope = 'pool' AND h.target_id =
                   (SELECT s.pool_id FROM senders_sender s WHERE s.id = l.sender_id))))
 GROUP BY l.isp_id ORDER BY l.isp_id
"""

_LAG = """
SELECT c.name, COALESCE(extract(epoch FROM statement_timestamp() - min(o.created_at)), 0)::float8,
       COALESCE(sum(o.event_count), 0)
  FROM unnest(%s::text[]) AS c(name)
  LEFT JOIN ledger_cursor k ON k.consumer = c.name
  LEFT JOIN ledger_outbox o
    ON (o.xid, o.id) > (COALESCE(k.xid, '0'::xid8), COALESCE(k.row_id, 0))
 GROUP BY c.name ORDER BY c.name
"""

_REFUSED = """
SELECT consumer, count(*), max(reason) FROM ledger_outbox_refused GROUP BY consumer ORDER BY 1
"""

_HOLDS = """
SELECT id, scope, target_id, target, reason, author,
       extract(epoch FROM statement_timestamp() - placed_at)::float8
  FROM queue_hold
 WHERE released_at IS NULL AND (ends_at IS NULL OR ends_at > statement_timestamp()) ORDER BY id
"""

_DISKS = """
SELECT node, CASE WHEN free_bytes < warn_bytes THEN 0 ELSE hours_left * 3600 END,
       pg_size_pretty(free_bytes)
  FROM spool_node
 WHERE (hours_left IS NOT NULL OR free_bytes < warn_bytes)
   AND measured_at > statement_timestamp() - interval '10 minutes'
 ORDER BY node
"""


def _rows(sql: str, params: Sequence[list[str]] = ()) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return list(cursor.fetchall())


def _silent(_rule: AlertRule, _now: datetime) -> Sequence[Reading]:
    return [Reading(f"node:{name}", name, float(value)) for name, value in _rows(_SILENT)]


def _not_synced(_rule: AlertRule, _now: datetime) -> Sequence[Reading]:
    return [
        Reading(f"node:{node.name}", node.name, None)
        for node in fleet_state().nodes
        if node.process_count and not node.is_synced
    ]


def _stuck(_rule: AlertRule, _now: datetime) -> Sequence[Reading]:
    names = dict(Isp.objects.values_list("pk", "name"))
    return [
        Reading(
            f"isp:{isp_id}",
            names.get(isp_id, str(_("domains not yet routed"))),
            float(age),
            str(_("%d recipients wait in these lanes")) % waiting,
        )
        for isp_id, age, waiting in _rows(_STUCK)
    ]


def _lag(_rule: AlertRule, _now: datetime) -> Sequence[Reading]:
    return [
        Reading(f"consumer:{name}", name, float(age), str(_("%d events")) % events)
        for name, age, events in _rows(_LAG, (list(CONSUMERS),))
    ]


def _refused(_rule: AlertRule, _now: datetime) -> Sequence[Reading]:
    return [
        Reading(f"consumer:{name}", name, float(count), reason)
        for name, count, reason in _rows(_REFUSED)
    ]


def _mailboxes(_rule: AlertRule, _now: datetime) -> Sequence[Reading]:
    names = dict(Mailbox.objects.filter(is_active=True).values_list("pk", "name"))
    failed = MailboxReading.objects.filter(pk__in=names).exclude(error="")
    return [
        Reading(f"mailbox:{number}", names[number], None, error)
        for number, error in failed.order_by("pk").values_list("pk", "error")
    ]


def _holds(_rule: AlertRule, _now: datetime) -> Sequence[Reading]:
    return [
        Reading(
            f"hold:{number}",
            f"{scope} {target or target_id or ''}".strip(),
            float(age),
            f"{reason} ({author})",
        )
        for number, scope, target_id, target, reason, author, age in _rows(_HOLDS)
    ]


def _jobs(_rule: AlertRule, now: datetime) -> Sequence[Reading]:
    failed = Job.objects.filter(state=JobState.FAILED, finished_at__gt=now - JOBS_LOOKED_BACK)
    return [
        Reading(f"job:{job.pk}", job.title, 1.0, job.error) for job in failed.order_by("pk")[:100]
    ]


def _disks(_rule: AlertRule, _now: datetime) -> Sequence[Reading]:
    return [
        Reading(f"node:{node}", node, float(left), str(_("%s free")) % free)
        for node, left, free in _rows(_DISKS)
    ]


def _queue(_rule: AlertRule, _now: datetime) -> Sequence[Reading]:
    """Return what the checker found and could not mend, and where it does not look any more."""
    found = [_of_finding(one) for one in standing()]
    return found + [_of_silence(one) for one in checks() if one.is_silent]


def _of_finding(row: FindingRow) -> Reading:
    about = _(row.rule.words) if row.rule is not None else row.name
    examples = ", ".join(map(str, row.examples))
    detail = f"{row.name}: {examples} {row.note}".strip()
    place = f"{about} ({row.node})" if row.node else about
    return Reading(f"finding:{row.name}:{row.node}", place, float(row.count), detail)


def _of_silence(row: CheckRow) -> Reading:
    about = str(_("it is not looked at any more"))
    place = f"{about} ({row.node})" if row.node else about
    return Reading(f"check:{row.part}:{row.node}", place, 1.0, row.part)


def _system_mail(_rule: AlertRule, now: datetime) -> Sequence[Reading]:
    recent = Notice.objects.filter(created_at__gt=now - MAIL_LOOKED_BACK)
    recent = recent.exclude(kind=NoticeKind.TEST)  # whoever sent it has been told
    bad = recent.filter(state=NoticeState.FAILED) | recent.filter(
        state=NoticeState.WAITING, tries__gte=TRIES_UNTIL_STUCK
    )
    newest = bad.order_by("-id").first()
    if newest is None:
        return []
    return [Reading("mail", str(newest), float(bad.count()), newest.error)]


# --- what became of an account's mail -------------------------------------------------------------


@dataclass(slots=True)
class _Counts:
    """Events of one account in a time."""

    delivered: int = 0
    bounced: int = 0
    deferred: int = 0
    hard: int = 0
    soft: int = 0
    complained: int = 0

    def add(self, kind: str, bounce_type: str, events: int) -> None:
        """Count events of a kind."""
        ends = (EventKind.BOUNCED.value, EventKind.LATE_BOUNCED.value)
        if kind == EventKind.DELIVERED.value:
            self.delivered += events
        elif kind == EventKind.DEFERRED.value:
            self.deferred += events
        elif kind == EventKind.COMPLAINED.value:
            self.complained += events
        elif kind == EventKind.BOUNCED.value:
            self.bounced += events
        if kind in ends and bounce_type == BounceType.HARD.value:
            self.hard += events
        if kind in (*ends, EventKind.DEFERRED.value) and bounce_type == BounceType.SOFT.value:
            self.soft += events


def _counts(rule: AlertRule, now: datetime) -> Mapping[int, _Counts]:
    found: dict[int, _Counts] = {}
    since = now - timedelta(seconds=rule.window_s)
    for row in reports().outcomes(since=since, until=now, by=("account_id", "kind", "bounce_type")):
        account_id, kind, bounce_type = row.by
        counts = found.setdefault(int(str(account_id)), _Counts())
        counts.add(str(kind), str(bounce_type), row.events)
    return found


def _rates(
    rule: AlertRule, now: datetime, part: Callable[[_Counts], tuple[int, int]]
) -> Sequence[Reading]:
    """Return for each account that sent enough how many percent of the whole a part is."""
    titles = dict(Account.objects.values_list("pk", "title"))
    raised = Alert.objects.filter(kind=rule.kind, state=AlertState.RAISED)
    # An open alert must get well away, as for its figure: else it rings with each swing.
    least = dict.fromkeys(
        raised.values_list("account_id", flat=True), rule.least_volume * rule.clear_percent / 100
    )
    return [
        Reading(
            f"account:{account_id}",
            titles[account_id],
            100.0 * some / whole,
            str(_("%(some)d of %(whole)d")) % {"some": some, "whole": whole},
            account_id,
        )
        for account_id, counts in sorted(_counts(rule, now).items())
        for some, whole in (part(counts),)
        if account_id in titles and whole >= least.get(account_id, rule.least_volume)
    ]


def _hard(rule: AlertRule, now: datetime) -> Sequence[Reading]:
    return _rates(rule, now, lambda c: (c.hard, c.delivered + c.bounced))


def _soft(rule: AlertRule, now: datetime) -> Sequence[Reading]:
    return _rates(rule, now, lambda c: (c.soft, c.delivered + c.bounced + c.deferred))


def _complaints(rule: AlertRule, now: datetime) -> Sequence[Reading]:
    return _rates(rule, now, lambda c: (c.complained, c.delivered))


PROBES: Mapping[AlertKind, Probe] = {
    AlertKind.NODE_SILENT: _silent,
    AlertKind.NOT_SYNCED: _not_synced,
    AlertKind.MAIL_STUCK: _stuck,
    AlertKind.HARD_BOUNCES: _hard,
    AlertKind.SOFT_BOUNCES: _soft,
    AlertKind.COMPLAINTS: _complaints,
    AlertKind.OUTBOX_LAG: _lag,
    AlertKind.EVENTS_REFUSED: _refused,
    AlertKind.MAILBOX: _mailboxes,
    AlertKind.HOLD_FORGOTTEN: _holds,
    AlertKind.JOB_FAILED: _jobs,
    AlertKind.DISK: _disks,
    AlertKind.QUEUE_FINDINGS: _queue,
    AlertKind.SYSTEM_MAIL: _system_mail,
}


def subjects_of(readings: Iterable[Reading]) -> Mapping[str, Reading]:
    """Return readings by what they are about."""
    return {reading.subject: reading for reading in readings}
