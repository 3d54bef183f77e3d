"""A session with a relay that ends in time, whatever the relay does.

Gives    Deadline; TimedSmtp, TimedSmtps: the standard library's clients, which a deadline ends
Takes    the seconds that a whole session may take
Raises   what smtplib raises: a session that was ended looks like a lost connection, and
         `Deadline.is_over` says that it was us

A time-out of a socket starts anew with each octet: a relay that gives one now and then, or lines of
a greeting without end, would hold its client for ever.
"""

from __future__ import annotations

import contextlib
import smtplib
import socket
import threading
from typing import Any

CONNECT_S = 15.0


class Deadline:
    """Ends the one connection it is given when its time has come."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.is_over = False
        self._line: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def watch(self, line: socket.socket) -> None:
        """Begin. A copy of the socket is kept: TLS takes the socket itself out of our hands."""
        self._line = line.dup()
        self._timer.start()

    def close(self) -> None:
        """Let go of the connection."""
        self._timer.cancel()
        if self._line is not None:
            self._line.close()

    def _end(self) -> None:
        self.is_over = True
        if self._line is not None:
            with contextlib.suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)


class _Watched(smtplib.SMTP):
    deadline: Deadline

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        line: socket.socket = super()._get_socket(host, port, min(timeout, CONNECT_S))  # type: ignore[misc]
        line.settimeout(timeout)
        self.deadline.watch(line)
        return line


class TimedSmtp(_Watched):
    """SMTP in clear, or with STARTTLS."""

    def __init__(self, *where: Any, deadline: Deadline, **options: Any) -> None:
        self.deadline = deadline
        super().__init__(*where, **options)


class TimedSmtps(smtplib.SMTP_SSL, _Watched):
    """SMTP under TLS from the first octet."""

    def __init__(self, *where: Any, deadline: Deadline, **options: Any) -> None:
        self.deadline = deadline
        super().__init__(*where, **options)
