"""Run the lab: `python -m lab --dir var/lab`; one JSON line with the ports when it is ready.

Gives    exit code 0 after SIGTERM or SIGINT, 1 when it cannot start, with the reason
Takes    directory, ports (0 for free ones), world, seed, seconds of greylisting and of reports
Raises   nothing
Follows  docs/lab.md
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path

import uvloop

from lab.run import Lab
from lab.world import WORLDS, World


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 65_536:
        raise ValueError(text)
    return port


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lab", description="A fake internet.")
    parser.add_argument("--dir", type=Path, required=True, help="journal and certificates")
    parser.add_argument("--smtp-port", type=_port, default=0, help="0 picks a free one")
    parser.add_argument("--dns-port", type=_port, default=0, help="0 picks a free one")
    parser.add_argument("--control-port", type=_port, default=0, help="0 picks a free one")
    parser.add_argument("--pop3-port", type=_port, default=0, help="0 picks a free one")
    parser.add_argument("--pop3s-port", type=_port, default=0, help="0 picks a free one")
    parser.add_argument("--world", choices=sorted(WORLDS), default="default", help="who is there")
    parser.add_argument("--seed", type=int, default=1, help="decides every share")
    parser.add_argument("--greylist-s", type=float, default=3.0, help="seconds of greylisting")
    parser.add_argument(
        "--reports-after-s", type=float, help="how late reports come (the wide world alone)"
    )
    parser.add_argument("--keep", type=int, default=200, help="messages kept whole")
    return parser.parse_args()


def _world(arguments: argparse.Namespace) -> World:
    """Return the world asked for."""
    options = {"seed": arguments.seed, "greylist_s": arguments.greylist_s}
    if arguments.reports_after_s is not None:
        if arguments.world != "wide":
            raise ValueError("--reports-after-s: only the wide world has reports")
        options["reports_after_s"] = arguments.reports_after_s
    return WORLDS[arguments.world](**options)


async def _run(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    lab = Lab(
        _world(arguments),
        arguments.dir,
        smtp_port=arguments.smtp_port,
        dns_port=arguments.dns_port,
        control_port=arguments.control_port,
        pop3_port=arguments.pop3_port,
        pop3s_port=arguments.pop3s_port,
        keep_messages=arguments.keep,
    )
    async with lab:
        print(json.dumps({"ready": True, "pid": os.getpid(), **lab.ports()}), flush=True)
        await stop.wait()


def main() -> int:
    """Run until told to end."""
    logging.basicConfig(level=logging.WARNING, format="lab: %(levelname)s %(message)s")
    arguments = _arguments()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(arguments))
    except (OSError, ValueError) as exc:
        print(f"lab: cannot start: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
