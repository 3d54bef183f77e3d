"""The SMTP listener of a node: `python -m workers.smtpd`.

Gives    run: listen, take mail, end at SIGTERM or SIGINT with every session answered
Takes    the environment: mailio.settings and mailio.smtpd_settings
Raises   nothing from `main`: what keeps it from starting is said in a line, with exit status 1
Follows  design.md section 3 step 1 and section 7 (processes)

No Celery: nobody rings for it. SIGHUP reads the certificate again; so does a change of its file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop

from mailcore.errors import PostfleetError
from mailcore.policy.model import Node
from mailcore.reception import Identity
from mailio import settings as process_settings
from mailio.clock import LedgerClock
from mailio.intake import Intake
from mailio.ledger.accept import Acceptor
from mailio.letters import LetterIntake, Stamp
from mailio.logs import set_up_logging
from mailio.pressure import OutboxGate
from mailio.settings import Settings
from mailio.smtp_batches import Batches
from mailio.smtp_credentials import TokenDesk
from mailio.smtp_door import Door
from mailio.smtp_server import SmtpServer, postmaster_of
from mailio.smtp_session import Desk
from mailio.smtpd_settings import SmtpdSettings, load_smtpd
from mailio.spool.opening import open_spool
from mailio.wake import RedisWaker
from workers.policy_cache import PolicyCache

log = logging.getLogger("workers.smtpd")  # it runs as __main__
CERTIFICATE_CHECKED_S = 60.0
# Logins are rare beside messages: two at a time, the others wait.
LOGIN_THREADS = 2


async def run(
    settings: Settings, smtpd: SmtpdSettings, policy: PolicyCache, *, ready_file: str = ""
) -> None:
    """Listen until a signal says otherwise."""
    with contextlib.ExitStack() as closing:
        server = _server(settings, smtpd, policy, closing)
        ending = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ending.set)
        loop.add_signal_handler(signal.SIGHUP, _reload, server)
        await server.start()
        follower = loop.create_task(_follow_certificate(server, smtpd))
        log.info("listening", extra={"ports": server.ports, "host": smtpd.host})
        if ready_file:
            Path(ready_file).write_text(str(os.getpid()), encoding="ascii")
        await ending.wait()
        follower.cancel()
        await server.stop(timeout_s=settings.stop_s)
        log.info("ended")


def _server(
    settings: Settings, smtpd: SmtpdSettings, policy: PolicyCache, closing: contextlib.ExitStack
) -> SmtpServer:
    """Build the adapters. Nothing but the listener is opened before it is used."""
    acceptor = Acceptor(settings.database_url)

    def node() -> Node:
        return policy.current().nodes.get(settings.node) or Node(0, settings.node)

    spool = open_spool(
        settings,
        min_free_bytes=lambda: node().spool_stop_bytes,
        owner=acceptor.installation,
    )
    waker = RedisWaker(settings.redis_url)
    tokens = TokenDesk(settings.database_url)
    logins = ThreadPoolExecutor(LOGIN_THREADS, thread_name_prefix="smtpd-login")
    for close in (acceptor.close, spool.close, waker.close, tokens.close, logins.shutdown):
        closing.callback(close)
    clock = LedgerClock()
    gate = OutboxGate(acceptor.outbox_bytes, stop_bytes=settings.outbox_stop_bytes)
    letters = LetterIntake(
        Intake(acceptor, spool, clock=clock, waker=waker, gate=gate.check),
        policy,
        tokens,
        clock=clock,
        stamp=Stamp(smtpd.host, smtpd.shows_client),
    )

    async def check(user: str, password: str) -> Identity | None:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(logins, tokens.identify, user, password)

    door = Door(smtpd, policy)
    for name in door.unknown_accounts():
        log.warning("SMTPD_NETWORKS names no account there is", extra={"account": name})
    desk = Desk(
        door=door,
        batches=Batches(letters.take),
        check=check,
        postmaster=lambda: postmaster_of(node(), smtpd.host),
    )
    return SmtpServer(smtpd, desk)


def _reload(server: SmtpServer) -> None:
    try:
        server.reload_tls()
    except OSError as exc:
        # The one in use goes on: it may be about to expire, none at all is worse.
        log.error("the certificate cannot be read", extra={"reason": str(exc)})
    else:
        log.info("certificate read again")


async def _follow_certificate(server: SmtpServer, smtpd: SmtpdSettings) -> None:
    """Whoever renews certificates replaces files, and seldom tells anybody."""
    seen = _stamps(smtpd)
    while True:
        await asyncio.sleep(CERTIFICATE_CHECKED_S)
        now = _stamps(smtpd)
        if now != seen:
            seen = now
            _reload(server)


def _stamps(smtpd: SmtpdSettings) -> list[float]:
    found = []
    for path in filter(None, (smtpd.tls_cert, smtpd.tls_key)):
        with contextlib.suppress(OSError):
            found.append(path.stat().st_mtime)
    return found


def main(environ: Mapping[str, str]) -> int:
    """Run the process; return its exit status."""
    set_up_logging(environ.get("LOG_LEVEL", "") or "INFO")
    try:
        settings, smtpd = process_settings.load(environ), load_smtpd(environ)
        name = f"{settings.node}-smtpd-{os.getpid()}-{int(time.time())}"
        policy = PolicyCache.start(settings, process=name)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(run(settings, smtpd, policy, ready_file=environ.get("READY_FILE", "")))
        finally:
            policy.stop()
    except (PostfleetError, OSError) as exc:
        log.critical("not started", extra={"reason": f"{type(exc).__name__}: {exc}"})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
