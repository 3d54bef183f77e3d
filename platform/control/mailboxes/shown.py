"""What was read of a mailbox, as its page shows it: words for kinds and fates, and bars.

Gives    shown_reading -> the context of the template; KINDS, FATES
Takes    the last reading and the tally
Raises   nothing; a word of a newer version is shown as it is
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.utils.translation import gettext_lazy as _

from control.mailboxes.selectors import LastReading, Tally
from control.reports import charts, scales
from mailcore.classify.inbound import InboundKind
from mailcore.inbound import Fate

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

KINDS: Mapping[str, StrOrPromise] = {
    InboundKind.BOUNCE.value: _("bounces"),
    InboundKind.DELAY.value: _("warnings of delay"),
    InboundKind.RECEIPT.value: _("receipts of delivery"),
    InboundKind.COMPLAINT.value: _("complaints"),
    InboundKind.FEEDBACK.value: _("other feedback"),
    InboundKind.AUTO_REPLY.value: _("automatic answers"),
    InboundKind.CHALLENGE.value: _("challenges"),
    InboundKind.REPLY.value: _("answers of people"),
    InboundKind.OTHER.value: _("other mail"),
}
FATES: Mapping[str, StrOrPromise] = {
    Fate.TOLD.value: _("told as events of their messages"),
    Fate.NOTED.value: _("counted here only: there is nothing to tell"),
    Fate.UNCORRELATED.value: _("not believed: no token of a message in it"),
    Fate.FORGED.value: _("not believed: no token in it verifies"),
    Fate.FOREIGN.value: _("not told: about mail of another account"),
    Fate.UNTRACED.value: _("not told: nothing is known of the message any more"),
}
# A colour belongs to one kind of outcome on every page.
_COLOURS: Mapping[str, str] = {
    InboundKind.BOUNCE.value: "late_bounced",
    InboundKind.DELAY.value: "deferred",
    InboundKind.RECEIPT.value: "delivered",
    InboundKind.COMPLAINT.value: "complained",
    InboundKind.FEEDBACK.value: "unsubscribed",
    InboundKind.REPLY.value: "replied",
}


def shown_reading(last: LastReading | None, tally: Sequence[Tally]) -> dict[str, Any]:
    """Return what the template shows."""
    most = max((row.ever for row in tally), default=0)
    return {"last": last, "rows": [_row(row, most) for row in tally]}


def _row(row: Tally, most: int) -> dict[str, object]:
    kind = str(KINDS.get(row.kind, row.kind))
    fate = str(FATES.get(row.fate, row.fate))
    segment = charts.Segment(_COLOURS.get(row.kind, "volume"), fate, row.ever)
    return {
        "kind": kind,
        "fate": fate,
        "today": scales.grouped(row.today),
        "week": scales.grouped(row.week),
        "ever": scales.grouped(row.ever),
        "bar": charts.bar(f"{kind}, {fate}", [segment], most, height=8),
    }
