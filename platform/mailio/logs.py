"""How our processes write their logs: one line an event, constant text, keyed fields.

Gives    set_up_logging
Takes    a level name
Raises   ValueError for a level that does not exist
"""

from __future__ import annotations

import logging
import sys

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", None, None))) | {
    "message",
    "asctime",
    "taskName",
    "data",
}


class KeyedFormatter(logging.Formatter):
    """`time level logger: text key=value …`, with the traceback below if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = super().format(record)
        fields = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        if not fields:
            return line
        head, newline, rest = line.partition("\n")
        return head + "".join(f" {k}={v!r}" for k, v in fields.items()) + newline + rest


def set_up_logging(level: str) -> None:
    """Send all logs of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyedFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Every bell would be two lines of theirs.
    for chatty in ("celery.app.trace", "celery.worker.strategy"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # It logs a traceback of its own for a server that is away; ours says so in a line.
    logging.getLogger("clickhouse_driver").setLevel(logging.ERROR)
