"""What was accepted may come back: reports in several hands, each counted where it is written."""

import asyncio
import email
import email.message
import email.policy
import json
import time
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from lab.client import LabClient, LabError
from lab.complaint import compose_complaint
from lab.dsn import MAX_RETURNED_BYTES, REASONS, Correspondence, compose_dsn
from lab.maildrop import ReportKind
from lab.manner import BounceStyle, Feedback
from lab.report import per_isp, table
from lab.run import Lab
from lab.tally import StoredMessage
from lab.world import World, default_world
from mailcore.classify.inbound import InboundKind, read_inbound
from mailcore.tokens import MessageToken, return_path_local_part, sign
from tests.io.lab.support import dialogue, running
from tests.io.lab.test_control import call

TOKEN = "X-Postfleet-Token: abc234\r\n"
CONTENT = (
    TOKEN + "From: News <news@sender.test>\r\nTo: <u@accepta.test>\r\n"
    "X-Lab-Id: %s\r\nSubject: hello\r\n\r\nBody for u@accepta.test.\r\n"
)
PATH = "b-abc234@bounces.sender.test"


def stored(content: bytes | None = None, **more: object) -> StoredMessage:
    message = StoredMessage(
        lab_id="one",
        provider="accepta",
        reverse_path=PATH,
        recipients=("u@accepta.test",),
        content=content or (CONTENT % "one").encode(),
        sha256="0",
        at=1_700_000_000.0,
        peer="127.0.100.1:4711",
    )
    return replace(message, **more)  # type: ignore[arg-type]


def about(message: StoredMessage) -> Correspondence:
    return Correspondence(message, "u@accepta.test", "mx1.accepta.test", 1_700_000_100.0)


def parse(octets: bytes) -> email.message.EmailMessage:
    """Parse and make sure that nothing is wrong with any part."""
    parsed = email.message_from_bytes(octets, policy=email.policy.SMTP)
    assert isinstance(parsed, email.message.EmailMessage)
    assert [part.defects for part in parsed.walk() if part.defects] == []
    assert b"\n" not in octets.replace(b"\r\n", b"")
    return parsed


def parts_of(octets: bytes) -> list[email.message.EmailMessage]:
    found = parse(octets).get_payload()
    assert isinstance(found, list)
    return [part for part in found if isinstance(part, email.message.EmailMessage)]


def status_of(octets: bytes) -> list[email.message.Message]:
    groups = parts_of(octets)[1].get_payload()
    assert isinstance(groups, list)
    return [group for group in groups if isinstance(group, email.message.Message)]


# ── the forms ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("style", BounceStyle)
def test_a_report_of_every_style_names_recipient_status_and_the_signed_path(
    style: BounceStyle,
) -> None:
    octets = compose_dsn(about(stored()), REASONS[1], style)
    report = parse(octets)
    assert report.get_content_type() == "multipart/report"
    assert report.get_param("report-type") == "delivery-status"
    assert report["To"] == report["Delivered-To"] == PATH
    assert report["Return-Path"] == "<>"
    assert report["Auto-Submitted"]
    per_message, per_recipient = status_of(octets)
    assert per_message["Reporting-MTA"].replace(" ", "") == "dns;mx1.accepta.test"
    assert per_recipient["Final-Recipient"].split(";")[1].strip() == "u@accepta.test"
    assert per_recipient["Action"] == "failed"
    assert per_recipient["Status"] == "5.2.2"
    assert "quota" in per_recipient["Diagnostic-Code"]
    assert TOKEN.strip().encode() in octets
    assert b"X-Lab-Id: one" in octets


def test_no_two_styles_are_alike() -> None:
    forms = set()
    for style in BounceStyle:
        octets = compose_dsn(about(stored()), REASONS[0], style)
        types = tuple(part.get_content_type() for part in parse(octets).walk())
        fields = tuple(name for group in status_of(octets) for name in group)
        forms.add((types, fields))
    assert len(forms) == len(BounceStyle)


def test_a_long_message_comes_back_as_its_header() -> None:
    content = (CONTENT % "one").encode() + b"filling\r\n" * (MAX_RETURNED_BYTES // 8)
    octets = compose_dsn(about(stored(content)), REASONS[0], BounceStyle.PLAIN)
    assert len(octets) < 5_000
    assert parts_of(octets)[2].get_content_type() == "text/rfc822-headers"
    assert TOKEN.strip().encode() in octets


def test_octets_beyond_ascii_are_declared_and_an_envelope_id_is_given_back() -> None:
    content = (CONTENT % "one").encode() + "Grüße\r\n".encode()
    octets = compose_dsn(about(stored(content, envid="e+2B1")), REASONS[0], BounceStyle.PLAIN)
    assert parse(octets)["Content-Transfer-Encoding"] == "8bit"
    assert status_of(octets)[0]["Original-Envelope-Id"] == "e+2B1"
    assert content in octets


@pytest.mark.parametrize("redacts", [False, True])
def test_a_complaint_gives_the_header_with_the_token_back(redacts: bool) -> None:
    octets = compose_complaint(about(stored()), to="complaints@sender.test", redacts=redacts)
    report = parse(octets)
    assert report.get_param("report-type") == "feedback-report"
    assert report["To"] == "complaints@sender.test"
    fields = email.message_from_bytes(
        octets.partition(b"message/feedback-report")[2].split(b"\r\n\r\n")[1]
    )
    assert fields["Feedback-Type"] == "abuse"
    assert fields["Version"] == "1"
    assert fields["Original-Mail-From"] == f"<{PATH}>"
    assert fields["Source-IP"] == "127.0.100.1"
    assert TOKEN.strip().encode() in octets
    assert (b"u@accepta.test" in octets) is not redacts
    assert (fields["Original-Rcpt-To"] is None) is redacts


# ── who gets one ──────────────────────────────────────────────────────────────────────────────


def reporting(feedback: Feedback) -> World:
    world = default_world()
    first, *others = world.providers
    return replace(world, providers=(replace(first, feedback=feedback), *others))


async def offer(lab: Lab, ids: list[str], *, reverse_path: str = PATH) -> None:
    async with dialogue(lab) as line:
        await line.begin()
        for one in ids:
            recipient = f"{one}@accepta.test"
            replies = await line.deliver(
                recipient, (CONTENT % one).encode(), reverse_path=reverse_path
            )
            assert replies[-1].startswith("250")


async def until_reported(lab: Lab) -> None:
    while lab.postmaster.due_count:
        await asyncio.sleep(0.005)


async def test_a_seeded_share_comes_back_once_and_is_listed_and_counted(tmp_path: Path) -> None:
    feedback = Feedback(0.2, 0.2, after_s=0.0, style=BounceStyle.OFFICE)
    ids = [f"m{number}" for number in range(100)]
    async with running(tmp_path, reporting(feedback)) as lab:
        await offer(lab, ids)
        await until_reported(lab)
        await offer(lab, ids)  # the copies of a sender that sends again
        await until_reported(lab)

        def look() -> None:
            client = LabClient(lab.http.port)
            late, complaints = list(client.late()), list(client.complaints())
            counts = client.counts()
            bounced = {(row["id"], row["recipient"]) for row in late}
            complained = {(row["id"], row["recipient"]) for row in complaints}
            assert 5 < len(bounced) == len(late) < 40
            assert 5 < len(complained) == len(complaints) < 40
            assert not bounced & complained
            assert {row["status"] for row in late} <= {reason.status for reason in REASONS}
            assert {row["status"] for row in complaints} == {None}
            assert counts["providers"]["accepta"]["late_bounced"] == len(late)
            assert counts["total"]["complained"] == len(complaints)
            assert counts["reports_due"] == 0
            boxes = {box["user"]: box["messages"] for box in client.mailboxes()["results"]}
            assert boxes == {"bounces": len(late), "complaints": len(complaints)}

        await asyncio.to_thread(look)
        for mail, row in zip(
            lab.drops["bounces"].listing(),
            lab.postmaster.reports(ReportKind.LATE_BOUNCED),
            strict=True,
        ):
            octets = lab.drops["bounces"].read(mail.uid)
            assert status_of(octets)[1]["Final-Recipient"] == f"rfc822;{row.recipient}"
            assert f"X-Lab-Id: {row.lab_id}\r\n".encode() in octets
        found = lab.postmaster.reports(ReportKind.LATE_BOUNCED)
    async with running(tmp_path, reporting(feedback)) as lab:  # the same after a restart
        assert lab.postmaster.reports(ReportKind.LATE_BOUNCED) == found
        await offer(lab, ids)
        assert lab.postmaster.due_count == 0


async def test_the_seed_decides_so_that_another_lab_reports_the_same(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        async with running(tmp_path / name, reporting(Feedback(0.3, 0.1, after_s=0.0))) as lab:
            await offer(lab, [f"m{number}" for number in range(30)])
            await until_reported(lab)
            rows = lab.postmaster.reports(ReportKind.LATE_BOUNCED)
            found.append(sorted((row.lab_id, row.status) for row in rows))
    assert found[0] == found[1] != []


async def test_reports_wait_their_time_and_none_is_lost_when_the_lab_stops(tmp_path: Path) -> None:
    async with running(tmp_path, reporting(Feedback(1.0, after_s=3600.0))) as lab:
        await offer(lab, ["m1", "m2"])
        assert lab.postmaster.due_count == 2
        assert len(lab.drops["bounces"]) == 0
    async with running(tmp_path, reporting(Feedback(1.0, after_s=3600.0))) as lab:
        assert len(lab.drops["bounces"]) == 2


async def test_nobody_bounces_to_the_null_path_or_to_who_asked_not_to(tmp_path: Path) -> None:
    async with running(tmp_path, reporting(Feedback(1.0, after_s=0.0))) as lab:
        await offer(lab, ["null"], reverse_path="")
        async with dialogue(lab) as line:
            await line.begin()
            await line.say("MAIL FROM:<a@sender.test>")
            await line.say("RCPT TO:<quiet@accepta.test> NOTIFY=NEVER")
            await line.say("RCPT TO:<loud@accepta.test> NOTIFY=FAILURE")
            await line.say("DATA")
            await line.send((CONTENT % "two").encode() + b".\r\n")
            await line.reply()
        await until_reported(lab)
        (row,) = lab.postmaster.reports(ReportKind.LATE_BOUNCED)
        assert row.recipient == "loud@accepta.test"


@pytest.mark.parametrize("redacts", [False, True])
@pytest.mark.parametrize("style", BounceStyle)
async def test_the_product_reads_of_every_report_which_message_it_is_about(
    tmp_path: Path, style: BounceStyle, redacts: bool
) -> None:
    ring = {0: b"k" * 32}
    names = [MessageToken(UUID(int=number), number) for number in range(12)]
    world = reporting(Feedback(0.5, 0.5, after_s=0.0, style=style, redacts=redacts))
    async with running(tmp_path, world) as lab:
        async with dialogue(lab) as line:
            await line.begin()
            for number, name in enumerate(names):
                content = (CONTENT % f"m{number}").replace("abc234", sign(name, ring=ring))
                path = f"{return_path_local_part(name, ring=ring)}@bounces.sender.test"
                await line.deliver(f"u{number}@accepta.test", content.encode(), reverse_path=path)
        await until_reported(lab)
        for drop, known in (("bounces", InboundKind.BOUNCE), ("complaints", InboundKind.COMPLAINT)):
            mails, reports = lab.drops[drop].listing(), lab.drops[drop].reports
            assert len(mails) == len(reports) > 0
            for mail, report in zip(mails, reports, strict=True):
                octets = lab.drops[drop].read(mail.uid)
                read = read_inbound(octets, ring=ring, headers=("X-Postfleet-Token",))
                assert (read.kind, read.token) == (known, names[int(report.lab_id[1:])])
                told = read.bounced(report.recipient)
                status = None if told is None else str(told.reply().enhanced)
                assert status == report.status


# ── the levers ────────────────────────────────────────────────────────────────────────────────


async def test_a_report_can_be_asked_for_and_counts_once_per_recipient(lab: Lab) -> None:
    await offer(lab, ["one"])
    client = LabClient(lab.http.port)

    def ask() -> None:
        began = time.time()
        row = client.bounce("one", "one@accepta.test")
        assert (row["kind"], row["id"], row["reverse_path"]) == ("late_bounced", "one", PATH)
        assert row["at"] >= began - 1
        client.bounce("one", "one@accepta.test")  # a report that comes twice
        assert client.complain("one", "one@accepta.test")["status"] is None
        assert len(list(client.late())) == 2
        total = client.counts()["total"]
        assert (total["late_bounced"], total["complained"]) == (1, 1)
        with pytest.raises(LabError, match=r"404 .*no stored copy"):
            client.bounce("other", "one@accepta.test")
        client.reset()
        assert list(client.late()) == list(client.complaints()) == []
        assert client.counts()["total"]["late_bounced"] == 0
        assert [box["messages"] for box in client.mailboxes()["results"]] == [0, 0]

    await asyncio.to_thread(ask)


@pytest.mark.parametrize(
    ("document", "status", "pointer"),
    [
        ({"id": "one"}, 422, "/recipient"),
        ({"recipient": "u@accepta.test"}, 422, "/id"),
        ({"id": "one", "recipient": "u@accepta.test", "why": "x"}, 422, "/why"),
        ({"id": "one", "recipient": "other@accepta.test"}, 404, "/id"),
        ({"id": "null", "recipient": "null@accepta.test"}, 422, "/recipient"),
    ],
)
async def test_a_report_that_cannot_be_is_refused_with_its_field(
    lab: Lab, document: dict[str, str], status: int, pointer: str
) -> None:
    await offer(lab, ["one"])
    await offer(lab, ["null"], reverse_path="")
    found, answer = await call(lab, "POST /late HTTP/1.1", json.dumps(document).encode())
    assert (found, json.loads(answer)["pointer"]) == (status, pointer)


async def test_a_lab_can_be_told_to_write_no_reports(tmp_path: Path) -> None:
    world = reporting(Feedback(1.0, after_s=0.0))
    async with Lab(world, tmp_path, writes_reports=False) as lab:
        await offer(lab, ["one"])
        assert lab.postmaster.due_count == 0


# ── the table ─────────────────────────────────────────────────────────────────────────────────


async def test_rows_per_isp_add_up_and_count_from_an_earlier_answer_on(tmp_path: Path) -> None:
    async with running(tmp_path, reporting(Feedback(0.5, 0.5, after_s=0.0))) as lab:
        client = LabClient(lab.http.port)
        await offer(lab, ["a0", "a1"])
        await until_reported(lab)
        before = await asyncio.to_thread(client.counts)
        await offer(lab, ["b0", "b1", "b2", "b0"])
        async with dialogue(lab, "greylisto") as line:
            await line.begin()
            await line.deliver("u@greylisto.test", (CONTENT % "g").encode())
        await until_reported(lab)
        now = await asyncio.to_thread(client.counts)
    offered = {"accepta": 3, "greylisto": 1}
    rows = per_isp(now, offered=offered, before=before)
    assert [row.name for row in rows] == ["accepta", "greylisto", "refusa", "total"]
    accepta, greylisto, _, total = rows
    assert (accepta.accepted, accepta.twice, accepta.unaccounted) == (3, 1, 0)
    assert accepta.late_bounced + accepta.complained == 3
    assert (greylisto.deferrals, greylisto.unaccounted) == (1, 1)
    for name in ("offered", "accepted", "twice", "deferrals", "late_bounced", "complained"):
        assert getattr(total, name) == sum(getattr(row, name) for row in rows[:-1])
    assert per_isp(now)[0].accepted == 5
    assert per_isp(now)[0].unaccounted is None
    last = table(now, offered=offered, before=before).splitlines()[-1].split()
    assert last[:4] == ["total", "4", "3", "1"]
