"""`manage.py queue`: look at the queue, hold and release, purge, expire, retry, undo.

Gives    show · holds · hold · release · purge · expire · retry · job · stop · undo
Raises   CommandError, in one line that names the option
"""

from __future__ import annotations

import getpass
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from control.access import Actor
from control.jobs import services as job_services
from control.jobs.models import Job
from control.needs import stores
from control.queue import jobs, services
from control.queue.console import (
    Screen,
    Silent,
    moment_words,
    progress_words,
    read_duration,
    read_moment,
)
from control.queue.models import IN_FORCE, Hold
from control.queue.selectors import figures, names_of
from control.queue.targets import filter_of, with_names
from mailcore.holds import HoldScope
from mailcore.outcome import MailClass, RowState, WaitReason
from mailcore.ports import StoreUnavailable
from mailcore.rowfilter import FilterError, RowFilter
from mailio.ledger.groups import GroupBy

PATIENCE_S = 15.0
GROUPS = {one.name.lower(): one for one in GroupBy}
SHOWN_HOLDS = 50
# Option -> member of the filter.
FILTERS = {
    "sender": "senders",
    "account": "accounts",
    "campaign": "campaigns",
    "isp": "isps",
    "site": "sites",
    "domain": "domains",
    "recipient": "recipients",
    "message": "messages",
    "mail_class": "classes",
    "state": "states",
    "waits_for": "reasons",
}
STARTS: Mapping[str, Callable[..., Job]] = {
    "purge": jobs.start_purge,
    "expire": jobs.start_expire,
    "retry": jobs.start_retry,
}


class Command(BaseCommand):
    """The queue at the command line."""

    help = "Look at the queue; hold, release, purge, expire, retry, undo."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the verbs."""
        verbs = parser.add_subparsers(dest="verb", required=True)
        show = verbs.add_parser("show", help="how much is queued, by what")
        show.add_argument("--by", default="", help=f"of {', '.join(GROUPS)}, with commas between")
        _add_lane_filters(show)
        hold = verbs.add_parser("hold", help="let nothing of it be sent")
        hold.add_argument("scope", choices=[each.value for each in HoldScope])
        hold.add_argument("target", nargs="?", default="", help="number or name")
        _add_reason(hold)
        ends = hold.add_mutually_exclusive_group()
        ends.add_argument("--for", dest="for_", metavar="TIME", default="", help="such as 2h")
        ends.add_argument("--until", metavar="WHEN", default="", help="such as 2026-05-01T18:00")
        holds = verbs.add_parser("holds", help="the holds in force")
        holds.add_argument("--all", action="store_true", help="and the last that are over")
        release = verbs.add_parser("release", help="end a hold")
        release.add_argument("number", type=int, help="of the hold")
        _add_author(release)
        for name, said in (
            ("purge", "remove rows; can be undone for a day"),
            ("expire", "give rows up for good"),
            ("retry", "let rows be due now"),
        ):
            verb = verbs.add_parser(name, help=said)
            _add_filters(verb)
            _add_reason(verb)
            verb.add_argument("--dry-run", action="store_true", help="only count")
            verb.add_argument("--yes", action="store_true", help="do not ask")
            _add_following(verb)
        job = verbs.add_parser("job", help="how far a job is")
        job.add_argument("number", type=int)
        job.add_argument("--follow", action="store_true", help="until it ends")
        _add_following(job)
        stop = verbs.add_parser("stop", help="ask a job to end early")
        stop.add_argument("number", type=int)
        _add_author(stop)
        undo = verbs.add_parser("undo", help="bring back what a purge removed")
        undo.add_argument("number", type=int, help="of the purge's job")
        _add_reason(undo)
        _add_following(undo)

    def handle(self, *args: Any, verb: str, **options: Any) -> None:
        """Run the verb."""
        stores()
        self.screen = Screen(self.stdout)
        author = options.get("as_") or getpass.getuser()
        self.actor = Actor.system(f"{author} (command line)")
        work: Callable[[dict[str, Any]], None] = getattr(self, f"_{verb}", self._verb)
        try:
            work({**options, "verb": verb})
        except services.HoldRefused as exc:
            raise CommandError(
                "; ".join(_of_hold(one.pointer, one.detail) for one in exc.problems)
            ) from exc
        except FilterError as exc:
            raise CommandError(_of_filter(exc.field, exc.reason)) from exc
        except jobs.VerbRefused as exc:
            field = exc.field.removeprefix("filter.")
            raise CommandError(_of_filter(field, exc.reason)) from exc
        except StoreUnavailable as exc:
            raise CommandError(f"{exc.store} is away: {exc.reason}") from exc
        except Silent as exc:
            raise CommandError(str(exc)) from exc

    # --- look ------------------------------------------------------------------------------------

    def _show(self, options: dict[str, Any]) -> None:
        names = [name for name in options["by"].split(",") if name]
        unknown = [name for name in names if name not in GROUPS]
        if unknown:
            raise CommandError(f"--by: {unknown[0]!r} is none of {', '.join(GROUPS)}")
        found = figures([GROUPS[name] for name in names], self._filter(options, is_needed=False))
        called = names_of(names, found.groups)
        rows: list[list[object]] = []
        for one in sorted(found.groups, key=lambda group: -group.waiting) if names else []:
            keys = [_key(name, key, called) for name, key in zip(names, one.key, strict=True)]
            rows.append([*keys, *_counts(one)])
        total = ["all", *[""] * (len(names) - 1)] if names else []
        rows.append([*total, *_counts(found.total)])
        self.screen.table([*names, "waiting", "held", "leased", "unknown", "next due (UTC)"], rows)

    def _holds(self, options: dict[str, Any]) -> None:
        rows = with_names(Hold.objects.all()).order_by("-pk")
        chosen = list(rows[:SHOWN_HOLDS] if options["all"] else rows.filter(IN_FORCE))
        if not chosen:
            self.stdout.write("nothing is held")
            return
        self.screen.table(
            ["id", "what", "state", "since (UTC)", "until (UTC)", "by", "reason"],
            [
                [
                    str(hold.pk),
                    hold.words,
                    hold.state.replace("_", " "),
                    moment_words(hold.placed_at),
                    moment_words(hold.ends_at),
                    hold.author,
                    hold.reason,
                ]
                for hold in chosen
            ],
        )

    def _job(self, options: dict[str, Any]) -> None:
        job = _job_of(options["number"])
        if options["follow"]:
            self._follow(job, options)
        else:
            self.stdout.write(job.title)
            self._tell(job)

    # --- hold ------------------------------------------------------------------------------------

    def _hold(self, options: dict[str, Any]) -> None:
        hold = services.place_hold(
            self.actor,
            scope=options["scope"],
            target=options["target"],
            reason=options["reason"],
            ends_at=_end(options),
        )
        shown = with_names(Hold.objects.filter(pk=hold.pk)).get()
        until = (
            "until it is released"
            if hold.ends_at is None
            else f"until {moment_words(hold.ends_at)} UTC"
        )
        self.stdout.write(f"hold {hold.pk}: {shown.words}, {until}")
        self.stdout.write(f"end it with: manage.py queue release {hold.pk}")

    def _release(self, options: dict[str, Any]) -> None:
        number = options["number"]
        hold = Hold.objects.filter(pk=number).first() if 0 < number < 1 << 63 else None
        if hold is None:
            raise CommandError(f"there is no hold {number}")
        if not hold.in_force:
            at = moment_words(hold.released_at or hold.ends_at)
            self.stdout.write(f"hold {hold.pk} is no longer in force: {hold.state} at {at} UTC")
            return
        services.release_hold(self.actor, hold)
        self.stdout.write(f"hold {hold.pk} is released")

    # --- purge, expire, retry --------------------------------------------------------------------

    def _verb(self, options: dict[str, Any]) -> None:
        name, is_dry = options["verb"], options["dry_run"]
        wanted = self._filter(options, is_needed=True)
        if name == "purge" and not is_dry and not options["yes"] and not self._is_sure(wanted):
            self.stdout.write("nothing was done")
            return
        job = STARTS[name](self.actor, wanted, reason=options["reason"], dry_run=is_dry)
        self._follow(job, options)

    def _is_sure(self, wanted: RowFilter) -> bool:
        if not sys.stdin.isatty():
            raise CommandError("--yes: a purge asks first, and nobody is here to answer")
        self.stdout.write(f"purge: {wanted.words()}")
        if wanted.is_of_lanes:
            total = figures([], wanted).total
            self.stdout.write(f"{total.waiting:,} wait there now")
        else:
            self.stdout.write("how many those are, --dry-run tells")
        try:
            return input("Remove them? yes or no: ").strip().lower() in ("y", "yes")
        except (EOFError, KeyboardInterrupt):
            self.stdout.write()
            return False

    def _undo(self, options: dict[str, Any]) -> None:
        _job_of(options["number"])
        job = jobs.start_undo(self.actor, options["number"], reason=options["reason"])
        self._follow(job, options)

    def _stop(self, options: dict[str, Any]) -> None:
        job = _job_of(options["number"])
        if not job_services.request_stop(job, actor=self.actor):
            self.stdout.write(f"job {job.pk} has ended already: {job.state}")
            return
        job.refresh_from_db()
        ends = "is stopped" if job.state == "stopped" else "ends within seconds"
        self.stdout.write(f"job {job.pk} {ends}; what it has done stays done")

    def _follow(self, job: Job, options: dict[str, Any]) -> None:
        if options["detach"]:
            self.stdout.write(f"job {job.pk} is started: manage.py queue job {job.pk} --follow")
            return
        self.stdout.write(job.title)
        try:
            ended = self.screen.follow(job.pk, patience_s=options["patience"])
        except KeyboardInterrupt:
            self.stdout.write(f"job {job.pk} goes on; stop it with: manage.py queue stop {job.pk}")
            return
        self._tell(ended)

    def _tell(self, job: Job) -> None:
        self.stdout.write(progress_words(job))
        result: dict[str, Any] = job.result if isinstance(job.result, dict) else {}
        for name in ("matched", "changed", "too_late", "with_workers", "undo_until"):
            if result.get(name):
                value = result[name]
                text = f"{value:,}" if isinstance(value, int) else str(value)
                self.stdout.write(f"  {name.replace('_', ' ')}: {text}")
        for one in result.get("by_isp", ()):
            self.stdout.write(f"    {one.get('isp') or 'other ISPs'}: {one.get('rows', 0):,}")
        if job.error and job.finished_at is not None:
            raise CommandError(f"job {job.pk} failed: {job.error}")

    # --- options ---------------------------------------------------------------------------------

    def _filter(self, options: dict[str, Any], *, is_needed: bool) -> RowFilter:
        given: dict[str, Any] = {
            member: options[option] for option, member in FILTERS.items() if options.get(option)
        }
        if options.get("older_than"):
            try:
                given["older_than_s"] = read_duration(options["older_than"]).total_seconds()
            except ValueError as exc:
                raise CommandError(f"--older-than: {exc}") from exc
        if options.get("everything") or (not given and not is_needed):
            given["everything"] = True
        if not given or set(given) == {"states"}:
            raise CommandError(
                "say which rows are meant, such as --isp or --domain, or --everything"
            )
        return filter_of(self.actor, given)


def _add_lane_filters(parser: ArgumentParser) -> None:
    for name in ("sender", "account", "campaign", "isp"):
        parser.add_argument(f"--{name}", action="append", metavar="WHICH", help="number or name")
    parser.add_argument(
        "--site", action="append", metavar="NAME", help="unrouted: what has none yet"
    )
    parser.add_argument(
        "--class", dest="mail_class", action="append", choices=[one.word for one in MailClass]
    )


def _add_filters(parser: ArgumentParser) -> None:
    _add_lane_filters(parser)
    parser.add_argument("--domain", action="append", metavar="NAME", help="of recipients")
    parser.add_argument("--recipient", action="append", metavar="ADDRESS")
    parser.add_argument("--message", action="append", metavar="ID")
    states = [one.name.lower() for one in RowState if one is not RowState.LEASED]
    parser.add_argument("--state", action="append", choices=states, help="by default waiting")
    parser.add_argument(
        "--waits-for", action="append", choices=[one.value for one in WaitReason], metavar="REASON"
    )
    parser.add_argument("--older-than", metavar="TIME", default="", help="such as 1h or 30m")
    parser.add_argument("--everything", action="store_true", help="the whole queue")


def _add_reason(parser: ArgumentParser) -> None:
    parser.add_argument("--reason", default="", help="one line, for those who wonder later")
    _add_author(parser)


def _add_author(parser: ArgumentParser) -> None:
    parser.add_argument("--as", dest="as_", metavar="NAME", default="", help="who asks for it")


def _add_following(parser: ArgumentParser) -> None:
    parser.add_argument("--detach", action="store_true", help="do not wait for the end")
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE_S,
        metavar="SECONDS",
        help="give up watching after so long without a sign of life",
    )


def _end(options: dict[str, Any]) -> datetime | None:
    for option, name in (("for_", "--for"), ("until", "--until")):
        text = options[option]
        try:
            if text:
                return (
                    read_moment(text)
                    if option == "until"
                    else datetime.now(UTC) + read_duration(text)
                )
        except ValueError as exc:
            raise CommandError(f"{name}: {exc}") from exc
    return None


def _job_of(number: int) -> Job:
    job = Job.objects.filter(pk=number).first() if 0 < number < 1 << 31 else None
    if job is None:
        raise CommandError(f"there is no job {number}")
    return job


def _key(name: str, key: int, called: dict[str, dict[int, str]]) -> str:
    if name == "mail_class":
        return MailClass(key).word
    if not key:
        return "-"
    return called.get(name, {}).get(key) or str(key)


def _counts(one: Any) -> list[object]:
    return [one.waiting, one.held, one.leased, one.unknown, moment_words(one.next_due_at)]


def _of_hold(pointer: str, detail: str) -> str:
    option = {"/target": "TARGET", "/reason": "--reason", "/scope": "SCOPE", "/ends_at": "--until"}
    return f"{option.get(pointer, pointer)}: {detail}"


def _of_filter(field: str, reason: str) -> str:
    members = {member: f"--{option.replace('_', '-')}" for option, member in FILTERS.items()}
    options = {
        **members,
        "classes": "--class",
        "older_than_s": "--older-than",
        "everything": "--everything",
        "reason": "--reason",
        "job_id": "JOB",
    }
    return f"{options.get(field, field)}: {reason}" if field else reason
