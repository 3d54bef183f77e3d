"""`manage.py check_queue`: look whether the queue is as it must be; mend what is safe.

Gives    exit code 0: nothing stands · 1: something does · 2: it could not be looked at
Raises   CommandError, in one line that names the store

What the check finds is noted for page, metrics and alerts, as upkeep's own checks are. Of a look
that is stopped half way nothing is noted. Content is read where this command runs: on each node
its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from argparse import ArgumentParser, BooleanOptionalAction
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from typing import Any

from celery import Celery
from django.core.management.base import BaseCommand, CommandError

from control.needs import stores
from control.queue.console import Screen
from control.reports.scales import duration
from control.reports.spool import spool_nodes
from mailcore.bells import UpkeepBell
from mailcore.invariants import (
    RULES,
    Finding,
    Mend,
    StateAge,
    Tally,
    mended_since,
    oldest_by_state,
    wanted_mends,
)
from mailcore.ports import CheckedContents, StoreUnavailable
from mailcore.spool import CONTENT_GRACE_S, SHARED_HOME, Doubt, doubt_of
from mailio.broker import CONSUMERS, CeleryBells, celery_config
from mailio.check import Checker
from mailio.ledger.check import CheckBook
from mailio.ledger.spool import SpoolBook
from mailio.ledger.upkeep import LedgerUpkeep
from mailio.settings import Settings
from mailio.spool.opening import open_shelf

COULD_NOT = 2
CONTENT = ("none", "sample", "all")
# Looked at between two lines, where they do not write over each other.
LINE_EVERY = 100_000
# What only upkeep can do, for it needs journals and rules: the task to ring for, on this node or
# on any.
_CHORES = {Mend.EXPIRE: ("upkeep.expire", False), Mend.REAP: ("upkeep.reap", True)}


@dataclass(frozen=True, slots=True)
class Told:
    """What a check came to."""

    rows: int
    findings: Sequence[Finding]
    ages: Sequence[StateAge]
    look: CheckedContents | None
    asked: Sequence[str]
    took_s: float


class Command(BaseCommand):
    """The checker of the queue at the command line."""

    help = "Look whether the queue is as it must be; mend what is safe, tell the rest."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--mend",
            action=BooleanOptionalAction,
            default=True,
            help="count wrong lanes anew, and ask upkeep for what only it may do",
        )
        parser.add_argument(
            "--content",
            choices=CONTENT,
            default="sample",
            help="how much of this node's content is read back; all takes half of the disk's time",
        )
        parser.add_argument("--json", action="store_true", help="one JSON document, for programs")

    def handle(self, *args: Any, **options: Any) -> None:
        """Check, tell, and end with the code."""
        settings = stores()
        try:
            told = self._check(settings, mend=options["mend"], content=options["content"])
        except StoreUnavailable as exc:
            reason = f"could not check: {exc.store} is away: {exc.reason}"
            raise CommandError(reason, returncode=COULD_NOT) from exc
        except KeyboardInterrupt:
            reason = "stopped; no half look was noted, and what was mended stays mended"
            raise CommandError(reason, returncode=COULD_NOT) from None
        if options["json"]:
            self.stdout.write(json.dumps(_document(told, settings.node), indent=2))
        else:
            self._tell(told, settings.node)
        if any(one.count for one in told.findings):
            sys.exit(1)

    def _check(self, settings: Settings, *, mend: bool, content: str) -> Told:
        with ExitStack() as stack:
            book = stack.enter_context(closing(CheckBook(settings.database_url)))
            spool = stack.enter_context(closing(SpoolBook(settings.database_url)))
            shelf = stack.enter_context(closing(open_shelf(settings)))
            home = SHARED_HOME if settings.has_shared_spool else settings.node
            checker = Checker(book, spool, shelf, node=settings.node, consumers=CONSUMERS)
            if not checker.lead():
                reason = "could not check: another process looks at the ledger at this moment"
                raise CommandError(reason, returncode=COULD_NOT)
            began = time.monotonic()
            checker.progress = self._progress("rows")
            tally, findings, asked = self._ledger(settings, checker, mend=mend)
            checker.note_ledger(findings, tally, took_s=time.monotonic() - began)
            checker.release()
            look = None
            if content != "none":
                doubt = doubt_of(shelf.mark(), spool.home(home))
                if tally.rows and (shelf.mark() is None or doubt is Doubt.OTHERS):
                    raise StoreUnavailable(
                        "spool",
                        f"no content of this installation lies where SPOOL_URL of this process "
                        f"points ({settings.spool_dir}); run it on a node, or with --content=none",
                    )
                began_content = time.monotonic()
                checker.progress = self._progress("contents")
                look = checker.look_at_contents(
                    is_whole=content == "all",
                    grace_s=CONTENT_GRACE_S,
                    retention_s=_retention_s(settings.node),
                )
                checker.note_contents(look, took_s=time.monotonic() - began_content)
            everything = [*findings, *(look.findings if look is not None else ())]
            took_s = time.monotonic() - began
            return Told(tally.rows, everything, tally.ages, look, asked, took_s)

    def _ledger(
        self, settings: Settings, checker: Checker, *, mend: bool
    ) -> tuple[Tally, Sequence[Finding], Sequence[str]]:
        tally = checker.look_at_ledger()
        mends = wanted_mends(tally.findings) if mend else frozenset()
        asked = [_CHORES[one][0] for one in _CHORES if one in mends]
        if asked:
            try:
                asyncio.run(_ring(settings, mends))
            except StoreUnavailable as exc:
                self.stderr.write(f"upkeep could not be asked: {exc.store}: {exc.reason}")
                asked = []
        if Mend.RECOUNT not in mends:
            return tally, tally.findings, asked
        with closing(LedgerUpkeep(settings.database_url)) as chores:
            chores.recount_lanes()
        again = checker.look_at_ledger()
        return again, mended_since(tally.findings, again.findings), asked

    # --- words -----------------------------------------------------------------------------------

    def _progress(self, what: str) -> Callable[[int, int], None]:
        shown = 0

        def show(done: int, _whole: int) -> None:
            nonlocal shown
            if self.stderr.isatty():
                self.stderr.write(f"\r\033[K{done:,} {what}", ending="")
                self.stderr.flush()
            elif done - shown >= LINE_EVERY:
                shown = done
                self.stderr.write(f"{done:,} {what}")

        return show

    def _tell(self, told: Told, node: str) -> None:
        if self.stderr.isatty():
            self.stderr.write("\r\033[K", ending="")
        self.stdout.write(f"{told.rows:,} rows looked at, {duration(told.took_s * 1000)}")
        if told.look is not None:
            part = "" if told.look.is_whole else "a sample of "
            self.stdout.write(f"{part}{told.look.contents:,} contents of {node} read back")
        for state, age_s in oldest_by_state(told.ages).items():
            if any(one.state == state.value for one in told.ages):
                self.stdout.write(f"oldest {state.name.lower()}: {duration(age_s * 1000)}")
        if not told.findings:
            self.stdout.write("everything is as it must be")
            return
        self.stdout.write()
        rows: list[list[object]] = [
            [one.invariant.value, one.count, one.mended, _examples(one)] for one in told.findings
        ]
        Screen(self.stdout).table(["what", "found", "mended", "examples"], rows)
        self.stdout.write()
        for one in told.findings:
            note = f" ({one.note})" if one.note else ""
            self.stdout.write(f"{one.invariant.value}: {RULES[one.invariant].words}{note}")
        if told.asked:
            names = " and ".join(told.asked)
            self.stdout.write(f"upkeep was asked for {names}; look again in a minute")
        self.stdout.write("what helps: docs/operate/check-queue.md")


async def _ring(settings: Settings, mends: frozenset[Mend]) -> None:
    app = Celery("postfleet", set_as_current=False)
    app.conf.update(celery_config(settings))
    with closing(CeleryBells(app)) as bells:
        for mend, (task, is_of_node) in _CHORES.items():
            if mend in mends:
                await bells.upkeep(task, UpkeepBell(settings.node if is_of_node else ""))


def _retention_s(node: str) -> float:
    """Return for how long the node keeps content, as its last sweep noted."""
    return next((one.retention_s for one in spool_nodes() if one.node == node), 0.0)


def _examples(one: Finding) -> str:
    more = ", …" if one.count > len(one.examples) else ""
    return f"{', '.join(map(str, one.examples))}{more}"


def _document(told: Told, node: str) -> dict[str, Any]:
    look = told.look
    return {
        "node": node,
        "rows": told.rows,
        "took_s": round(told.took_s, 3),
        "contents": None
        if look is None
        else {"read": look.contents, "is_whole": look.is_whole, "elsewhere": len(look.absent)},
        "findings": [
            {
                **asdict(one),
                "invariant": one.invariant.value,
                "severity": RULES[one.invariant].severity.value,
                "words": RULES[one.invariant].words,
                "of": RULES[one.invariant].of,
            }
            for one in told.findings
        ],
        "oldest_s": {
            state.name.lower(): round(age_s, 3)
            for state, age_s in oldest_by_state(told.ages).items()
        },
        "asked": list(told.asked),
    }
