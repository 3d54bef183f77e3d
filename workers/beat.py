"""The scheduler of beat: of all that run, one rings for each queue.

Gives    LeadingScheduler, which `workers.app` names as Celery's scheduler
Takes    PostgreSQL, whose lock the ringing beat holds for as long as its connection lives
Raises   nothing: without PostgreSQL it does not ring, for no chore could be done

Chores of a node are rung on a queue of that node, by a beat of that node; the others by whichever
beat came first. The rest stand by and take over at their next turn when its connection ends. A
bell too many would do no harm, every chore takes its rows or a lock of its own; it would be work.
"""

from __future__ import annotations

import logging
from typing import Any

from celery.beat import PersistentScheduler, ScheduleEntry

from mailcore.ports import StoreUnavailable
from mailio import settings as process_settings
from mailio.ledger.leader import Leadership
from mailio.ledger.pool import Session

log = logging.getLogger(__name__)


class LeadingScheduler(PersistentScheduler):
    """Celery's own, which rings only where it leads."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._session: Session | None = None
        self._leadership: Leadership | None = None
        # What was last found of each queue: True leads, False stands by, None cannot tell.
        self._found: dict[str, bool | None] = {}
        super().__init__(*args, **kwargs)

    def apply_entry(self, entry: ScheduleEntry, producer: Any = None) -> None:
        """Ring for an entry that is due, if this beat leads its queue."""
        if self.leads(str((entry.options or {})["queue"])):
            super().apply_entry(entry, producer)

    def leads(self, queue: str) -> bool:
        """Take the lead of a queue, or see that it is still ours."""
        found: bool | None = None
        try:
            found = self._leaders().take(f"beat {queue}")
        except StoreUnavailable as exc:
            if self._found.get(queue, True) is not None:
                log.warning("beat does not ring", extra={"queue": queue, "reason": exc.reason})
        else:
            if self._found.get(queue) is not found:
                log.info("beat rings" if found else "beat stands by", extra={"queue": queue})
        self._found[queue] = found
        return bool(found)

    def close(self) -> None:
        """Let another beat lead."""
        super().close()
        if self._session is not None:
            self._session.close()

    def _leaders(self) -> Leadership:
        if self._leadership is None:
            self._session = Session(process_settings.load().database_url, role="beat")
            self._leadership = Leadership(self._session)
        return self._leadership
