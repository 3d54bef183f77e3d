"""MTA-STS policies: fetched over verified TLS, kept until they expire, shared, never downgraded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailcore.outcome import TlsResult
from mailcore.ports import AddressAnswer, DnsStatus, StoreUnavailable
from mailcore.security import StsAnswer, StsMode, StsPolicy
from mailio.dns import CacheLimits, DnsResolver
from mailio.ledger import schema
from mailio.ledger.sts import PgStsPolicies
from mailio.sts_cache import FAILED_S, READ_S, StsCache
from mailio.sts_fetch import PATH, FetchFailed, StsFetcher
from tests.support.certificates import DAY, Authority, Shown, self_signed
from tests.support.dns_peer import NameServer, answering
from tests.support.fake_sources import TableResolver
from tests.support.https_peer import Web, page, serving_https
from tests.support.stack import drop_postgres, postgres_url

BODY = b"version: STSv1\r\nmode: enforce\r\nmx: mx.peer.test\r\nmax_age: 604800\r\n"
NO_CACHE = CacheLimits(floor_s=0.0, ceiling_s=0.0, negative_ceiling_s=0.0, temporary_s=0.0)
# The test's own patience with a server that never answers.
SOON_S = 0.5


class SetClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def now(self) -> datetime:
        return datetime(2026, 6, 1, tzinfo=UTC) + timedelta(seconds=self.passed_s)

    def monotonic(self) -> float:
        return self.passed_s


@dataclass
class MemoryStore:
    """The fleet's store."""

    kept: dict[str, StsPolicy] = field(default_factory=dict)
    is_away: bool = False

    def read(self, *, now_ms: int) -> list[StsPolicy]:
        if self.is_away:
            raise StoreUnavailable("postgresql", "away")
        return list(self.kept.values())

    def write(self, policy: StsPolicy) -> None:
        if self.is_away:
            raise StoreUnavailable("postgresql", "away")
        known = self.kept.get(policy.domain)
        if known is None or known.fetched_ms <= policy.fetched_ms:
            self.kept[policy.domain] = policy

    def forget(self, *, now_ms: int) -> None:
        return


@dataclass
class Place:
    """A domain with its record and its policy host, and we who ask."""

    records: dict[str, list[str]]
    names: NameServer
    web: Web
    clock: SetClock
    store: MemoryStore
    start: Callable[[], StsCache]
    cache: StsCache

    async def ask(self) -> StsAnswer:
        """Ask again a while later, so that nothing comes from memory alone."""
        self.clock.passed_s += 61
        answer = await self.cache.policy("peer.test")
        for task in list(self.cache._behind):
            await task
        return answer

    def publish(self, policy_id: str, body: bytes) -> None:
        self.records["TXT _mta-sts.peer.test"] = [f'"v=STSv1; " "id={policy_id};"']
        self.web.answer = page(body)


@pytest.fixture(scope="module")
def root() -> Authority:
    return Authority.root()


@asynccontextmanager
async def place(
    root: Authority, directory: Path, shown: Shown | None = None
) -> AsyncIterator[Place]:
    shown = shown or root.issue("mta-sts.peer.test")
    records = {
        "TXT _mta-sts.peer.test": ['"v=STSv1; id=1;"'],
        "A mta-sts.peer.test": ["127.0.0.1"],
    }
    web, clock, store = Web(page(BODY)), SetClock(), MemoryStore()
    async with (
        answering(NameServer(records)) as names,
        serving_https(web, shown.context(directory)),
    ):
        resolver = DnsResolver(("127.0.0.1", names.port), limits=NO_CACHE, confine_to_loopback=True)
        ca_file = root.ca_file(directory)

        def start() -> StsCache:
            fetcher = StsFetcher(resolver, ca_file=ca_file, port=web.port, deadline_s=SOON_S)
            cache = StsCache(resolver, fetcher, store, clock)
            cache.load()
            return cache

        cache = start()
        yield Place(records, names, web, clock, store, start, cache)
        cache.close()


# --- fetching -------------------------------------------------------------------------------------


async def test_a_policy_is_fetched_kept_and_asked_for_once(root: Authority, tmp_path: Path) -> None:
    async with place(root, tmp_path) as it:
        for _ in range(3):
            answer = await it.ask()
            assert answer.policy is not None
            assert (answer.policy.mode, answer.policy.mx) == (StsMode.ENFORCE, ("mx.peer.test",))
        assert it.web.asked == [f"GET {PATH} mta-sts.peer.test"]
        assert it.store.kept["peer.test"].policy_id == "1"


async def test_a_domain_without_a_record_costs_one_question(
    root: Authority, tmp_path: Path
) -> None:
    async with place(root, tmp_path) as it:
        assert await it.cache.policy("other.test") == StsAnswer()
        assert await it.cache.policy("other.test") == StsAnswer()
        assert it.names.asked == {"TXT _mta-sts.other.test": 1}
        assert it.web.asked == []


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (page(BODY, status="404 Not Found"), TlsResult.STS_FETCH_ERROR),
        (
            page(BODY, status="301 Moved\r\nLocation: https://mta-sts.peer.test/x"),
            TlsResult.STS_FETCH_ERROR,
        ),
        (page(BODY, kind="text/html"), TlsResult.STS_FETCH_ERROR),
        (page(BODY)[:-9], TlsResult.STS_FETCH_ERROR),
        (b"no http at all\r\n\r\n", TlsResult.STS_FETCH_ERROR),
        (None, TlsResult.STS_FETCH_ERROR),
        (page(BODY + b"x: " + b"y" * 65536), TlsResult.STS_INVALID),
        (page(b"version: STSv1\nmode: enforce\n"), TlsResult.STS_INVALID),
    ],
    ids=["404", "redirect", "html", "short", "no http", "silent", "large", "no policy"],
)
async def test_what_is_no_policy_is_none_and_is_not_asked_for_at_once_again(
    answer: bytes | None, result: TlsResult, root: Authority, tmp_path: Path
) -> None:
    async with place(root, tmp_path) as it:
        it.web.answer = answer
        for _ in range(3):
            assert (await it.ask()).result == result.value
        assert len(it.web.asked) == 1
        it.clock.passed_s += FAILED_S
        it.web.answer = page(BODY)
        assert (await it.ask()).policy is not None


@pytest.mark.parametrize("kind", ["expired", "self-signed", "wrong name", "only a subject"])
async def test_a_policy_host_that_is_not_proven_gives_no_policy(
    kind: str, root: Authority, tmp_path: Path
) -> None:
    host = "mta-sts.peer.test"
    shown = {
        "expired": root.issue(host, ends=-DAY),
        "self-signed": self_signed(host),
        "wrong name": root.issue("peer.test"),
        "only a subject": root.issue(common=host),
    }[kind]
    async with place(root, tmp_path, shown) as it:
        answer = await it.ask()
        assert (answer.policy, answer.result) == (None, "sts-webpki-invalid")
        assert it.web.asked == []


async def test_an_answer_in_chunks_is_read(root: Authority, tmp_path: Path) -> None:
    async with place(root, tmp_path) as it:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n"
        chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
        it.web.answer = head + chunked
        assert (await it.ask()).policy is not None


async def test_lab_mode_fetches_nothing_from_beyond_loopback(
    root: Authority, tmp_path: Path
) -> None:
    async with place(root, tmp_path) as it:
        it.records["A mta-sts.peer.test"] = ["192.0.2.1"]
        answer = await it.ask()
        assert (answer.result, "loopback" in answer.detail) == ("sts-policy-fetch-error", True)


async def test_a_host_that_is_not_there_is_named(root: Authority, tmp_path: Path) -> None:
    async with place(root, tmp_path) as it:
        fetcher = StsFetcher(it.cache._resolver, ca_file=root.ca_file(tmp_path), port=1)
        with pytest.raises(FetchFailed, match=r"mta-sts.peer.test at 127.0.0.1"):
            await fetcher.fetch("peer.test")


async def test_an_address_that_is_dead_leaves_time_for_the_next(
    root: Authority, tmp_path: Path
) -> None:
    web = Web(page(BODY))
    async with serving_https(web, root.issue("mta-sts.peer.test").context(tmp_path)):
        # It takes the connection and never speaks TLS.
        mute = await asyncio.start_server(_listen, "127.0.0.2", web.port)
        found = AddressAnswer(DnsStatus.OK, ("127.0.0.2", "127.0.0.1"))
        resolver = TableResolver(hosts={"mta-sts.peer.test": found})
        ca_file = root.ca_file(tmp_path)
        fetcher = StsFetcher(resolver, ca_file=ca_file, port=web.port, deadline_s=2 * SOON_S)
        assert await fetcher.fetch("peer.test") == BODY
        mute.close()


async def _listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def test_an_answer_counts_although_the_server_does_not_say_goodbye(
    root: Authority, tmp_path: Path
) -> None:
    async with place(root, tmp_path) as it:
        it.web.is_deaf = True
        assert (await it.ask()).policy is not None


async def test_who_does_not_wait_is_told_nothing_while_a_policy_is_fetched(
    root: Authority, tmp_path: Path
) -> None:
    async with place(root, tmp_path) as it:
        assert await it.cache.at_hand("peer.test") is None
        waiting = asyncio.ensure_future(it.cache.policy("peer.test"))
        assert await it.cache.at_hand("peer.test") is None
        answer = await waiting
        assert answer.policy is not None
        assert await it.cache.at_hand("peer.test") == answer
        assert await it.cache.at_hand("nothing.test") == StsAnswer()
        assert len(it.web.asked) == 1


async def test_a_policy_without_a_life_is_not_fetched_for_each_question(
    root: Authority, tmp_path: Path
) -> None:
    async with place(root, tmp_path) as it:
        it.publish("1", BODY.replace(b"604800", b"0"))
        for _ in range(3):
            assert (await it.cache.policy("peer.test")).policy is not None
        await it.ask()
        assert len(it.web.asked) == 2


# --- downgrades -----------------------------------------------------------------------------------


async def test_a_policy_outlives_its_record_its_host_and_a_restart(
    root: Authority, tmp_path: Path
) -> None:
    async with place(root, tmp_path) as it:
        first = (await it.ask()).policy
        del it.records["TXT _mta-sts.peer.test"]
        assert (await it.ask()).policy == first
        it.names.silent.add("_mta-sts.peer.test")
        it.cache._resolver.adjust(timeout_s=0.05, ceiling_s=0.0)  # type: ignore[attr-defined]
        assert (await it.ask()).policy == first
        it.cache = it.start()
        assert (await it.ask()).policy == first
        it.clock.passed_s += 604_800
        assert await it.ask() == StsAnswer()


async def test_a_new_id_is_fetched_and_one_that_cannot_be_had_changes_nothing(
    root: Authority, tmp_path: Path
) -> None:
    async with place(root, tmp_path) as it:
        first = (await it.ask()).policy
        it.publish("2", b"nonsense")
        assert (await it.ask()).policy == first
        it.publish("3", BODY.replace(b"enforce", b"none"))
        answer = await it.ask()
        assert answer.policy is not None
        assert (answer.policy.policy_id, answer.policy.mode) == ("3", StsMode.NONE)


async def test_an_old_policy_is_fetched_behind_the_mails_back(
    root: Authority, tmp_path: Path
) -> None:
    async with place(root, tmp_path) as it:
        first = (await it.ask()).policy
        assert first is not None
        it.clock.passed_s += 90_000
        assert (await it.ask()).policy == first
        again = (await it.ask()).policy
        assert again is not None
        assert again.expires_ms > first.expires_ms
        assert len(it.web.asked) == 2


async def test_what_is_fetched_again_is_the_domains_word_however_short_its_life(
    root: Authority, tmp_path: Path
) -> None:
    async with place(root, tmp_path) as it:
        await it.ask()
        it.clock.passed_s += 90_000
        it.publish("1", BODY.replace(b"mx.peer", b"new.peer").replace(b"604800", b"86400"))
        await it.ask()
        assert (await it.ask()).policy == it.store.kept["peer.test"]
        assert it.store.kept["peer.test"].mx == ("new.peer.test",)
        assert len(it.web.asked) == 2


async def test_an_old_row_of_the_store_takes_the_place_of_nothing_newer(
    root: Authority, tmp_path: Path
) -> None:
    async with place(root, tmp_path) as it:
        await it.ask()
        it.store.is_away = True
        it.publish("2", BODY.replace(b"604800", b"86400"))
        newer = (await it.ask()).policy
        it.store.is_away = False
        assert it.store.kept["peer.test"] != newer
        del it.records["TXT _mta-sts.peer.test"]
        for _ in range(2):
            assert (await it.ask()).policy == newer


async def test_what_one_process_fetched_the_others_learn(root: Authority, tmp_path: Path) -> None:
    async with place(root, tmp_path) as it:
        other = it.start()
        first = (await it.ask()).policy
        del it.records["TXT _mta-sts.peer.test"]
        it.clock.passed_s += READ_S
        await other.policy("else.test")
        for task in list(other._behind):
            await task
        assert (await other.policy("peer.test")).policy == first
        other.close()


async def test_a_store_that_is_away_stops_a_start_and_nothing_else(
    root: Authority, tmp_path: Path
) -> None:
    async with place(root, tmp_path) as it:
        it.store.is_away = True
        assert (await it.ask()).policy is not None
        with pytest.raises(StoreUnavailable):
            it.start()


def test_the_fleets_store_keeps_a_policy_until_it_expires() -> None:
    url = postgres_url()
    try:
        schema.migrate(url)
        store, other = PgStsPolicies(url), PgStsPolicies(url)
        lines = tuple(BODY.decode().split("\r\n")[:-1])
        policy = StsPolicy(
            *("peer.test", "1", StsMode.ENFORCE, ("mx.peer.test",), 604800, 5_000, lines)
        )
        store.write(policy)
        assert other.read(now_ms=4_000) == [policy]
        newer = replace(policy, expires_ms=9_000)
        store.write(newer)
        store.write(policy)
        assert other.read(now_ms=4_000) == [newer]
        # Fetched later, to live for less: its domain's last word.
        lines = tuple(line.replace("604800", "604797") for line in lines)
        shorter = replace(newer, max_age_s=604_797, expires_ms=8_000, body=lines)
        store.write(shorter)
        store.write(replace(policy, policy_id="0"))
        assert other.read(now_ms=4_000) == [shorter]
        fresh = PgStsPolicies(url)
        assert fresh.read(now_ms=9_000) == []
        store.forget(now_ms=9_001)
        assert fresh.read(now_ms=0) == []
        for each in (store, other, fresh):
            each.close()
    finally:
        drop_postgres(url)
