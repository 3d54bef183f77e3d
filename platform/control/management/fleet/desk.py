"""Where a running fleet can be asked and told: a socket in its directory.

Gives    Desk (in the process that keeps the fleet), ask() (from any other)
Takes    the var directory; a Keeper, which does what is asked
Raises   FleetError with the words of the other side, or if nobody answers

One line of JSON goes each way. Only who may enter the directory (mode 0700) can connect.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from control.management.fleet.house import FleetError
from control.management.fleet.overview import Overview, fields_of

SOCKET = "fleet.sock"
LINE_BYTES = 1 << 20
# Stopping a worker takes up to 40 s, starting one up to 120 s.
PATIENCE_S = 180.0


class Keeper(Protocol):
    """What keeps the processes."""

    def overview(self) -> Overview:
        """Return how the fleet stands."""
        ...

    def start_one(self, name: str) -> None:
        """Start a process and wait until it is ready."""
        ...

    def stop_one(self, name: str) -> None:
        """Stop a process and keep it down."""
        ...


class Desk:
    """Answers on threads of its own until it is closed."""

    def __init__(self, var_dir: Path, keeper: Keeper) -> None:
        self._run_dir = var_dir / "run"
        self._keeper = keeper
        self._server: _Server | None = None
        # Two orders for one process would undo each other half way.
        self._orders = threading.Lock()

    def open(self) -> None:
        """Begin to answer."""
        with _reachable(self._run_dir) as path:
            # The directory is ours alone while we hold its lock: what lies there is of the dead.
            Path(path).unlink(missing_ok=True)
            self._server = _Server(path, self._answer)
            os.chmod(path, 0o600)
        threading.Thread(target=self._server.serve_forever, name="desk", daemon=True).start()

    def close(self) -> None:
        """Answer no more; wait for an order under way."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        (self._run_dir / SOCKET).unlink(missing_ok=True)
        with self._orders:
            self._is_closed = True

    _is_closed = False

    def _answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        verb, name = asked.get("verb"), str(asked.get("name", ""))
        try:
            if verb == "status":
                return {"overview": fields_of(self._keeper.overview())}
            with self._orders:
                if self._is_closed:
                    raise FleetError("the fleet is ending")
                self._order(str(verb), name)
        except FleetError as exc:
            return {"error": str(exc)}
        return {}

    def _order(self, verb: str, name: str) -> None:
        if verb not in ("start", "stop", "restart"):
            raise FleetError(f"nobody here knows how to {verb}")
        if verb in ("stop", "restart"):
            self._keeper.stop_one(name)
        if verb in ("start", "restart"):
            self._keeper.start_one(name)


class _Server(socketserver.ThreadingUnixStreamServer):
    """Hands each line to `answer`."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, path: str, answer: Any) -> None:
        self.answer = answer
        super().__init__(path, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked has gone: nobody is left to tell."""


class _Handler(socketserver.StreamRequestHandler):
    timeout = 10

    def handle(self) -> None:
        line = self.rfile.readline(LINE_BYTES)
        try:
            asked = json.loads(line)
        except ValueError:
            asked = None
        server: Any = self.server
        answer = server.answer(asked) if isinstance(asked, dict) else {"error": "no JSON object"}
        self.wfile.write(json.dumps(answer).encode() + b"\n")


def ask(var_dir: Path, verb: str, *, name: str = "") -> dict[str, Any]:
    """Ask the fleet of a directory; return its answer."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.settimeout(PATIENCE_S)
    with line:
        try:
            with _reachable(var_dir / "run") as path:
                line.connect(path)
            line.sendall(json.dumps({"verb": verb, "name": name}).encode() + b"\n")
            with line.makefile("rb") as stream:
                answer: dict[str, Any] = json.loads(stream.readline(LINE_BYTES))
        except TimeoutError as exc:
            raise FleetError(f"the fleet in {var_dir} does not answer") from exc
        except PermissionError as exc:
            raise FleetError(f"{var_dir / 'run'} is closed to this user: ask as its owner") from exc
        except (OSError, ValueError) as exc:
            raise FleetError(f"no fleet is up in {var_dir}") from exc
    if "error" in answer:
        raise FleetError(str(answer["error"]))
    return answer


@contextlib.contextmanager
def _reachable(run_dir: Path) -> Iterator[str]:
    """Give a path of the socket that is short enough, whatever the directory is called: an address
    holds 107 bytes."""
    fd = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)
