"""Offer mail to the product's HTTP API, as a program of a customer would.

Gives    LoadPlan, LoadMessage, Batch; build_messages() and payload_of(), pure; send(); a command:
         `POSTFLEET_TOKEN=… python -m lab.load --url http://127.0.0.1:8000 --count 500`
Takes    a world (shares and domains), an address, an API token
Raises   LoadError when the API cannot be reached or does not take a batch, with its answer
Follows  design.md section 9 (shape of the v2 API)
"""

import argparse
import hashlib
import http.client
import json
import os
import random
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from lab.world import WORLDS, World

PATH = "/api/v2/messages"
TIMEOUT_S = 60.0
MAX_TRIES = 5
MAX_PAUSE_S = 5.0
_TRY_AGAIN = frozenset({429, 502, 503, 504})
_WORDS = ("a", "letter", "of", "news", "about", "prices", "plans", "and", "people", "to", "read")


class LoadError(Exception):
    """The API did not take the load."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to offer. `run` begins every id, so that two runs never share one."""

    count: int
    run: str
    from_address: str = "news@sender.test"
    campaign: str = "lab"
    size_bytes: int = 2_000
    seed: int = 1
    batch_size: int = 100
    connections: int = 4

    @property
    def recipient_prefix(self) -> str:
        """What every recipient of this run begins with, and of no other run."""
        return f"reader.{self.run}-"

    def __post_init__(self) -> None:
        for name in ("count", "size_bytes", "batch_size", "connections"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class LoadMessage:
    """One message to one recipient."""

    lab_id: str
    provider: str
    from_address: str
    recipient: str
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What the API answered to a list of messages."""

    messages: tuple[LoadMessage, ...]
    status: int
    answer: dict[str, Any]
    offered_at: float  # when it was first offered, as time.time() tells
    seconds: float


def build_messages(plan: LoadPlan, world: World) -> Iterator[LoadMessage]:
    """Yield the messages of a plan: providers by share, domains by weight, no recipient twice."""
    draw = random.Random(f"{plan.seed} {plan.run}")
    providers = world.providers
    shares = [provider.share for provider in providers]
    for number in range(plan.count):
        provider = draw.choices(providers, shares)[0]
        weights = [domain.weight for domain in provider.domains]
        domain = draw.choices(provider.domains, weights)[0]
        lab_id = f"{plan.run}-{number:07d}"
        yield LoadMessage(
            lab_id=lab_id,
            provider=provider.key,
            from_address=plan.from_address,
            recipient=f"{plan.recipient_prefix}{number:07d}@{domain.name}",
            subject=f"News number {number}",
            text=_text(draw, plan.size_bytes),
        )


def payload_of(message: LoadMessage, *, campaign: str) -> dict[str, Any]:
    """Return a message as the API takes it."""
    return {
        "from": message.from_address,
        "to": [message.recipient],
        "subject": message.subject,
        "text": message.text,
        "headers": {"X-Lab-Id": message.lab_id},
        "campaign": campaign,
    }


def send(plan: LoadPlan, world: World, *, url: str, token: str) -> Iterator[Batch]:
    """Offer all messages of a plan, in batches over a few connections; yield answers as they come.

    A batch that met 429, 502, 503 or 504 is offered again under the same idempotency key.
    """
    messages = build_messages(plan, world)
    client = _Client(url, token)
    stop = threading.Event()
    try:
        with ThreadPoolExecutor(plan.connections) as pool:
            try:
                while wave := list(islice(messages, plan.batch_size * plan.connections * 4)):
                    starts = range(0, len(wave), plan.batch_size)
                    batches = [wave[at : at + plan.batch_size] for at in starts]
                    yield from pool.map(lambda one: client.post(plan, one, stop), batches)
            finally:
                stop.set()  # before the pool waits for its threads
    finally:
        client.close()


def _text(draw: random.Random, size_bytes: int) -> str:
    lines: list[str] = []
    left = size_bytes
    while left > 0:
        line = " ".join(draw.choices(_WORDS, k=12))[: min(left, 72)]
        lines.append(line)
        left -= len(line) + 2
    return "\n".join(lines)


class _Client:
    """Posts batches; each thread has a connection of its own, made anew when it broke."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise LoadError(f"not an http address: {url!r}")
        self._is_tls = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path.rstrip("/") + PATH
        self._token = token
        self._local = threading.local()
        self._connections: list[http.client.HTTPConnection] = []

    def close(self) -> None:
        """Close every connection, those of other threads too."""
        for connection in self._connections:
            connection.close()

    def post(self, plan: LoadPlan, messages: Sequence[LoadMessage], stop: threading.Event) -> Batch:
        """Offer one batch until it is taken, refused, or tried often enough."""
        document = {"messages": [payload_of(one, campaign=plan.campaign) for one in messages]}
        body = json.dumps(document).encode()
        offered_at, began = time.time(), time.monotonic()
        failure = "stopped"
        for tried in range(MAX_TRIES):
            if tried and stop.wait(min(0.1 * 4**tried, MAX_PAUSE_S)):
                break
            try:
                status, answer = self._request(body, hashlib.sha256(body).hexdigest()[:32])
            except (OSError, http.client.HTTPException) as exc:
                self._local.connection = None  # a broken one closes itself, the next try opens
                failure = f"{self._host}:{self._port}: {exc or type(exc).__name__}"
                continue
            if status < 300:
                seconds = time.monotonic() - began
                return Batch(tuple(messages), status, answer, offered_at, seconds)
            failure = f"{status} {json.dumps(answer)}"
            if status not in _TRY_AGAIN:
                break
        raise LoadError(f"POST {self._path}: {failure}")

    def _request(self, body: bytes, key: str) -> tuple[int, dict[str, Any]]:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            kind = http.client.HTTPSConnection if self._is_tls else http.client.HTTPConnection
            connection = kind(self._host, self._port, timeout=TIMEOUT_S)
            self._local.connection = connection
            self._connections.append(connection)
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/json",
            "Idempotency-Key": key,
        }
        connection.request("POST", self._path, body, headers)
        response = connection.getresponse()
        text = response.read()
        try:
            answer = json.loads(text)
        except ValueError:
            answer = {"detail": text[:500].decode("utf-8", "replace")}
        return response.status, answer if isinstance(answer, dict) else {"results": answer}


def main() -> int:
    """Send a load and print one JSON line: messages, seconds, statuses."""
    parser = argparse.ArgumentParser(prog="python -m lab.load", description="Offer mail.")
    parser.add_argument("--url", required=True, help="where the API is, without /api/v2")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--size", type=int, default=2_000, help="bytes of text per message")
    parser.add_argument("--batch", type=int, default=100, help="messages per request")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--from", dest="from_address", default="news@sender.test")
    parser.add_argument("--campaign", default="lab")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--world", choices=sorted(WORLDS), default="default")
    arguments = parser.parse_args()
    token = os.environ.get("POSTFLEET_TOKEN", "")
    if not token:
        print("lab.load: set POSTFLEET_TOKEN to an API token", file=sys.stderr)
        return 2
    began = time.monotonic()
    statuses: dict[str, int] = {}
    run = uuid.uuid4().hex[:12]
    try:
        plan = LoadPlan(
            count=arguments.count,
            run=run,
            from_address=arguments.from_address,
            campaign=arguments.campaign,
            size_bytes=arguments.size,
            seed=arguments.seed,
            batch_size=arguments.batch,
            connections=arguments.connections,
        )
        for batch in send(plan, WORLDS[arguments.world](), url=arguments.url, token=token):
            key = str(batch.status)
            statuses[key] = statuses.get(key, 0) + len(batch.messages)
    except (LoadError, ValueError) as exc:
        print(f"lab.load: {exc}", file=sys.stderr)
        return 1
    seconds = round(time.monotonic() - began, 3)
    print(json.dumps({"run": run, "messages": statuses, "seconds": seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
