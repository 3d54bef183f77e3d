"""What a bell costs on a classic durable and on a quorum queue of one RabbitMQ node.

Gives    a table: publish with confirm by one thread (median, 99th percentile, per second) and by
         eight, and from publish to a consumer's hands
Takes    the test stack's RabbitMQ; `PYTHONPATH=.:platform .venv/bin/python bench/queue_types.py`
Follows  docs/decisions/0007-bells-ring-on-classic-queues.md

The queues are those of mailio.broker, with their time to live and length; only the type differs.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from typing import Any

from kombu import Connection, Exchange, Queue

from mailcore.bells import DrainBell, Path
from mailcore.outcome import MailClass
from mailio.broker import BELL_LIFETIME_S, MOST_BELLS
from tests.support.services import RabbitMq, service

BELLS = 2000
THREADS = 8
ROUNDS = 5
PAYLOAD = DrainBell(
    "n1", MailClass.MAIN, tuple(Path(7, f"site-{number}.example.com") for number in range(20))
).to_json()


def queue(kind: str) -> Queue:
    """Return a bell's queue of one type."""
    return Queue(
        f"main.{kind}",
        Exchange("bench", type="direct", durable=True),
        routing_key=kind,
        durable=True,
        message_ttl=BELL_LIFETIME_S,
        max_length=MOST_BELLS,
        queue_arguments={"x-queue-type": kind},
    )


def publish(url: str, kind: str, count: int, seconds: list[float]) -> None:
    """Publish, each with its confirm; note how long each took."""
    with Connection(url, transport_options={"confirm_publish": True}) as connection:
        producer = connection.Producer(serializer="json")
        target = queue(kind)
        producer.publish([PAYLOAD], exchange=target.exchange, routing_key=kind, declare=[target])
        for _ in range(count):
            began = time.perf_counter()
            producer.publish([PAYLOAD], exchange=target.exchange, routing_key=kind)
            seconds.append(time.perf_counter() - began)


def hear(url: str, kind: str, count: int) -> list[float]:
    """Publish one bell at a time to a waiting consumer; return how long each was under way."""
    seconds: list[float] = []
    with Connection(url, transport_options={"confirm_publish": True}) as connection:
        producer = connection.Producer(serializer="json")
        target = queue(kind)

        def on_bell(_: Any, message: Any) -> None:
            seconds.append(time.perf_counter() - began)
            message.ack()

        with connection.clone() as other, other.Consumer([target], callbacks=[on_bell]) as consumer:
            consumer.qos(prefetch_count=8)
            for number in range(count):
                began = time.perf_counter()
                producer.publish([PAYLOAD], exchange=target.exchange, routing_key=kind)
                while len(seconds) <= number:
                    other.drain_events(timeout=10)
    return seconds


def line(kind: str, name: str, seconds: Sequence[float], per_second: float | None = None) -> str:
    """Return one row of the table."""
    p99 = statistics.quantiles(seconds, n=100)[98] * 1000
    rate = f"{per_second:8.0f} /s" if per_second else ""
    median = statistics.median(seconds) * 1000
    return f"{kind:8} {name:28} median {median:6.2f} ms  p99 {p99:6.2f} ms {rate}"


def measure(node: RabbitMq, kind: str) -> list[str]:
    """Run one round for a type on a fresh virtual host."""
    url = node.virtual_host()
    alone: list[float] = []
    began = time.perf_counter()
    publish(url, kind, BELLS, alone)
    lines = [line(kind, "confirmed, 1 thread", alone, BELLS / (time.perf_counter() - began))]
    node.purge(url)
    together: list[float] = []
    share = BELLS // 2
    threads = [
        threading.Thread(target=publish, args=(url, kind, share, together)) for _ in range(THREADS)
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = share * THREADS / (time.perf_counter() - began)
    lines.append(line(kind, f"confirmed, {THREADS} threads", together, rate))
    node.purge(url)
    lines.append(line(kind, "published to heard", hear(url, kind, 500)))
    return lines


def main() -> None:
    """Print the table, the types taking turns."""
    node = service("rabbitmq", RabbitMq)
    print(f"RabbitMQ {node.version}, a bell of {len(PAYLOAD)} bytes")
    for _ in range(ROUNDS):
        for kind in ("classic", "quorum"):
            print("\n".join(measure(node, kind)), flush=True)


if __name__ == "__main__":
    main()
