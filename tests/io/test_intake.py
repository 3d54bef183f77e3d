"""What intake acknowledged is in spool, ledger and outbox, once, whoever else offered meanwhile."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg2
import pytest
import redis

from mailcore.address import ForwardPath, ReversePath
from mailcore.envelope import ContentRef, Recipient, Submission
from mailcore.events import Event, decode_lines, recipient_hash
from mailcore.outcome import MailClass
from mailcore.ports import StoreUnavailable
from mailcore.submission import Plan, Rejected
from mailio.clock import LedgerClock
from mailio.intake import Answer, Intake, Receipt, Request, RequestKey
from mailio.ledger import schema
from mailio.ledger.accept import AcceptBatch, Acceptor, AcceptResult, AcceptStatus
from mailio.notices import RING_CHANNEL
from mailio.shelves import SegmentDirectory
from mailio.spool.segments import SegmentSpool
from mailio.wake import RedisWaker
from tests.support import stack

CONTENT = b"From: news@shop.test\r\n\r\nbody\r\n"


class Woken:
    """A Waker that counts."""

    def __init__(self) -> None:
        self.count = 0

    def wake(self) -> None:
        self.count += 1


@dataclass
class World:
    """An intake on real stores, and a look at what is in them."""

    url: str
    intake: Intake
    spool: SegmentSpool
    acceptor: Acceptor
    woken: Woken

    def query(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(self.url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(sql, params)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def events(self) -> list[Event]:
        bodies = self.query("SELECT body FROM ledger_outbox ORDER BY id")
        return [event for (body,) in bodies for event in decode_lines(bytes(body))]

    def rows(self) -> list[tuple[Any, ...]]:
        return self.query(
            "SELECT recipient, recipient_no, site, waiting > 0 FROM ledger_row r"
            " JOIN ledger_lane l ON l.id = r.lane_id ORDER BY r.id"
        )


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    url = stack.postgres_url()
    schema.migrate(url)
    yield url
    stack.drop_postgres(url)


@pytest.fixture
def world(database: str, tmp_path: Path) -> Iterator[World]:
    acceptor = Acceptor(database)
    with (
        contextlib.closing(acceptor),
        contextlib.closing(SegmentSpool(tmp_path, min_free_bytes=0)) as spool,
    ):
        woken = Woken()
        intake = Intake(acceptor, spool, clock=LedgerClock(), waker=woken)
        world = World(database, intake, spool, acceptor, woken)
        world.query(
            "TRUNCATE ledger_row, ledger_lane, ledger_outbox, ledger_idempotency, ledger_route,"
            " stop_entry, campaign"
        )
        yield world


def plan(
    *addresses: str, rejected: Sequence[Rejected] = (), content: bytes = CONTENT, **changes: Any
) -> Plan:
    taken = {r.number for r in rejected}
    numbers = [n for n in range(len(addresses) + len(rejected)) if n not in taken]
    submission = Submission(
        message_id=uuid4(),
        account_id=1,
        sender_id=2,
        mail_class=MailClass.MAIN,
        header_from="shop.test",
        reverse_path=ReversePath("news", "shop.test"),
        recipients=tuple(
            Recipient(number, ForwardPath.parse(address))
            for number, address in zip(numbers, addresses, strict=True)
        ),
        content=content,
        message_id_header="<1@shop.test>",
    )
    return Plan(replace(submission, **changes), tuple(rejected), 3600.0, 9)


def words(receipts: Sequence[Receipt]) -> str:
    return " ".join(
        f"{r.address}:{'yes' if r.is_accepted else 'no'}:{r.code}"
        for receipt in receipts
        for r in receipt.recipients
    )


def ids(receipts: Sequence[Receipt]) -> str:
    return ",".join(str(receipt.message_id) for receipt in receipts)


def request(*plans: Plan, key: RequestKey | None = None, answer: Any = words) -> Request:
    return Request(plans, key, answer)


def test_content_rows_and_events_are_there_when_submit_returns(world: World) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    answer = world.intake.submit(
        request(
            plan("a@x.test", "b@y.test", campaign="spring", custom={"order": "12"}),
            plan("c@x.test", content=b"second", mail_class=MailClass.PRIORITY, send_at=soon),
        )
    )
    assert answer == Answer(AcceptStatus.ACCEPTED, "a@x.test:yes: b@y.test:yes: c@x.test:yes:")
    rows = world.query(
        "SELECT r.recipient, content_segment, content_offset, content_length, content_crc, custom,"
        " l.mail_class, c.label, due_at > statement_timestamp(), reverse_path"
        " FROM ledger_row r JOIN ledger_lane l ON l.id = r.lane_id"
        " LEFT JOIN campaign c ON c.id = l.campaign_id ORDER BY r.id"
    )
    contents = world.spool.read_now([ContentRef(*row[1:5]) for row in rows])
    assert contents == [CONTENT, CONTENT, b"second"]
    assert [row[:1] + row[5:] for row in rows] == [
        ("a@x.test", '{"order":"12"}', 1, "spring", False, "news@shop.test"),
        ("b@y.test", '{"order":"12"}', 1, "spring", False, "news@shop.test"),
        ("c@x.test", "", 0, None, True, "news@shop.test"),
    ]
    events = world.events()
    assert [(e.kind, e.recipient, e.campaign) for e in events] == [
        ("accepted", "a@x.test", "spring"),
        ("accepted", "b@y.test", "spring"),
        ("accepted", "c@x.test", ""),
    ]
    first = events[0]
    assert first.recipient_hash == recipient_hash("a@x.test")
    assert (first.size_bytes, first.policy_revision, first.custom) == (
        len(CONTENT),
        9,
        '{"order":"12"}',
    )
    assert abs(first.occurred_ms - datetime.now(UTC).timestamp() * 1000) < 60_000
    assert len({e.event_id for e in events}) == 3
    assert world.woken.count == 1


def test_a_stopped_recipient_is_accepted_then_stopped_and_has_no_row(world: World) -> None:
    world.query(
        "INSERT INTO stop_entry (account_id, recipient_hash, recipient, reason, detail)"
        " VALUES (1, %s, 'B@x.test', 'complaint', 'fbl'), (2, %s, 'a@x.test', 'manual', '')",
        recipient_hash("b@x.test"),
        recipient_hash("a@x.test"),
    )
    answer = world.intake.submit(request(plan("a@x.test", "B@x.test")))
    assert answer.text == "a@x.test:yes: B@x.test:yes:stopped"
    assert [row[0] for row in world.rows()] == ["a@x.test"]
    assert [(e.kind, e.recipient, e.rule, e.reply) for e in world.events()] == [
        ("accepted", "a@x.test", "", ""),
        ("accepted", "B@x.test", "", ""),
        ("stopped", "B@x.test", "complaint", "fbl"),
    ]


def test_a_message_whose_recipients_are_all_stopped_owes_nothing(world: World) -> None:
    world.query(
        "INSERT INTO stop_entry (recipient_hash, recipient, reason) VALUES (%s, 'a', 'manual')",
        recipient_hash("a@x.test"),
    )
    assert world.intake.submit(request(plan("a@x.test"))).text == "a@x.test:yes:stopped"
    assert world.rows() == []
    assert [e.kind for e in world.events()] == ["accepted", "stopped"]


def test_a_rejected_recipient_is_told_in_its_place_and_is_an_event_alone(world: World) -> None:
    rejected = [Rejected(0, "nobody", "malformed_address", "the address has no @")]
    answer = world.intake.submit(request(plan("a@x.test", rejected=rejected)))
    assert answer.text == "nobody:no:malformed_address a@x.test:yes:"
    assert [row[:2] for row in world.rows()] == [("a@x.test", 1)]
    assert [(e.kind, e.recipient, e.recipient_no, e.rule) for e in world.events()] == [
        ("accepted", "a@x.test", 1, ""),
        ("rejected", "nobody", 0, "malformed_address"),
    ]


def test_known_domains_are_routed_at_the_door(world: World) -> None:
    world.query(
        "INSERT INTO ledger_route VALUES ('x.test', 'mx.x.test', 3, now() + interval '1 hour'),"
        " ('z.test', 'mx.z.test', 0, now() - interval '1 hour')"
    )
    world.intake.submit(request(plan("a@x.test", "b@y.test", "c@z.test")))
    assert [(row[0], row[2]) for row in world.rows()] == [
        ("a@x.test", "mx.x.test"),
        ("b@y.test", ""),
        ("c@z.test", ""),
    ]
    assert [(e.site, e.isp_id) for e in world.events()] == [("mx.x.test", 3), ("", 0), ("", 0)]


def test_a_key_used_again_gives_the_stored_answer_and_accepts_nothing(world: World) -> None:
    key = RequestKey(1, "k", b"hash")
    assert world.intake.find(key) is None
    first = world.intake.submit(request(plan("a@x.test"), key=key, answer=ids))
    again = world.intake.submit(request(plan("a@x.test"), key=key, answer=ids))
    assert first.status is AcceptStatus.ACCEPTED
    assert again == Answer(AcceptStatus.REPEATED, first.text) == world.intake.find(key)
    other = RequestKey(1, "k", b"other")
    reused = world.intake.submit(request(plan("b@x.test"), key=other, answer=ids))
    assert reused.status is AcceptStatus.REUSED
    assert world.intake.find(other) == Answer(AcceptStatus.REUSED, "")
    assert world.intake.find(RequestKey(2, "k", b"hash")) is None
    assert len(world.rows()) == len(world.events()) == 1


def test_one_of_many_with_the_same_key_wins_and_all_get_its_answer(world: World) -> None:
    key = RequestKey(1, "race", b"hash")
    answers: list[Answer] = []
    start = threading.Barrier(12)

    def submit(number: int) -> None:
        offered = request(
            plan("a@x.test", "b@x.test"),
            key=key if number < 8 else None,
            answer=ids,
        )
        start.wait(60)
        answers.append(world.intake.submit(offered))

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = [answer.status for answer in answers]
    assert statuses.count(AcceptStatus.REPEATED) == 7
    assert statuses.count(AcceptStatus.ACCEPTED) == 5
    found = world.intake.find(key)
    assert found is not None
    assert sum(answer.text == found.text for answer in answers) == 8
    assert len(world.rows()) == 10


def test_many_threads_each_get_their_own_answer(world: World) -> None:
    texts: dict[int, str] = {}

    def submit(number: int) -> None:
        for turn in range(5):
            plans = [plan(f"u{number}-{turn}-{n}@x.test") for n in range(number % 3 + 1)]
            texts[number * 10 + turn] = world.intake.submit(request(*plans)).text

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(10):
        for turn in range(5):
            told = [f"u{number}-{turn}-{n}@x.test:yes:" for n in range(number % 3 + 1)]
            assert texts[number * 10 + turn] == " ".join(told)
    assert len(world.rows()) == len(world.events()) == sum(n % 3 + 1 for n in range(10)) * 5
    waiting = world.query("SELECT sum(waiting) FROM ledger_lane")
    assert waiting == [(len(world.rows()),)]


def test_nothing_is_accepted_when_the_spool_is_full(world: World, tmp_path: Path) -> None:
    full = SegmentSpool(tmp_path / "full", min_free_bytes=2**62)
    intake = Intake(world.acceptor, full, clock=LedgerClock(), waker=world.woken)
    with contextlib.closing(full), pytest.raises(StoreUnavailable, match="disk"):
        intake.submit(request(plan("a@x.test"), key=RequestKey(1, "k", b"h")))
    assert world.rows() == []
    assert world.events() == []
    assert world.intake.find(RequestKey(1, "k", b"h")) is None


def test_nothing_is_accepted_while_the_database_is_away(world: World) -> None:
    away = Acceptor("postgresql://nobody@127.0.0.1:9/none", resolve_s=0.1)
    intake = Intake(away, world.spool, clock=LedgerClock(), waker=world.woken)
    with contextlib.closing(away), pytest.raises(StoreUnavailable):
        intake.submit(request(plan("a@x.test")))
    assert world.woken.count == 0


def test_the_ringer_hears_of_accepted_mail() -> None:
    url = stack.redis_url()
    with (
        redis.Redis.from_url(url) as client,
        client.pubsub(ignore_subscribe_messages=True) as channel,
    ):
        channel.subscribe(RING_CHANNEL)
        channel.get_message(timeout=5)
        waker = RedisWaker(url)
        waker.wake()
        message = None
        while message is None:
            message = channel.get_message(timeout=10)
        assert message["data"] == b"accepted"
        waker.close()


def test_a_redis_that_is_away_holds_nobody_up() -> None:
    waker = RedisWaker("redis://127.0.0.1:9/0")
    for _ in range(1000):
        waker.wake()
    waker.close()
    assert [one for one in threading.enumerate() if one.name == "wake"] == []


def test_message_ids_are_kept_as_they_were_planned(world: World) -> None:
    offered = plan("a@x.test")
    answer = world.intake.submit(request(offered, answer=ids))
    assert UUID(answer.text) == offered.submission.message_id
    assert world.query("SELECT message_id::text FROM ledger_row") == [(answer.text,)]


def test_content_whose_rows_are_under_way_is_not_deleted_however_long_that_takes(
    world: World, tmp_path: Path
) -> None:
    class Stopped(Acceptor):
        """Between content and rows the process is stopped for an hour, and another one sweeps."""

        def accept(self, batch: AcceptBatch) -> AcceptResult:
            world.spool.seal()
            with contextlib.closing(SegmentDirectory(tmp_path)) as shelf:
                shelf.delete([info.number for info in shelf.inventory().segments])
            return super().accept(batch)

    with contextlib.closing(Stopped(world.url)) as acceptor:
        intake = Intake(acceptor, world.spool, clock=LedgerClock(), waker=world.woken)
        assert intake.submit(request(plan("ann@a.test"))).status is AcceptStatus.ACCEPTED
    ((segment, offset, length, crc),) = world.query(
        "SELECT content_segment, content_offset, content_length, content_crc FROM ledger_row"
    )
    assert world.spool.read_now([ContentRef(segment, offset, length, crc)]) == [CONTENT]


def test_requests_gathered_by_one_thread_share_a_commit_and_not_their_fate(world: World) -> None:
    key = RequestKey(1, "k", b"body")
    world.intake.submit(request(plan("a@x.test"), key=RequestKey(1, "used", b"1"), answer=ids))
    before = world.woken.count
    first, second = plan("b@x.test"), plan("c@x.test")
    answers = world.intake.submit_all(
        [
            request(first, key=key, answer=ids),
            request(plan("d@x.test"), key=key, answer=ids),
            request(plan("e@x.test"), key=RequestKey(1, "used", b"2"), answer=ids),
            request(second, answer=ids),
        ]
    )
    assert answers == [
        Answer(AcceptStatus.ACCEPTED, str(first.submission.message_id)),
        Answer(AcceptStatus.REPEATED, str(first.submission.message_id)),
        Answer(AcceptStatus.REUSED, answers[2].text),
        Answer(AcceptStatus.ACCEPTED, str(second.submission.message_id)),
    ]
    assert world.woken.count == before + 1
    assert [row[0] for row in world.rows()] == ["a@x.test", "b@x.test", "c@x.test"]
    assert world.intake.submit_all([]) == []
