"""Offer mail for as long as it takes, as a careful program does: what got no answer is offered
again, under the same key, until there is one.

Gives    Offering: start(), stop(), settle(); what was accepted, and what was refused
Takes    the API's address and token; the lab's world; how many messages a second
Raises   nothing: what the API did not take for another reason than being busy is in `refused`
"""

from __future__ import annotations

import hashlib
import http.client
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from control.management.fleet.reckoning import Offered
from lab.load import LoadMessage, LoadPlan, build_messages, payload_of
from lab.world import World

BATCH = 10
CONNECTIONS = 2
ANSWER_S = 30.0
PAUSE_S = 0.2
_AGAIN = frozenset({429, 500, 502, 503, 504})


@dataclass(slots=True)
class Told:
    """What the API said: who was accepted, what was refused for good, and each status."""

    accepted: dict[str, Offered] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)


class Offering:
    """Threads that offer, each one batch at a time."""

    def __init__(
        self, url: str, token: str, world: World, *, run: str, campaign: str, per_s: float
    ) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port
        self._path = f"{parts.path}/messages"
        self._token = token
        self._world = world
        self._plan = LoadPlan(count=10_000_000, run=run, campaign=campaign)
        self._messages = build_messages(self._plan, world)
        self._every_s = BATCH * CONNECTIONS / per_s
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._giving_up = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"offering {number}", daemon=True)
            for number in range(CONNECTIONS)
        ]
        self.told = Told()

    @property
    def recipient_prefix(self) -> str:
        """What every recipient begins with."""
        return self._plan.recipient_prefix

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin no new batch."""
        self._stopping.set()

    def settle(self, within_s: float) -> bool:
        """Wait until every batch that was begun has its answer; return whether all have."""
        deadline = time.monotonic() + within_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._giving_up.set()
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while not self._stopping.wait(self._every_s):
            with self._lock:
                messages = list(islice(self._messages, BATCH))
            self._offer(messages)

    def _offer(self, messages: list[LoadMessage]) -> None:
        documents = [payload_of(one, campaign=self._plan.campaign) for one in messages]
        body = json.dumps({"messages": documents}).encode()
        offered_at = time.time()
        while not self._giving_up.is_set():
            status, answer = self._post(body)
            self.told.statuses[status] += 1
            if status == "202":
                self._note(messages, answer, offered_at)
                return
            if status.isdigit() and int(status) not in _AGAIN:
                self.told.refused.append(f"{status} {json.dumps(answer)[:300]}")
                return
            self._giving_up.wait(PAUSE_S)

    def _post(self, body: bytes) -> tuple[str, dict[str, Any]]:
        """Return the status and the answer, or the name of what happened to the line."""
        line = http.client.HTTPConnection(self._host, self._port, timeout=ANSWER_S)
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/json",
            "Idempotency-Key": hashlib.sha256(body).hexdigest()[:32],
        }
        try:
            line.request("POST", self._path, body, headers)
            answer = line.getresponse()
            found = json.loads(answer.read() or b"{}")
            return str(answer.status), found if isinstance(found, dict) else {"results": found}
        except (OSError, http.client.HTTPException, ValueError) as exc:
            return type(exc).__name__, {}
        finally:
            line.close()

    def _note(self, messages: list[LoadMessage], answer: dict[str, Any], at: float) -> None:
        isps = {one.recipient: self._world.provider(one.provider).title for one in messages}
        for result in answer["results"]:
            for one in result.get("recipients", ()):
                if one["accepted"]:
                    self.told.accepted[one["recipient"]] = Offered(isps[one["recipient"]], at)
                else:
                    self.told.refused.append(json.dumps(one)[:300])
