"""Verbs on the queue, as operators start them and a worker does them."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import psycopg2
import pytest
from django.conf import settings
from django.db import connection
from django.test import Client
from django.utils import timezone

from control.access import Actor
from control.audit.models import AuditEntry
from control.jobs import services
from control.jobs.choices import JobState
from control.jobs.models import Job
from control.jobs.runner import run_due
from control.queue import work
from control.queue.console import progress_words
from control.queue.jobs import (
    VerbRefused,
    start_count,
    start_expire,
    start_purge,
    start_retry,
    start_undo,
    why_not_undone,
)
from mailcore.events import Event, decode_lines
from mailcore.outcome import RowState, WaitReason
from mailcore.rowfilter import UNDO_KEPT_S, RowFilter
from mailio.ledger.accept import Acceptor
from mailio.ledger.verbs import QueueVerbs
from mailio.settings import Settings
from tests.control.conftest import SYSTEM, House
from tests.io.ledger.world import accept, message

pytestmark = pytest.mark.django_db(transaction=True)
ALL = RowFilter(everything=True)
ANN = Actor(label="ann", is_admin=True)
# Not Django's own, so it does not empty them.
_QUEUE = "ledger_row, ledger_lane, ledger_outbox, queue_undo"
_TABLES = f"{_QUEUE}, policy_revision, policy_ack"


@dataclass
class Queue:
    """A queue, and what a test asks of it."""

    acceptor: Acceptor
    url: str

    def fill(self, count: int = 6, **fields: Any) -> None:
        accept(self.acceptor, *(message(f"{n}@d{n % 3}.test", **fields) for n in range(count)))

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        line = psycopg2.connect(self.url)
        with contextlib.closing(line), line, line.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description is not None else []

    @property
    def queued(self) -> int:
        return int(self.query("SELECT count(*) FROM ledger_row")[0][0])

    def told(self) -> list[Event]:
        bodies = [bytes(body) for (body,) in self.query("SELECT body FROM ledger_outbox")]
        return [e for body in bodies if body[:2] == b"E1" for e in decode_lines(body)]


@pytest.fixture
def queue(
    house: House, database_url: str, stores: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Queue]:
    """A queue whose jobs are worked on in this process, in steps of two rows."""
    monkeypatch.setattr(settings, "POSTFLEET", replace(stores, database_url=database_url))
    # A test before this one may have left a lane whose rows are gone.
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {_QUEUE}")
    work.tools().verbs = QueueVerbs(database_url, node="node1", looked_at=4, changed=2)
    acceptor = Acceptor(database_url)
    yield Queue(acceptor, database_url)
    acceptor.close()
    work.close_tools()
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {_TABLES}")


def worked(job: Job) -> Any:
    """Let a worker do all there is, and return the job as it ended."""
    while run_due():
        pass
    return Job.objects.get(pk=job.pk)


def test_a_purge_is_counted_first_done_then_and_can_be_undone(queue: Queue) -> None:
    queue.fill()
    dry = worked(start_purge(ANN, ALL, reason="sent by mistake", dry_run=True))
    assert dry.state == JobState.DONE
    assert (dry.result["matched"], dry.result["changed"]) == (6, 0)
    assert dry.result["by_state"] == {"waiting": 6}
    assert [(each["isp_id"], each["rows"]) for each in dry.result["by_isp"]] == [(3, 6)]
    assert len(dry.result["sample"]) == 6
    assert "undo_until" not in dry.result
    assert queue.queued == 6

    job = worked(start_purge(ANN, ALL, reason="sent by  mistake"))
    assert (job.state, job.done_count, job.total_count) == (JobState.DONE, 6, 6)
    assert job.result["changed"] == 6
    assert job.result["with_workers"] == 0
    assert "sample" not in job.result
    assert datetime.fromisoformat(job.result["undo_until"]) > timezone.now()
    assert queue.queued == 0
    assert {event.reply for event in queue.told()} == {"554 5.7.0 purged by ann: sent by mistake"}

    back = worked(start_undo(ANN, job.pk, reason="wrong campaign"))
    assert (back.state, back.result) == (JobState.DONE, {"changed": 6, "too_late": 0})
    assert (back.done_count, back.total_count) == (6, 6)
    assert queue.queued == 6
    again = worked(start_undo(ANN, job.pk))
    assert again.result == {"changed": 0, "too_late": 0}
    assert queue.queued == 6
    assert Counter(event.kind for event in queue.told()) == {"purged": 6, "accepted": 6}


def test_an_accounts_own_purge_is_told_as_its_own(queue: Queue, house: House) -> None:
    queue.fill(2)
    own = Actor(label="bob", account_id=house.account.pk)
    worked(start_purge(own, ALL, reason="a mistake"))
    assert [(event.kind, event.rule) for event in queue.told()] == [("purged", "account")] * 2
    queue.fill(1)
    worked(start_purge(ANN, ALL, reason="a mistake"))
    assert (queue.told()[-1].kind, queue.told()[-1].rule) == ("purged", "")


def test_who_did_what_and_why_is_in_the_audit(queue: Queue) -> None:
    job = start_purge(ANN, RowFilter(domains=("d1.test",)), reason="a mistake")
    assert job.title == "purge: domains d1.test"
    entry = AuditEntry.objects.filter(object_type="jobs.job", object_id=str(job.pk)).get()
    assert entry.actor == "ann"
    assert entry.after is not None
    assert entry.after["arguments"]["reason"] == "a mistake"


def test_an_expiry_is_for_good(queue: Queue) -> None:
    queue.fill(3)
    job = worked(start_expire(ANN, RowFilter(domains=("d1.test",)), reason="too old"))
    assert (job.result["changed"], job.result["examined"]) == (1, 5)
    assert queue.queued == 2
    assert [e.reply for e in queue.told()] == ["554 5.4.7 expired by ann: too old"]
    with pytest.raises(VerbRefused, match=f"job_id: job {job.pk} is no purge"):
        start_undo(ANN, job.pk)


def test_a_retry_is_counted_as_it_is_done(queue: Queue) -> None:
    queue.fill(4)
    queue.query(
        "UPDATE ledger_row SET due_at = now() + interval '1 h', reason = 'retry'"
        " WHERE recipient_no = 0 AND id % 2 = 0 RETURNING 1"
    )
    assert worked(start_retry(ANN, ALL, dry_run=True)).result["matched"] == 2
    job = worked(start_retry(ANN, ALL))
    assert (job.result["changed"], job.done_count) == (2, job.total_count)
    assert queue.query("SELECT count(*) FROM ledger_row WHERE due_at > now()") == [(0,)]


def test_a_count_tells_of_all_that_are_meant(queue: Queue) -> None:
    queue.fill(15)
    queue.query("UPDATE ledger_row SET state = 2 WHERE id = (SELECT min(id) FROM ledger_row)")
    both = RowFilter(everything=True, states=(RowState.WAITING, RowState.UNKNOWN))
    job = worked(start_count(ANN, both))
    assert job.result["by_state"] == {"waiting": 14, "unknown": 1}
    assert len(job.result["sample"]) == work.SAMPLE
    assert queue.queued == 15


def test_mail_that_comes_in_after_the_word_is_not_meant(queue: Queue) -> None:
    queue.fill(3)
    job = start_purge(ANN, ALL, reason="x")
    queue.fill(4)
    assert worked(job).result["changed"] == 3
    assert queue.queued == 4


def test_age_counts_from_the_word_on(queue: Queue) -> None:
    queue.fill(3)
    queue.query(
        "UPDATE ledger_row SET accepted_at = accepted_at - interval '2 h'"
        " WHERE id = (SELECT min(id) FROM ledger_row)"
    )
    job = worked(start_purge(ANN, RowFilter(older_than_s=3600.0), reason="x"))
    assert job.result["changed"] == 1


def test_a_stopped_purge_tells_what_it_did_and_is_undone_as_a_whole_one(queue: Queue) -> None:
    queue.fill()
    job = start_purge(ANN, ALL, reason="x")
    assert run_due(turn_s=0) == 1
    assert services.request_stop(job, actor=ANN)
    ended = worked(job)
    assert (ended.state, ended.result["changed"]) == (JobState.STOPPED, 2)
    assert queue.queued == 4
    assert worked(start_undo(ANN, job.pk)).result["changed"] == 2
    assert queue.queued == 6


def test_a_purge_whose_process_died_before_it_was_noted_goes_on_and_counts_right(
    queue: Queue,
) -> None:
    queue.fill()
    job = start_purge(ANN, ALL, reason="x")
    assert run_due(turn_s=0) == 1
    before = Job.objects.get(pk=job.pk)
    assert run_due(turn_s=0) == 1
    # As if the second step had been done and its process killed before it said so.
    Job.objects.filter(pk=job.pk).update(
        cursor=before.cursor, done_count=before.done_count, result=before.result
    )
    ended = worked(job)
    assert (ended.state, ended.result["changed"]) == (JobState.DONE, 6)
    assert queue.queued == 0
    assert len({event.event_id for event in queue.told()}) == len(queue.told()) == 6


def test_a_job_waits_while_there_is_no_policy(queue: Queue) -> None:
    queue.fill(1)
    queue.query("UPDATE policy_revision SET is_active = false RETURNING 1")
    job = worked(start_purge(ANN, ALL, reason="x"))
    assert (job.state, job.error) == (JobState.RUNNING, "policy: no policy was published yet")
    assert progress_words(job).endswith("it waits for policy: no policy was published yet")
    assert queue.queued == 1


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("", "must say why"),
        (" \t", "must say why"),
        ("x" * 501, "501 characters"),
        ("a\nb", "one line"),
    ],
)
def test_an_end_without_a_good_reason_is_refused(queue: Queue, reason: str, words: str) -> None:
    for start in (start_purge, start_expire):
        with pytest.raises(VerbRefused, match=words) as refused:
            start(ANN, ALL, reason=reason)
        assert refused.value.field == "reason"
    assert not Job.objects.exists()


def test_what_cannot_be_meant_is_refused_by_name(queue: Queue) -> None:
    with pytest.raises(VerbRefused) as refused:
        start_purge(ANN, RowFilter(recipients=("nobody",)), reason="x")
    assert refused.value.field == "filter.recipients"
    with pytest.raises(VerbRefused, match="releasing their hold"):
        start_retry(ANN, RowFilter(reasons=(WaitReason.HELD,)))


def test_recipients_are_compared_as_stop_lists_do(queue: Queue) -> None:
    accept(queue.acceptor, message("Ann@one.test"), message("bob@one.test"))
    job = worked(start_purge(ANN, RowFilter(recipients=("aNN@ONE.test",)), reason="x"))
    assert job.result["changed"] == 1


def test_an_undo_that_cannot_be_is_refused_in_words(queue: Queue) -> None:
    queue.fill(2)
    dry = worked(start_purge(ANN, ALL, reason="x", dry_run=True))
    running = start_purge(ANN, ALL, reason="x")
    for job_id, words in (
        (999_999, "is no purge"),
        (worked(dry).pk, "was a dry run"),
    ):
        with pytest.raises(VerbRefused, match=words):
            start_undo(ANN, job_id)
    fresh = start_purge(ANN, ALL, reason="x")
    assert "still runs" in why_not_undone(fresh)
    done = worked(running)
    assert why_not_undone(done) == ""
    start_undo(ANN, done.pk)
    with pytest.raises(VerbRefused, match="being undone already"):
        start_undo(ANN, done.pk)
    worked(fresh)
    Job.objects.filter(pk=done.pk).update(
        started_at=timezone.now() - timedelta(seconds=UNDO_KEPT_S + 1)
    )
    with pytest.raises(VerbRefused, match="could be undone until"):
        start_undo(SYSTEM, done.pk)


def test_an_accounts_job_is_its_own_and_so_is_the_undo_of_it(queue: Queue, house: House) -> None:
    queue.fill(2)
    program = Actor(label="token x", account_id=house.account.pk)
    job = worked(start_purge(program, ALL, reason="x"))
    assert job.account == house.account
    assert start_undo(ANN, job.pk).account == house.account
    assert start_count(ANN, ALL).account is None


def acted(panel: Client, action: str, *jobs: Job) -> str:
    """Choose an action for jobs of the list; return the page that follows."""
    chosen = {"action": action, "_selected_action": [job.pk for job in jobs]}
    answer = panel.post("/panel/jobs/job/", chosen, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


def test_the_panel_shows_how_far_a_job_is_and_what_it_came_to(queue: Queue, panel: Client) -> None:
    queue.fill()
    job = start_purge(ANN, ALL, reason="<sent> by mistake")
    run_due(turn_s=0)
    listed = panel.get("/panel/jobs/job/").content.decode()
    assert '<progress value="33" max="100" title="2 / 6">' in listed
    worked(job)
    shown = panel.get(f"/panel/jobs/job/{job.pk}/change/").content.decode()
    assert "<tr><th>changed</th><td>6</td></tr>" in shown
    assert "<td>&lt;sent&gt; by mistake</td>" in shown
    assert "Undo selected jobs" in shown


def test_the_panel_undoes_a_purge_and_says_what_cannot_be_undone(
    queue: Queue, panel: Client
) -> None:
    queue.fill(3)
    counted, purged = worked(start_count(ANN, ALL)), worked(start_purge(ANN, ALL, reason="x"))
    page = acted(panel, "undo", counted, purged)
    assert f"Job {counted.pk} cannot be undone" in page
    undoing = Job.objects.get(kind="queue.undo")
    assert f"Job {undoing.pk} undoes job {purged.pk}." in page
    assert "being undone already" in acted(panel, "undo", purged)
    assert worked(undoing).result["changed"] == 3
    assert queue.queued == 3


def test_the_panel_stops_a_job_and_says_when_it_was_too_late(queue: Queue, panel: Client) -> None:
    queue.fill()
    job = start_purge(ANN, ALL, reason="x")
    run_due(turn_s=0)
    acted(panel, "request_stop", job)
    assert worked(job).state == JobState.STOPPED
    assert f"Job {job.pk} has ended already." in acted(panel, "request_stop", job)
