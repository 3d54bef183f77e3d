"""`manage.py policy show|publish|activate N|unpin`."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from control.access import Actor
from control.needs import stores
from control.policy.models import PolicyRevision
from control.policy.publisher import activate, publish, unpin
from control.policy.selectors import fleet_state
from mailcore.errors import PolicyRefused

SHOWN = 10


class Command(BaseCommand):
    """The policy at the command line."""

    help = "Show, publish, activate or unpin policy revisions."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        verbs.add_parser("show", help="revisions and which nodes run the active one")
        verbs.add_parser("publish", help="compile the rows; store a revision if anything changed")
        verbs.add_parser("activate", help="go to a stored revision").add_argument(
            "revision", type=int
        )
        verbs.add_parser("unpin", help="follow the rows again")

    def handle(self, *args: Any, verb: str, **options: Any) -> None:
        stores()
        actor = Actor.system("manage.py policy")
        try:
            if verb == "publish":
                with transaction.atomic():
                    number = publish(author=actor.label)
                self.stdout.write("nothing has changed" if number is None else f"stored: {number}")
            elif verb == "activate":
                row = activate(options["revision"], actor=actor)
                pinned = ", pinned: changes wait for `unpin`" if row.is_pinned else ""
                self.stdout.write(f"active: {row.revision}{pinned}")
            elif verb == "unpin":
                row_or_none = unpin(actor=actor)
                said = "nothing is pinned"
                self.stdout.write(f"active: {row_or_none}" if row_or_none is not None else said)
        except PolicyRefused as exc:
            raise CommandError(f"refused: {exc}") from exc
        except LookupError as exc:
            raise CommandError(str(exc)) from exc
        if verb == "show":
            self._show()

    def _show(self) -> None:
        for row in PolicyRevision.objects.defer("body").order_by("-revision")[:SHOWN]:
            marks = " active" * row.is_active + " pinned" * row.is_pinned
            when = row.created_at.isoformat(timespec="seconds")
            self.stdout.write(f"{row.revision} {row.digest[:12]} {when} by {row.author}{marks}")
        for node in fleet_state().nodes:
            word = "synced" if node.is_synced else "not synced"
            self.stdout.write(f"node {node.name}: {word}, {node.process_count} processes")
