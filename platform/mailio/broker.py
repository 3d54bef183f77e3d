"""Bells over the broker: which task rings on which queue, and the ringing itself.

Gives    TOPOLOGY, Row, queue_of, queues_of, celery_config, beat_schedule; CeleryBells, the port
         mailcore.ports.Bells
Takes    a Celery application; RabbitMQ (amqp://) or Redis and its kin (redis://) behind it
Raises   StoreUnavailable("broker", reason); LookupError for a task without a row
Follows  design.md section 2 (bells only, never facts), style.md rule 5;
         docs/decisions/0007-bells-ring-on-classic-queues.md

Queues: `priority`, `main` and `retry` of a node carry drains, for its sources live there; `main`
without a node carries routing, `event` the outbox, `upkeep` the chores, those of one node on its
own, `control` the jobs that people start, alerts and system mail. A bell that nobody heard within
a minute is dropped: its counter runs out after that, and it is rung again from PostgreSQL. On
RabbitMQ a publish returns with the broker's confirm that a queue has the bell; on Redis with the
answer to the push.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from amqp.exceptions import AMQPError, ChannelError
from celery import Celery
from kombu import Exchange, Queue
from kombu.exceptions import KombuError

from mailcore.bells import ApplyBell, DrainBell, RouteBell, UpkeepBell
from mailcore.outcome import MailClass
from mailcore.ports import StoreUnavailable
from mailio.settings import Settings

Bell = DrainBell | RouteBell | ApplyBell | UpkeepBell

BELL_LIFETIME_S = 60
MOST_BELLS = 10_000
VISIBILITY_S = 60
CONNECT_TIMEOUT_S = 4
SOCKET_TIMEOUT_S = 10
CONFIRM_TIMEOUT_S = 10
NO_ROUTE = 312
CONSUMERS = ("statistics", "stop_list", "dsn")

_EXCHANGE = Exchange("postfleet", type="direct", durable=True)
_RETRY = {"max_retries": 2, "interval_start": 0.0, "interval_step": 0.2, "interval_max": 0.4}


@dataclass(frozen=True, slots=True)
class Row:
    """One task: the queues it may ring on, its bell, and how often beat rings (0: never).

    `per_node` says that beat rings for the node it runs on, else for any.
    """

    task: str
    queues: tuple[str, ...]
    bell: type[Bell]
    every_s: float = 0.0
    per_node: bool = False


TOPOLOGY: tuple[Row, ...] = (
    Row("deliver.drain", ("priority", "main", "retry"), DrainBell),
    Row("route.resolve", ("main",), RouteBell, every_s=30.0),
    Row("events.apply", ("event",), ApplyBell, every_s=2.0),
    Row("inbound.poll", ("upkeep",), UpkeepBell, every_s=5.0, per_node=True),
    Row("upkeep.expire", ("upkeep",), UpkeepBell, every_s=5.0),
    Row("upkeep.unpark", ("upkeep",), UpkeepBell, every_s=5.0),
    Row("upkeep.reap", ("upkeep",), UpkeepBell, every_s=5.0, per_node=True),
    Row("upkeep.sweep", ("upkeep",), UpkeepBell, every_s=300.0, per_node=True),
    Row("upkeep.measure", ("upkeep",), UpkeepBell, every_s=60.0, per_node=True),
    Row("upkeep.check", ("upkeep",), UpkeepBell, every_s=600.0),
    Row("upkeep.content", ("upkeep",), UpkeepBell, every_s=600.0, per_node=True),
    Row("control.jobs", ("control",), UpkeepBell, every_s=2.0),
    Row("control.alerts", ("control",), UpkeepBell, every_s=60.0),
    Row("control.mail", ("control",), UpkeepBell, every_s=5.0),
)
_ROWS: Mapping[str, Row] = {row.task: row for row in TOPOLOGY}

# What a process of a kind reads: queues of its node, then queues of all nodes.
_READS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "priority": (("priority",), ()),
    "delivery": (("main", "retry"), ("main",)),
    "event": ((), ("event",)),
    "upkeep": (("upkeep",), ("upkeep",)),
    "control": ((), ("control",)),
}


def queue_of(task: str, bell: Bell) -> str:
    """Return the queue a bell of this task rings on, or raise LookupError."""
    row = _ROWS.get(task)
    if row is None or not isinstance(bell, row.bell):
        raise LookupError(f"TOPOLOGY has no row for task {task!r} with {type(bell).__name__}")
    if isinstance(bell, DrainBell):
        if bell.mail_class is MailClass.PRIORITY:
            kind = "priority"
        else:
            kind = "retry" if bell.is_retry else "main"
        return f"{kind}.{bell.node}"
    if isinstance(bell, UpkeepBell) and bell.node:
        return f"{row.queues[0]}.{bell.node}"
    return row.queues[0]


def queues_of(kind: str, node: str) -> tuple[str, ...]:
    """Return the queues a process of this kind reads; of kind "" those of every kind."""
    if not kind:
        return tuple(dict.fromkeys(name for each in _READS for name in queues_of(each, node)))
    if kind not in _READS:
        raise LookupError(f"{kind!r} is none of the kinds {', '.join(_READS)}")
    own, common = _READS[kind]
    return (*(f"{name}.{node}" for name in own), *common)


def declare(name: str, *, queue_type: str = "classic") -> Queue:
    """Return a queue as every process declares it; two different ways would be refused.

    The type is named, for a virtual host may have another default.
    """
    return Queue(
        name,
        _EXCHANGE,
        routing_key=name,
        durable=True,
        message_ttl=BELL_LIFETIME_S,
        max_length=MOST_BELLS,
        queue_arguments={"x-queue-type": queue_type},
    )


def celery_config(settings: Settings, *, kind: str = "") -> dict[str, Any]:
    """Return the configuration of a Celery application of this node.

    A worker reads the queues of its `kind`; beat and flower have none and know them all.
    """
    is_amqp = settings.broker_url.startswith(("amqp", "pyamqp"))
    redis_options = {
        "visibility_timeout": VISIBILITY_S,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_keepalive": True,
    }
    return {
        "broker_url": settings.broker_url,
        "broker_transport_options": {"confirm_publish": True} if is_amqp else redis_options,
        "broker_connection_timeout": CONNECT_TIMEOUT_S,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_heartbeat": 30 if is_amqp else 0,
        # Flower asks every worker eight questions at once, each over two connections: with a
        # smaller pool its threads wait for each other for ever, and it shows no worker.
        "broker_pool_limit": 4 if kind else 32,
        "result_backend": None,
        "task_ignore_result": True,
        # Nothing to expire: else beat rings each night for a clean-up there is nothing of.
        "result_expires": None,
        "task_queues": [
            declare(name, queue_type=settings.broker_queue_type)
            for name in queues_of(kind, settings.node)
        ],
        "task_default_queue_type": settings.broker_queue_type,
        "task_default_queue": "upkeep",
        "task_default_exchange": _EXCHANGE.name,
        "task_create_missing_queues": False,
        "task_acks_late": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_publish_retry_policy": dict(_RETRY),
        "worker_prefetch_multiplier": 1,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_send_task_events": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "timezone": "UTC",
        "enable_utc": True,
    }


def beat_schedule(node: str, *, consumers: Sequence[str] = CONSUMERS) -> dict[str, Any]:
    """Return what beat rings, whatever else rings: each entry expires with its interval."""
    schedule: dict[str, Any] = {}
    for row in TOPOLOGY:
        if row.every_s:
            for name, bell in _beat_bells(row, node, consumers):
                schedule[name] = {
                    "task": row.task,
                    "schedule": row.every_s,
                    "args": (bell.to_json(),),
                    "options": {
                        "argsrepr": bell.words,
                        "queue": queue_of(row.task, bell),
                        "expires": max(row.every_s, 1.0),
                        "ignore_result": True,
                    },
                }
    return schedule


def _beat_bells(row: Row, node: str, consumers: Sequence[str]) -> list[tuple[str, Bell]]:
    if row.bell is ApplyBell:
        return [(f"{row.task} {consumer}", ApplyBell(consumer)) for consumer in consumers]
    if row.bell is UpkeepBell:
        return [(row.task, UpkeepBell(node if row.per_node else ""))]
    return [(row.task, RouteBell())]


class CeleryBells:
    """Rings by task name, on a thread of its own: publishing blocks until the broker has it."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bells")

    def close(self) -> None:
        """Finish the bell under way and end the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def drain(self, bell: DrainBell) -> None:
        """Ring for paths of a node."""
        await self._ring("deliver.drain", bell)

    async def route(self, bell: RouteBell) -> None:
        """Ring for unrouted lanes."""
        await self._ring("route.resolve", bell)

    async def apply(self, bell: ApplyBell) -> None:
        """Ring for a consumer of the outbox."""
        await self._ring("events.apply", bell)

    async def upkeep(self, task: str, bell: UpkeepBell) -> None:
        """Ring for a chore."""
        await self._ring(task, bell)

    async def _ring(self, task: str, bell: Bell) -> None:
        name, queue_type = queue_of(task, bell), self._app.conf.task_default_queue_type
        queue = declare(name, queue_type=queue_type)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._publish, task, bell, queue)

    def _publish(self, task: str, bell: Bell, queue: Queue) -> None:
        try:
            if not self._send(task, bell, queue) and not self._send(task, bell, queue):
                raise StoreUnavailable("broker", f"queue {queue.name} takes no bells")
        except (KombuError, AMQPError, OSError) as exc:
            raise StoreUnavailable("broker", str(exc) or type(exc).__name__) from exc

    def _send(self, task: str, bell: Bell, queue: Queue) -> bool:
        """Publish once; return False if the queue is gone that this connection had declared."""
        # The queue as an object: this process need not read it to ring on it.
        options: dict[str, Any] = {"queue": queue, "confirm_timeout": CONFIRM_TIMEOUT_S}
        # What Flower shows of it.
        options["argsrepr"] = bell.words
        with self._app.producer_or_acquire() as producer:
            try:
                self._app.send_task(
                    task,
                    args=(bell.to_json(),),
                    producer=producer,
                    expires=BELL_LIFETIME_S,
                    ignore_result=True,
                    retry=True,
                    retry_policy=_RETRY,
                    mandatory=True,
                    **options,
                )
            except ChannelError as exc:
                if exc.reply_code != NO_ROUTE:
                    raise
                # Confirmed and dropped: somebody deleted the queue. Forget the connection, and
                # with it what it believes to be declared.
                producer.connection.collect()
                return False
        return True
