"""Eleven difficult providers: what they send back is counted once and stops the next mail, and a
worker killed in the middle of it loses nothing."""

import threading
from collections.abc import Iterator

import pytest

from control.management.fleet.demo import Demo, Verdict
from control.management.fleet.reckoning import End
from lab.report import per_isp
from tests.support.fleet import Running, eventually, starting

MESSAGES = 400
KILLED_MESSAGES = 1000
TOLD = "SELECT COALESCE(sum(messages), 0) FROM mailbox_tally WHERE fate = %s"


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A fleet of its own, whose receivers are the wide world's."""
    with starting(tmp_path_factory.mktemp("wide"), world="wide") as running:
        yield running


def demonstrate(running: Running, messages: int, *, with_kill: bool) -> Verdict:
    """Do what the command does."""
    said: list[str] = []
    demo = Demo(
        running.fleet, messages=messages, with_kill=with_kill, say=said.append, show=said.append
    )
    running.lab.keep([demo.campaign.run])
    verdict = demo.run(threading.Event())
    assert not verdict.faults, "\n".join([*said[-5:], *verdict.faults, verdict.line])
    return verdict


@pytest.fixture(scope="module")
def shown(wide: Running) -> Verdict:
    """A campaign that went through it."""
    return demonstrate(wide, MESSAGES, with_kill=False)


def accepted_by(running: Running, provider: str) -> Iterator[tuple[str, str]]:
    """Yield the id and recipient of what a provider took and has reported nothing of."""
    told = {one["recipient"] for one in (*running.lab.late(), *running.lab.complaints())}
    for fact in running.lab.facts(fate="accepted", provider=provider):
        if fact["recipient"] not in told:
            yield fact["id"], fact["recipient"]


def test_the_table_of_a_campaign_is_what_the_receivers_counted(
    wide: Running, shown: Verdict
) -> None:
    found = shown.reckoning
    counted = {row.name: row for row in per_isp(wide.lab.counts())}
    for provider in wide.fleet.world.providers:
        ours, theirs = found.by_isp[provider.title], counted[provider.key]
        figures = ours.ends[End.DELIVERED], ours.ends[End.BOUNCED], ours.repeated + ours.duplicated
        assert figures == (theirs.accepted, theirs.refused, theirs.twice), provider.title
        reports = ours.reports["late_bounced"], ours.reports["complained"]
        assert reports == (theirs.late_bounced, theirs.complained), provider.title
    assert found.total.accepted == MESSAGES
    assert len([sums for sums in found.by_isp.values() if sums.accepted]) >= 8


@pytest.mark.usefixtures("shown")
def test_a_late_bounce_and_a_complaint_count_once_and_stop_the_next_mail(wide: Running) -> None:
    taken = accepted_by(wide, "accepta")
    bounced = next(to for one, to in taken if wide.lab.bounce(one, to)["status"] == "5.1.1")
    lab_id, complained = next(taken)
    wide.lab.complain(lab_id, complained)
    wide.lab.complain(lab_id, complained)  # two reports of one complaint

    reports = [*wide.lab.late(), *wide.lab.complaints()]
    eventually(lambda: wide.one(TOLD, "told") == len(reports))
    boxes = wide.lab.mailboxes()["results"]
    eventually(lambda: not any(box["messages"] for box in wide.lab.mailboxes()["results"]))
    assert {box["user"] for box in boxes} == {"bounces", "complaints"}
    wide.wait_applied()
    counts = wide.statistics.counts()
    produced = {(one["kind"], one["recipient"]) for one in reports}
    assert counts["late_bounced"] + counts["complained"] == len(produced) == len(reports) - 1

    gone = {one["recipient"] for one in reports if one["status"] == "5.1.1"}
    unhappy = {one["recipient"] for one in reports if one["kind"] == "complained"}
    listed = {str(row[0]) for row in wide.query("SELECT recipient FROM stop_entry")}
    assert {bounced, complained} <= gone | unhappy <= listed
    for recipient in (bounced, complained):
        receipt = wide.api.accept({"from": "news@sender.test", "to": [recipient], "text": "x"})
        assert receipt["recipients"][0]["reason"] == "stopped"


def test_a_delivery_worker_killed_midway_loses_nothing_and_doubles_what_was_on_the_wire(
    wide: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = demonstrate(wide, KILLED_MESSAGES, with_kill=True)
    found, killed = verdict.reckoning, verdict.killed
    assert killed is not None
    assert killed.peers
    assert found.on_the_wire is not None
    assert found.total.duplicated <= found.on_the_wire
    assert wide.fleet.pids()[killed.name] != killed.pid
    with capsys.disabled():
        print(f"\n[{verdict.line}]")
