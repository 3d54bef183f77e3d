"""What every page of the panel says about alerts.

Gives    open_alerts() in one query
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import Count, Window

from control.notify.choices import AlertState
from control.notify.models import Alert

MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class OpenAlerts:
    """How many alerts are open, and the newest of them in words."""

    count: int
    newest: tuple[str, ...]

    @property
    def others(self) -> int:
        """How many are not named."""
        return self.count - len(self.newest)


def open_alerts() -> OpenAlerts:
    """Return the open alerts. Every page asks: a thousand of them must not all be read."""
    raised = Alert.objects.filter(state=AlertState.RAISED).order_by("-raised_at", "-id")
    named = raised.annotate(count=Window(Count("id"))).only("kind", "about")[:MOST_NAMED]
    newest = list(named)
    return OpenAlerts(newest[0].count if newest else 0, tuple(str(alert) for alert in newest))
