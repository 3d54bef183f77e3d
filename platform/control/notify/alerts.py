"""Look at everything that is watched; raise, remind, clear, and owe the mail that tells it.

Gives    look(): one turn of the worker
Takes    the alert rules; readings.PROBES
Raises   nothing of a probe's own: what cannot be known is noted at its rule, and open alerts stay
Follows  style.md rule 7: alert and owed mail are written in one transaction; the mail's key is made
         from the alert, so that a repeated look tells nothing twice
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from control.access import Actor
from control.notify import services
from control.notify.choices import WATCHED, AlertKind, AlertState, NoticeKind
from control.notify.decide import Limits, Reading, Stand, Step, next_step
from control.notify.models import Alert, AlertRule, Notice, SystemMail
from control.notify.readings import PROBES, Probe, subjects_of
from mailcore.ports import StoreUnavailable

# Two processes that look at the same time would both raise.
LOOK_LOCK = 7_305_194_482
KEPT = timedelta(days=180)
ACTOR = Actor.system("alerts")
_SWITCHES: Mapping[AlertKind, str] = {
    AlertKind.HARD_BOUNCES: "alerts_hard_bounces",
    AlertKind.SOFT_BOUNCES: "alerts_soft_bounces",
    AlertKind.COMPLAINTS: "alerts_complaints",
}
_TOLD: Mapping[Step, NoticeKind] = {
    Step.RAISE: NoticeKind.RAISED,
    Step.REMIND: NoticeKind.REMINDER,
}
# In the keys of mail that is owed.
_PHASES: Mapping[NoticeKind, str] = {
    NoticeKind.RAISED: "raised",
    NoticeKind.REMINDER: "again-{reminders}",
    NoticeKind.CLEARED: "over",
}

log = logging.getLogger(__name__)


def look(*, now: datetime | None = None, probes: Mapping[AlertKind, Probe] = PROBES) -> None:
    """Look at everything once."""
    services.create_rows(actor=ACTOR)
    moment = now or timezone.now()
    row = SystemMail.objects.first()
    remind_after = timedelta(seconds=row.remind_after_s if row is not None else 0)
    for rule in AlertRule.objects.order_by("pk"):
        probe = probes.get(AlertKind(rule.kind))
        if probe is not None:
            _look_at(rule, probe, remind_after, moment)
    Alert.objects.filter(cleared_at__lt=moment - KEPT).delete()
    Notice.objects.filter(created_at__lt=moment - KEPT).delete()


def _look_at(rule: AlertRule, probe: Probe, remind_after: timedelta, now: datetime) -> None:
    """Apply one rule. A rule that is switched off ends its alerts."""
    noted = AlertRule.objects.filter(pk=rule.pk)
    try:
        readings = subjects_of(probe(rule, now) if rule.is_active else ())
    except (StoreUnavailable, DatabaseError) as exc:
        noted.update(problem=str(exc), checked_at=now)
        log.warning("alerts not known", extra={"kind": rule.kind, "reason": str(exc)})
        return
    watched = WATCHED[AlertKind(rule.kind)]
    limits = Limits(
        rule.threshold,
        rule.clear_percent / 100,
        remind_after if watched.says_end else timedelta(),
        watched.is_floor,
    )
    with transaction.atomic():
        if _is_ours():
            _apply(rule, limits, readings, now)
            noted.update(problem="", checked_at=now)


def _is_ours() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", (LOOK_LOCK,))
        return bool(cursor.fetchone()[0])


def _apply(rule: AlertRule, limits: Limits, readings: Mapping[str, Reading], now: datetime) -> None:
    standing = Alert.objects.filter(kind=rule.kind, cleared_at=None).select_related("account")
    known = {alert.subject: alert for alert in standing}
    news: list[tuple[Alert, NoticeKind]] = []
    for subject in dict.fromkeys((*readings, *known)):
        reading, alert = readings.get(subject), known.get(subject)
        stand = None
        if alert is not None:
            stand = Stand(alert.state, alert.since, alert.reminded_at or alert.raised_at)
        step = next_step(limits, reading, stand, now=now)
        if step is Step.FORGET and alert is not None:
            alert.delete()
        elif step is Step.CLEAR and alert is not None:
            _clear(alert, reading, now)
            news.append((alert, NoticeKind.CLEARED))
        elif reading is not None and step is not Step.NOTHING:
            alert = alert or _begin(rule, reading, now)
            _note(alert, reading, rule, step, now)
            if step in _TOLD:
                news.append((alert, _TOLD[step]))
    if WATCHED[AlertKind(rule.kind)].is_mailed:
        _tell(news)


def _begin(rule: AlertRule, reading: Reading, now: datetime) -> Alert:
    since = now
    if reading.value is not None and WATCHED[AlertKind(rule.kind)].is_age:
        since = now - timedelta(seconds=reading.value)
    return Alert(
        kind=rule.kind,
        subject=reading.subject,
        account_id=reading.account_id,
        state=AlertState.PENDING,
        since=since,
    )


def _note(alert: Alert, reading: Reading, rule: AlertRule, step: Step, now: datetime) -> None:
    """Store how it stands, and tell what is new."""
    alert.about, alert.detail = reading.about[:200], reading.detail[:4000]
    alert.value = reading.value
    if reading.value is None:
        alert.value = (now - alert.since).total_seconds()
    alert.threshold, alert.seen_at = rule.threshold, now
    if step is Step.RAISE:
        alert.state, alert.raised_at = AlertState.RAISED, now
    elif step is Step.REMIND:
        alert.reminded_at, alert.reminders = now, alert.reminders + 1
    alert.save()


def _clear(alert: Alert, reading: Reading | None, now: datetime) -> None:
    alert.state, alert.cleared_at = AlertState.CLEARED, now
    if reading is not None:
        alert.value, alert.seen_at = reading.value, now
    alert.save()


def _tell(news: Sequence[tuple[Alert, NoticeKind]]) -> None:
    """Owe the mail. What a look finds for the operators is one mail of each sort, which names the
    others: of a thousand ISPs nobody wants a thousand."""
    told: set[NoticeKind] = set()
    for alert, kind in news:
        if kind is NoticeKind.CLEARED and not WATCHED[AlertKind(alert.kind)].says_end:
            continue
        if alert.account_id is None:
            if kind in told:
                continue
            told.add(kind)
        phase = _PHASES[kind].format(reminders=alert.reminders)
        for number, recipient in enumerate(_recipients(alert)):
            services.owe(kind, recipient, key=f"alert:{alert.pk}:{phase}:{number}", alert=alert)


def _recipients(alert: Alert) -> list[str]:
    """An account's alert goes to the account, if it wants it; any other to the operators."""
    account = alert.account
    if account is None:
        return services.operators()
    wants = getattr(account, _SWITCHES[AlertKind(alert.kind)])
    return [account.alert_email] if wants and account.alert_email else []
