"""`manage.py fleet run|demo|up|status|start|stop|restart|exec`: the product's processes.

`run` stays until Ctrl-C. `demo` sends a campaign, counts, and ends: exit code 0 only if every
message was accepted and came to its end, each late bounce and complaint counts once, and nothing
arrived twice but what a receiver lost its own reply to. `demo --kill` kills a delivery worker in
the middle; then what arrived twice may be as much as was on the wire, and no more.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from control.management.fleet import doctor, own
from control.management.fleet.campaign import Campaign
from control.management.fleet.demo import Demo, Verdict, words
from control.management.fleet.house import TOP, FleetError, House
from control.management.fleet.launch import FLOWER_USER, Fleet
from embedded.signals import stop_signals
from lab.client import LabError
from mailcore.ports import StoreUnavailable

FIRST_CAMPAIGN = 200
DEMO_MESSAGES = 5_000


class Command(BaseCommand):
    """Starts embedded stack, lab, panel, API, workers, beat and Flower; looks after them."""

    help = "Start, watch and stop the product's processes on this machine."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the verbs."""
        verbs = parser.add_subparsers(dest="verb", required=True)
        run = verbs.add_parser("run", help="start everything and stay")
        run.add_argument("--mode", choices=("lab", "live"), default="lab")
        run.add_argument("--var", type=Path, default=None, help="directory of all data")
        run.add_argument(
            "--probe", default="", help="live: a domain that receives mail, or none (see doctor)"
        )
        demo = verbs.add_parser("demo", help="send messages through the lab, count, end")
        demo.add_argument("--messages", type=int, default=DEMO_MESSAGES)
        demo.add_argument(
            "--kill", action="store_true", help="kill a delivery worker in the middle (SIGKILL)"
        )
        own.add_verbs(verbs)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the verb."""
        try:
            with stop_signals() as asked:
                if options["verb"] == "run":
                    self._run(options["mode"], options["var"], options["probe"], asked)
                elif options["verb"] in own.VERBS:
                    sys.exit(own.run(options, say=self._say, asked=asked))
                else:
                    self._demo(options["messages"], options["kill"], asked)
        except (FleetError, StoreUnavailable, LabError) as exc:
            raise CommandError(str(exc)) from exc
        except KeyboardInterrupt:
            self._say("stopped")
            if options["verb"] == "demo":
                sys.exit(130)  # nothing was shown by it

    # ── run ──────────────────────────────────────────────────────────────────────────────────

    def _run(self, mode: str, var_dir: Path | None, probe: str, asked: threading.Event) -> None:
        if mode == "live" and probe != doctor.UNCHECKED:
            for line in doctor.check(probe, os.environ).lines():
                self._say(line)
        elif mode == "live":
            self._say("not checked: resolver, outgoing port 25, PTR record")
        house = House(var_dir or TOP / "var" / mode, mode)
        self._banner(mode)
        with Fleet(house, say=self._say, asked=asked) as fleet:
            if mode == "lab":
                self._first_campaign(fleet, asked)
            self._addresses(fleet, house)
            asked.wait()
        self._say("stopped")

    def _first_campaign(self, fleet: Fleet, asked: threading.Event) -> None:
        campaign = Campaign(fleet, messages=FIRST_CAMPAIGN, label=f"first-{int(time.time())}")
        self._say(f"sending a first campaign of {FIRST_CAMPAIGN} messages through the lab")
        for accepted in campaign.send():
            self._show(f"accepted {accepted} of {FIRST_CAMPAIGN}")
            if asked.is_set():
                return
        # Reports come later, and are read for as long as this runs: see the dashboard.
        campaign.follow(
            timeout_s=60,
            show=lambda progress: self._show(words(progress)),
            asked=asked,
            reports_within_s=0,
        )
        found = campaign.reckoning()
        self._say(f"{found.line}\n{found.table()}\nour statistics: {campaign.statistics()}")
        campaign.close()

    def _addresses(self, fleet: Fleet, house: House) -> None:
        found = fleet.addresses
        self._say("")
        self._say(f"panel   {found.panel}   (a lost password: manage.py reset_password operator)")
        self._say(f"API     {found.api}   token in {fleet.token_path}")
        password = house.password("FLOWER_PASSWORD")
        self._say(f"Flower  {found.flower}   user {FLOWER_USER}, password {password}")
        self._say(f"data and logs in {house.var_dir}; Ctrl-C stops everything")

    # ── demo ─────────────────────────────────────────────────────────────────────────────────

    def _demo(self, messages: int, with_kill: bool, asked: threading.Event) -> None:
        if messages < 1:
            raise CommandError("--messages must be at least 1")
        base = TOP / "var"
        base.mkdir(exist_ok=True)
        var_dir = Path(tempfile.mkdtemp(prefix="demo-", dir=base))
        self._banner("lab")
        began = time.monotonic()
        try:
            found = self._demonstrate(var_dir, messages, with_kill, asked)
        except KeyboardInterrupt:
            shutil.rmtree(var_dir, ignore_errors=True)
            raise
        if found.is_good:
            shutil.rmtree(var_dir, ignore_errors=True)
        else:
            self._say(f"data and logs are kept in {var_dir}")
        self._say(f"{time.monotonic() - began:.1f} s in all")
        for fault in found.faults:
            self._say(f"not as it must be: {fault}")
        self._say(found.line)
        if not found.is_good:
            sys.exit(1)

    def _demonstrate(
        self, var_dir: Path, messages: int, with_kill: bool, asked: threading.Event
    ) -> Verdict:
        with Fleet(House(var_dir, "lab"), say=self._say, asked=asked) as fleet:
            demo = Demo(
                fleet, messages=messages, with_kill=with_kill, say=self._say, show=self._show
            )
            found = demo.run(asked)
            if asked.is_set():
                raise KeyboardInterrupt
            self._say(f"{found.reckoning.table()}\nour statistics: {found.statistics}")
        return found

    # ── words ────────────────────────────────────────────────────────────────────────────────

    def _banner(self, mode: str) -> None:
        if mode == "lab":
            self._say("Postfleet, mode lab: nothing leaves this machine")
        else:
            self._say("Postfleet, mode live: mail is sent to the real world")

    def _say(self, text: str) -> None:
        if self.stdout.isatty():
            self.stdout.write("\r\033[K", ending="")
        self.stdout.write(text)
        self.stdout.flush()

    def _show(self, text: str) -> None:
        """Show progress in place where a person watches; in a log, now and then."""
        if self.stdout.isatty():
            # A line that is broken in two cannot be written over.
            text = text[: shutil.get_terminal_size().columns - 1]
            self.stdout.write(f"\r\033[K{text}", ending="")
            self.stdout.flush()
        elif time.monotonic() - self._shown_at > 5:
            self._shown_at = time.monotonic()
            self._say(text)

    _shown_at = float("-inf")
