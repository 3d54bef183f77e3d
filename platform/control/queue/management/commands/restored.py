"""`manage.py restored`: a backup of PostgreSQL was restored; what was set aside, what has ended.

Gives    show · begin · reconcile
Raises   CommandError, in one line that names the store

What is set aside is let go, expired or purged by `manage.py queue`, which knows it by the state
`unknown` and the reason `restored`.
"""

from __future__ import annotations

import getpass
from argparse import ArgumentParser
from collections import Counter
from contextlib import ExitStack, closing
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from control.needs import stores
from control.queue.console import Screen
from control.queue.reasons import ReasonRefused, read_reason
from mailcore.ports import StoreUnavailable
from mailio.ledger.restore import Restores
from mailio.reconcile import Reconciler
from mailio.settings import Settings
from mailio.stats.driver import faults
from mailio.stats.store import open_driver
from mailio.stats.traces import open_traces

CHOSEN = "--state unknown --waits-for restored"


class Command(BaseCommand):
    """Restored backups at the command line."""

    help = "After a backup of PostgreSQL was restored: look, set aside, end what has ended."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the verbs."""
        verbs = parser.add_subparsers(dest="verb", required=True)
        verbs.add_parser("show", help="what was noticed, and how much is set aside")
        begin = verbs.add_parser("begin", help="set everything aside that is queued now")
        begin.add_argument("--reason", required=True, help="for those who wonder later")
        reconcile = verbs.add_parser("reconcile", help="end what the statistics know to be over")
        reconcile.add_argument("--dry-run", action="store_true", help="only count")

    def handle(self, *args: Any, verb: str, **options: Any) -> None:
        """Run the verb."""
        settings = stores()
        try:
            with closing(Restores(settings.database_url)) as restores:
                if verb == "begin":
                    self._begin(restores, options["reason"])
                elif verb == "reconcile":
                    self._reconcile(settings, restores, is_dry=options["dry_run"])
                self._show(restores)
        except StoreUnavailable as exc:
            raise CommandError(f"{exc.store} is away: {exc.reason}") from exc
        except ReasonRefused as exc:
            raise CommandError(f"--reason {exc}") from exc

    def _begin(self, restores: Restores, reason: str) -> None:
        restores.begin(f"{getpass.getuser()} (command line)", read_reason(reason))
        restores.go_on()

    def _reconcile(self, settings: Settings, restores: Restores, *, is_dry: bool) -> None:
        with ExitStack() as stack:
            # Without the statistics nothing would be known, and look as if nothing had ended.
            driver = stack.enter_context(closing(open_driver(settings.clickhouse_url)))
            with faults():
                driver.query("SELECT 1")
            traces = open_traces(settings.clickhouse_url, settings.database_url)
            stack.callback(traces.close)
            reconciler = Reconciler(restores, traces)
            looked_at, ended, after = 0, Counter[str](), 0
            while True:
                step = reconciler.step(after, is_dry=is_dry)
                looked_at += step.looked_at
                ended.update(step.ended)
                if step.after is None:
                    break
                after = step.after
        what = ", ".join(f"{count:,} {kind}" for kind, count in sorted(ended.items())) or "none"
        verb = "had ended" if is_dry else "had ended, and are no longer queued"
        self.stdout.write(f"{looked_at:,} recipients looked at; {what} {verb}")

    def _show(self, restores: Restores) -> None:
        found = restores.found()
        if not found:
            self.stdout.write("no restored backup was noticed")
            return
        rows: list[list[object]] = [
            [
                one.number,
                f"{one.noticed_at:%Y-%m-%d %H:%M:%S}",
                one.noticed_by,
                one.note,
                one.rows,
                "yes" if one.ended_at is not None else "under way",
            ]
            for one in found
        ]
        Screen(self.stdout).table(["id", "noticed (UTC)", "by", "why", "rows", "all aside"], rows)
        count = restores.count_aside()
        self.stdout.write(f"quarantined: {count:,} recipients since a restored backup")
        if count:
            self.stdout.write("  those that have ended since:  manage.py restored reconcile")
            for verb in ("retry", "expire", "purge"):
                self.stdout.write(f"  {verb}:  manage.py queue {verb} {CHOSEN} --reason …")
            self.stdout.write("which of them when: docs/operate/restore.md")
