"""Which kinds of jobs can be undone, and by whom: each kind's own app says so.

Gives    Undo, register_undo, undo_of
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from control.access import Actor
from control.jobs.models import Job


class Start(Protocol):
    """Starts the job that undoes another; raises PostfleetError with the reason if it cannot."""

    def __call__(self, actor: Actor, job_id: int, /) -> Job: ...


class WhyNot(Protocol):
    """Says why a job cannot be undone now, "" if it can."""

    def __call__(self, job: Job, /) -> str: ...


@dataclass(frozen=True, slots=True)
class Undo:
    """How jobs of a kind are undone."""

    start: Start
    why_not: WhyNot


_UNDO: dict[str, Undo] = {}


def register_undo(kind: str, undo: Undo) -> None:
    """Say how jobs of a kind are undone; called when the app of the kind is ready."""
    _UNDO[kind] = undo


def undo_of(kind: str) -> Undo | None:
    """Return how jobs of a kind are undone, None if they are for good."""
    return _UNDO.get(kind)
