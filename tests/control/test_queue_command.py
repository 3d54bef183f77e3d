"""`manage.py queue`: what it says, what it does, and what it will not do without being asked."""

import dataclasses
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError

from control.jobs import services as job_services
from control.jobs.models import Job
from control.queue import selectors
from control.queue.console import Screen, Silent, read_duration, read_moment
from control.queue.models import Hold
from mailio.settings import Settings
from tests.control.conftest import SYSTEM, House

pytestmark = pytest.mark.django_db


def queue(*arguments: str) -> str:
    out = io.StringIO()
    call_command("queue", *arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def lanes(house: House, stores: Settings, database_url: str) -> Iterator[None]:
    settings.POSTFLEET = dataclasses.replace(stores, database_url=database_url)
    line = psycopg2.connect(database_url)
    line.autocommit = True
    with line.cursor() as cursor:
        cursor.execute(
            "INSERT INTO ledger_lane (sender_id, account_id, isp_id, mail_class, site, waiting)"
            " VALUES (%s, %s, 0, 1, 'mx.test', 1200)",
            (house.sender.pk, house.account.pk),
        )
        yield
        cursor.execute("DELETE FROM ledger_lane")
    line.close()
    selectors._groups.cache_clear()
    settings.POSTFLEET = stores


def test_mail_is_held_shown_and_released_by_name(lanes: None, house: House) -> None:
    said = queue("hold", "sender", "bulk", "--reason", "complaints", "--for", "2h", "--as", "ann")
    hold = Hold.objects.get()
    assert f"hold {hold.pk}: sender bulk, until" in said
    assert f"manage.py queue release {hold.pk}" in said
    assert hold.author == "ann (command line)"
    assert hold.ends_at is not None
    left = hold.ends_at - datetime.now(UTC)
    assert timedelta(minutes=119) < left <= timedelta(hours=2)
    listed = queue("holds")
    assert "sender bulk" in listed
    assert "complaints" in listed
    shown = queue("show", "--by", "sender,isp").splitlines()
    assert shown[1].split() == ["bulk", "-", "1,200", "1,200", "0", "0", "-"]
    assert shown[2].split() == ["all", "1,200", "1,200", "0", "0", "-"]
    assert "is released" in queue("release", str(hold.pk))
    assert "no longer in force: released" in queue("release", str(hold.pk))
    assert queue("holds") == "nothing is held\n"
    assert "released" in queue("holds", "--all")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("hold", "sender", "bulk"), "--reason: must say why"),
        (("hold", "sender", "gone", "--reason", "x"), "TARGET: there is no sender 'gone'"),
        (("hold", "everything", "all", "--reason", "x"), "TARGET: everything has no target"),
        (("hold", "everything", "--reason", "x", "--for", "2 hours"), "--for: '2 hours' is no"),
        (("hold", "everything", "--reason", "x", "--for", "0s"), "--for: '0s' must be longer"),
        (("hold", "everything", "--reason", "x", "--until", "soon"), "--until: 'soon' is no"),
        (("hold", "everything", "--reason", "x", "--until", "2001-01-01"), "--until: the end"),
        (("release", "99999999999999999999"), "there is no hold"),
        (("show", "--by", "planet"), "--by: 'planet' is none of"),
        (("purge", "--reason", "x", "--yes"), "say which rows are meant"),
        (("purge", "--state", "unknown", "--reason", "x", "--yes"), "say which rows are meant"),
        (("purge", "--everything", "--yes"), "--reason: must say why"),
        (("purge", "--everything", "--reason", "x"), "--yes: a purge asks first"),
        (("purge", "--isp", "gone", "--reason", "x", "--yes"), "--isp: there is no isp 'gone'"),
        (("purge", "--domain", "x", "--reason", "x", "--yes"), "--domain: the domain 'x'"),
        (("purge", "--message", "x", "--reason", "x", "--yes"), "--message: 'x' is no message"),
        (("purge", "--recipient", "x", "--reason", "x", "--yes"), "--recipient: the address"),
        (("expire", "--older-than", "1", "--reason", "x"), "--older-than: '1' is no length"),
        (("expire", "--everything", "--isp", "1", "--reason", "x"), "--everything: is no filter"),
        (
            ("hold", "everything", "--reason", "x", "--until", "9999-12-31T23:59:59-12:00"),
            "--until: the end lies too far",
        ),
        (("job", "7"), "there is no job 7"),
        (("stop", "7"), "there is no job 7"),
        (("undo", "7"), "there is no job 7"),
    ],
)
def test_what_cannot_be_meant_is_one_line_that_names_the_option(
    arguments: tuple[str, ...], said: str, house: House
) -> None:
    with pytest.raises(CommandError) as refused:
        queue(*arguments)
    text = str(refused.value)
    assert text.startswith(said)
    assert "\n" not in text
    assert not Hold.objects.exists()
    assert not Job.objects.exists()


def test_a_verb_starts_a_job_with_all_that_was_asked(house: House) -> None:
    said = queue(
        "purge", "--account", "acme", "--domain", "Accepta.test", "--older-than", "1h30m",
        "--class", "main", "--reason", "wrong list", "--yes", "--detach",
    )  # fmt: skip
    job = Job.objects.get()
    assert f"manage.py queue job {job.pk} --follow" in said
    assert job.kind == "queue.purge"
    assert job.arguments["filter"] == {
        "accounts": [house.account.pk],
        "domains": ["accepta.test"],
        "classes": ["main"],
        "states": ["waiting"],
        "older_than_s": 5400.0,
    }
    assert "queue.purge" not in queue("job", str(job.pk))
    assert "is stopped" in queue("stop", str(job.pk))
    assert "has ended already" in queue("stop", str(job.pk))
    undone = queue("undo", str(job.pk), "--detach")
    assert f"job {Job.objects.latest('id').pk} is started" in undone


def test_a_job_that_nobody_works_on_is_told_and_not_waited_for(house: House) -> None:
    with pytest.raises(CommandError, match=r"no sign of life.*worker-control"):
        queue("retry", "--everything", "--patience", "0")
    assert Job.objects.get().state == "waiting"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Console:
    """Output as a command writes it."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    def write(self, msg: str = "", style_func: Any = None, ending: str | None = None) -> None:
        self._stream.write(msg + ("\n" if ending is None else ending))

    def isatty(self) -> bool:
        return self._stream.isatty()

    def flush(self) -> None:
        self._stream.flush()


def test_progress_is_a_bar_in_place_until_the_job_ends(house: House) -> None:
    started = job_services.start(kind="x", title="t", actor=SYSTEM)
    job = job_services.claim(started.pk)
    assert job is not None
    steps = iter([15, 30])

    def work(_seconds: float) -> None:
        done = next(steps)
        job_services.report_progress(job, done=done, total=30, cursor={})
        if done == 30:
            job_services.finish(job)

    stream = Terminal()
    ended = Screen(Console(stream), pause=work).follow(job.pk, patience_s=60)
    assert ended.state == "done"
    first, second, third = stream.getvalue().split("\r\033[K")[1:]
    assert first.startswith("[??????????")
    assert second.startswith("[" + "#" * 15 + "." * 15 + "]")
    assert third.startswith("[" + "#" * 30 + "]")
    assert third.endswith("done: 30 of 30\n")


def test_ctrl_c_leaves_the_job_running_and_says_how_to_stop_it(house: House) -> None:
    class Interrupted(io.StringIO):
        def flush(self) -> None:
            if "waiting" in self.getvalue():
                raise KeyboardInterrupt

    out = Interrupted()
    call_command("queue", "retry", "--everything", stdout=out)
    job = Job.objects.get()
    assert job.state == "waiting"
    assert f"job {job.pk} goes on; stop it with: manage.py queue stop {job.pk}" in out.getvalue()


def test_a_silent_job_is_given_up_after_the_time_given(house: House) -> None:
    job = job_services.start(kind="x", title="t", actor=SYSTEM)
    now = iter(range(0, 100, 5))
    screen = Screen(Console(io.StringIO()), pause=lambda _s: None, monotonic=lambda: next(now))
    with pytest.raises(Silent):
        screen.follow(job.pk, patience_s=20)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1h30m", 5400), ("2d", 172_800)])
def test_lengths_of_time_are_read(text: str, seconds: int) -> None:
    assert read_duration(text).total_seconds() == seconds


def test_a_time_without_an_offset_is_in_utc() -> None:
    assert read_moment("2026-05-01T18:00") == datetime(2026, 5, 1, 18, tzinfo=UTC)
    assert read_moment("2026-05-01T18:00+02:00") == datetime(2026, 5, 1, 16, tzinfo=UTC)
