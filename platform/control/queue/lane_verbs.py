"""What can be done with a lane from its page: words, what starts it, and the filter that means it.

Gives    VERBS, LaneVerb, filter_of_lane
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_lazy as _

from control.jobs.models import Job
from control.queue import jobs
from control.queue.models import Lane
from mailcore.outcome import MailClass
from mailcore.rowfilter import RowFilter


@dataclass(frozen=True, slots=True)
class LaneVerb:
    """What can be done with lanes: its words, and what starts it."""

    start: Callable[..., Job]
    title: Any
    about: Any
    button: Any
    needs_reason: bool = True


VERBS = {
    "purge": LaneVerb(
        jobs.start_purge,
        _("Purge lanes"),
        _("All that waits there is removed, and told as purged. It can be undone for a day."),
        _("Yes, remove it"),
    ),
    "expire": LaneVerb(
        jobs.start_expire,
        _("Expire lanes"),
        _("All that waits there is given up for good, and told as expired."),
        _("Yes, give it up"),
    ),
    "retry": LaneVerb(
        jobs.start_retry,
        _("Retry lanes now"),
        _(
            "What is due later is due now. What is scheduled is left alone, "
            "what is held stays held."
        ),
        _("Yes, try now"),
        needs_reason=False,
    ),
}


def filter_of_lane(lane: Lane) -> RowFilter:
    """Return the filter that means a lane."""
    return RowFilter(
        senders=(lane.sender_id,),
        accounts=(lane.account_id,),
        campaigns=(lane.campaign_id,),
        classes=(MailClass(lane.mail_class),),
        sites=(lane.site,),
    )
