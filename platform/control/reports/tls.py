"""How mail was encrypted: figures of the page, and a report in the form of RFC 8460.

Gives    tls_figures -> TlsFigures; report_of_domain (JSON of one domain and day)
Takes    a Question that a form has checked; a domain and a day
Raises   StoreUnavailable
Follows  RFC 8460 §4.3 (result types), §4.4 (the report). We count attempts to deliver, not
         sessions: a session that carries ten messages counts ten times
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

from django.db import connection

from control.reports.forms import Question
from control.reports.scales import DAY
from control.reports.selectors import reports
from mailcore.outcome import TlsPolicy
from mailio.stats.reports import TlsCount

MOST_ROWS = 200


@dataclass(frozen=True, slots=True)
class TlsFigures:
    """Attempts by columns of time, and what failed. What went without TLS because nobody asked for
    any is in none of them."""

    well: Sequence[int]
    failed_in_clear: Sequence[int]
    failed_encrypted: Sequence[int]
    failures: Sequence[TlsCount]


def tls_figures(question: Question) -> TlsFigures:
    """Return what happened in a period."""
    source = reports()
    since, until, step = question.since, question.until, question.step
    length = -(-(until - since) // step)
    well, in_clear, encrypted = [0] * length, [0] * length, [0] * length
    for row in source.tls(
        since=since, until=until, step=step, by_host=False, where=question.filters
    ):
        if row.start is None:
            continue
        place = (row.start - since) // step
        if not row.result:
            well[place] += row.encrypted
        else:
            encrypted[place] += row.encrypted
            in_clear[place] += row.attempts - row.encrypted
    failures = source.tls(
        since=since, until=until, only_failed=True, where=question.filters, limit=MOST_ROWS
    )
    return TlsFigures(well, in_clear, encrypted, failures)


def report_of_domain(domain: str, day: date, *, us: str, now: datetime) -> dict[str, Any]:
    """Return what RFC 8460 would report to a domain of a day (UTC). What went through a relay of
    ours did not meet the domain's servers."""
    since = datetime.combine(day, time(), now.tzinfo)
    rows = reports().tls(since=since, until=since + DAY, to_domain=domain)
    by_policy: dict[str, list[TlsCount]] = defaultdict(list)
    for row in rows:
        # An operator's own word is none of the domain's.
        kind = TlsPolicy.NOT_FOUND.value if row.policy == TlsPolicy.OPERATOR.value else row.policy
        by_policy[kind].append(row)
    end = since + DAY - timedelta(seconds=1)
    return {
        "organization-name": us,
        "date-range": {"start-datetime": _text(since), "end-datetime": _text(end)},
        "contact-info": f"postmaster@{us}",
        "report-id": f"{day:%Y%m%d}-{domain}@{us}",
        "policies": [_of_policy(domain, *each) for each in sorted(by_policy.items())],
    }


def _of_policy(domain: str, kind: str, rows: Sequence[TlsCount]) -> dict[str, Any]:
    failed = [row for row in rows if row.result]
    lines = _sts_lines(domain) if kind == TlsPolicy.STS.value else []
    policy: dict[str, Any] = {"policy-type": kind, "policy-domain": domain}
    if lines:
        # The policy as it is now: an older one of that day is not kept.
        hosts = [line.partition(":")[2].strip() for line in lines if line.startswith("mx:")]
        policy |= {"policy-string": lines, "mx-host": hosts}
    return {
        "policy": policy,
        "summary": {
            "total-successful-session-count": sum(row.encrypted for row in rows if not row.result),
            "total-failure-session-count": sum(row.attempts for row in failed),
        },
        "failure-details": [_of_failure(row) for row in failed],
    }


def _of_failure(row: TlsCount) -> dict[str, Any]:
    told = {
        "result-type": row.result,
        "sending-mta-ip": row.source_ip,
        "receiving-mx-hostname": row.mx_host,
        "receiving-ip": row.mx_address,
    }
    known: dict[str, Any] = {name: value for name, value in told.items() if value}
    return known | {"failed-session-count": row.attempts}


def _sts_lines(domain: str) -> list[str]:
    """Return the lines of a domain's MTA-STS policy as the fleet knows it; none if it does not."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT body FROM sts_policy WHERE domain = %s", [domain])
        found = cursor.fetchone()
    return [line for each in found[0].splitlines() if (line := each.strip())] if found else []


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
