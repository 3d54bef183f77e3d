"""The Celery application: queues from the topology, life of the process from its signals.

One process is one kind (`WORKER_KIND`): priority, delivery, event, upkeep or control. Which queues
it reads follows from kind and node. There is no logic here.
"""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

from celery import Celery, signals

from mailcore.errors import PostfleetError
from mailio import settings as process_settings
from mailio.broker import beat_schedule, celery_config
from workers import runtime

log = logging.getLogger(__name__)
_kind = os.environ.get("WORKER_KIND", "")
app = Celery(
    "postfleet",
    include=["workers.tasks", "workers.remote"],
    # Celery's own care for Django loads it into every process whose environment names its settings.
    fixups=None if _kind == "control" else [],
)
if os.environ.get("BROKER_URL"):
    _settings = process_settings.load()
    app.conf.update(celery_config(_settings, kind=_kind))
    app.conf.beat_schedule = beat_schedule(_settings.node)
    app.conf.beat_scheduler = "workers.beat:LeadingScheduler"


@signals.setup_logging.connect
def _log_as_we_do(**_: Any) -> None:
    runtime.set_up_logging(os.environ.get("LOG_LEVEL", "INFO"))


@signals.celeryd_after_setup.connect
def _start(**_: Any) -> None:
    """Start, or end the process: Celery logs what a signal's receiver raises and goes on, and the
    worker would take bells, and do nothing for them, until somebody restarts it.

    Not before: Celery changes the environment while it sets up logging, and libpq reads it in our
    threads. The two at once end the process by SIGSEGV, if rarely.
    """
    try:
        runtime.start(os.environ.get("WORKER_KIND", "delivery"), app)
    except Exception as exc:
        # The plane's edge; the supervisor tries again.
        reason = f"{type(exc).__name__}: {exc}"
        log.critical("not started", exc_info=_fault(exc), extra={"reason": reason})
        logging.shutdown()
        os._exit(1)


def _fault(exc: Exception) -> Exception | None:
    """Return it if it is worth a stack trace; what our own errors say is enough."""
    return None if isinstance(exc, PostfleetError) else exc


@signals.worker_ready.connect
def _tell_ready(**_: Any) -> None:
    """Tell the supervisor: a process that runs need not be one that takes bells."""
    if path := os.environ.get("READY_FILE", ""):
        Path(path).write_text(str(os.getpid()), encoding="ascii")


@signals.worker_shutdown.connect
def _stop(**_: Any) -> None:
    runtime.stop()


@signals.beat_init.connect
def _let_beat_end(**_: Any) -> None:
    """Celery 5.7's own handler saves the schedule and goes on; a stop must end it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
