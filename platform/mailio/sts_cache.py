"""MTA-STS policies in force: looked up, fetched, kept, never forgotten too early.

Gives    StsCache (the port StsSource)
Takes    a resolver, a fetcher, the fleet's store, the clock
Raises   StoreUnavailable from `load` alone: a process that does not know what domains have asked
         for must not send. Later a store that is away changes nothing
Follows  RFC 8461 §3.1 (the record tells of a change), §3.3 (a failed fetch is not tried again at
         once), §5.1 (a policy stays in force until it expires, with or without record and file)

A domain without a record costs one question to DNS, which the resolver keeps; nothing is asked per
message. A new id is fetched while the mail waits; a policy that is merely old is fetched behind
its back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from mailcore.outcome import TlsResult
from mailcore.ports import Clock, DnsStatus, Resolver, StoreUnavailable, StsAnswer
from mailcore.security import StsError, StsPolicy, host_name, parse_sts_policy, parse_sts_record
from mailio.sts_fetch import FetchFailed

# How long an answer is given without a look at DNS, whose own cache comes behind.
ANSWER_S = 60.0
# RFC 8461 §3.3 asks for at most one try in five minutes.
FAILED_S = 300.0
# A policy is fetched again when it is a day old, or half of its life is over.
OLD_S = 86_400.0
READ_S = 30.0
FORGET_S = 3600.0
MOST_ANSWERS = 100_000
_Fetching = asyncio.Task[StsAnswer]

log = logging.getLogger(__name__)


class Fetcher(Protocol):
    """What fetches a policy file."""

    async def fetch(self, domain: str) -> bytes: ...


class Store(Protocol):
    """What keeps policies for the fleet."""

    def read(self, *, now_ms: int) -> list[StsPolicy]: ...

    def write(self, policy: StsPolicy) -> None: ...

    def forget(self, *, now_ms: int) -> None: ...


class StsCache:
    """Used on one loop; the store is asked on a thread."""

    def __init__(self, resolver: Resolver, fetcher: Fetcher, store: Store, clock: Clock) -> None:
        self._resolver = resolver
        self._fetcher = fetcher
        self._store = store
        self._clock = clock
        self._known: dict[str, StsPolicy] = {}
        self._answers: OrderedDict[str, tuple[float, StsAnswer]] = OrderedDict()
        self._failed: dict[tuple[str, str], tuple[float, StsAnswer]] = {}
        self._looking: dict[str, asyncio.Task[StsAnswer | _Fetching]] = {}
        self._fetching: dict[str, _Fetching] = {}
        self._behind: set[asyncio.Task[object]] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mta-sts")
        self._read_at = self._forgot_at = clock.monotonic()

    def load(self) -> None:
        """Read what the fleet knows; once, before anything is asked."""
        self._learn(self._store.read(now_ms=self._now_ms()))
        self._read_at = self._clock.monotonic()

    def close(self) -> None:
        """Let the thread go."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def policy(self, domain: str) -> StsAnswer:
        """Return the policy of a domain that is in force."""
        found = await self._asked(host_name(domain))
        return found if isinstance(found, StsAnswer) else await asyncio.shield(found)

    async def at_hand(self, domain: str) -> StsAnswer | None:
        """Return the policy of a domain, None while it is being fetched."""
        found = await self._asked(host_name(domain))
        return found if isinstance(found, StsAnswer) else None

    # -- looking

    async def _asked(self, domain: str) -> StsAnswer | _Fetching:
        now = self._clock.monotonic()
        if now - self._read_at > READ_S:
            self._read_at = now
            self._spawn(self._read())
        kept = self._answers.get(domain)
        if kept is not None and kept[0] > now:
            # Also a policy that is over by now: one with no life at all would be fetched each time.
            return kept[1]
        if domain in self._fetching:
            return self._fetching[domain]
        task = self._looking.get(domain)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._look(domain))
            self._looking[domain] = task
            task.add_done_callback(lambda _: self._looking.pop(domain, None))
        # It is looked for all who wait: one who is cancelled does not end it.
        return await asyncio.shield(task)

    async def _look(self, domain: str) -> StsAnswer | _Fetching:
        found = await self._found(domain)
        if isinstance(found, StsAnswer):
            self._keep(domain, found)
        return found

    def _keep(self, domain: str, answer: StsAnswer) -> None:
        self._answers[domain] = (self._clock.monotonic() + ANSWER_S, answer)
        self._answers.move_to_end(domain)
        while len(self._answers) > MOST_ANSWERS:
            self._answers.popitem(last=False)

    async def _found(self, domain: str) -> StsAnswer | _Fetching:
        record = await self._resolver.txt(f"_mta-sts.{domain}")
        policy_id = parse_sts_record(record.texts) if record.status is DnsStatus.OK else ""
        known = self._known.get(domain)
        if known is not None and not self._is_in_force(known):
            known = None
        if not policy_id:
            # §5.1: whoever takes the record away, or blocks the question, takes nothing back.
            return StsAnswer(known)
        failed = self._failed.get((domain, policy_id))
        has_failed = failed is not None and failed[0] > self._clock.monotonic()
        if known is not None and (known.policy_id == policy_id or has_failed):
            if self._is_old(known) and not has_failed:
                self._spawn(self._fetch(domain, policy_id, known))
            return StsAnswer(known)
        if failed is not None and has_failed:
            return failed[1]
        task = asyncio.get_running_loop().create_task(self._awaited(domain, policy_id, known))
        self._fetching[domain] = task
        task.add_done_callback(lambda _: self._fetching.pop(domain, None))
        return task

    async def _awaited(self, domain: str, policy_id: str, known: StsPolicy | None) -> StsAnswer:
        answer = await self._fetch(domain, policy_id, known)
        self._keep(domain, answer)
        return answer

    async def _fetch(self, domain: str, policy_id: str, known: StsPolicy | None) -> StsAnswer:
        """Fetch a policy; where that fails the one that is known stays."""
        try:
            body = await self._fetcher.fetch(domain)
            policy = parse_sts_policy(body, domain=domain, policy_id=policy_id)
        except FetchFailed as exc:
            return self._note_failed(domain, policy_id, known, exc.result, exc.reason)
        except StsError as exc:
            result = TlsResult.STS_INVALID
            return self._note_failed(domain, policy_id, known, result, str(exc))
        policy = replace(policy, expires_ms=self._now_ms() + policy.max_age_s * 1000)
        self._failed.pop((domain, policy_id), None)
        self._known[policy.domain] = policy
        self._answers.pop(policy.domain, None)
        self._spawn(self._write(policy))
        return StsAnswer(policy)

    def _note_failed(
        self,
        domain: str,
        policy_id: str,
        known: StsPolicy | None,
        result: TlsResult,
        reason: str,
    ) -> StsAnswer:
        log.warning("no MTA-STS policy", extra={"domain": domain, "reason": reason})
        answer = StsAnswer(None, result.value, reason)
        now = self._clock.monotonic()
        self._failed = {key: each for key, each in self._failed.items() if each[0] > now}
        self._failed[domain, policy_id] = (now + FAILED_S, answer)
        return StsAnswer(known) if known is not None else answer

    def _is_in_force(self, policy: StsPolicy) -> bool:
        return policy.expires_ms > self._now_ms()

    def _is_old(self, policy: StsPolicy) -> bool:
        left_s = (policy.expires_ms - self._now_ms()) / 1000
        return left_s < max(policy.max_age_s - OLD_S, policy.max_age_s / 2)

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)

    # -- the store

    def _learn(self, policies: Iterable[StsPolicy]) -> None:
        """Take over what the fleet knows, but for what was fetched later here."""
        for policy in policies:
            known = self._known.get(policy.domain)
            if known is None or known.fetched_ms <= policy.fetched_ms:
                self._known[policy.domain] = policy
                self._answers.pop(policy.domain, None)

    async def _read(self) -> None:
        """Learn what others of the fleet fetched; forget what is over."""
        loop, now_ms = asyncio.get_running_loop(), self._now_ms()
        try:
            reading = partial(self._store.read, now_ms=now_ms)
            self._learn(await loop.run_in_executor(self._thread, reading))
            if self._clock.monotonic() - self._forgot_at > FORGET_S:
                self._forgot_at = self._clock.monotonic()
                await loop.run_in_executor(self._thread, partial(self._store.forget, now_ms=now_ms))
        except StoreUnavailable as exc:
            log.info("MTA-STS policies not read", extra={"store": exc.store, "reason": exc.reason})
        self._known = {d: each for d, each in self._known.items() if each.expires_ms > now_ms}

    async def _write(self, policy: StsPolicy) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, self._store.write, policy)
        except StoreUnavailable as exc:
            # This process knows it all the same; it is fetched and written again within a day.
            log.warning("policy not kept", extra={"domain": policy.domain, "reason": exc.reason})

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)
