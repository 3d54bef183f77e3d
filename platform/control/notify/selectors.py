"""What every page of the panel says about alerts.

Gives    open_alerts() in one query
"""

from __future__ import annotations

from dataclasses import dataclass

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
    """Return the open alerts."""
    raised = list(Alert.objects.filter(state=AlertState.RAISED).order_by("-raised_at", "-id"))
    return OpenAlerts(len(raised), tuple(str(alert) for alert in raised[:MOST_NAMED]))
