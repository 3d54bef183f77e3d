"""A line to PostgreSQL that breaks on cue."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self
from urllib.parse import urlsplit, urlunsplit


class BreakingLine:
    """A TCP relay. `break_after_request` lets the next request (after `spared` others) through and
    loses its answer; `break_before_request` loses the request itself."""

    def __init__(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        assert parts.hostname is not None
        assert parts.port is not None
        self._server = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        user = parts.netloc.rpartition("@")[0]
        self.dsn = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{port}"))
        self._mute = threading.Event()
        self._cut = threading.Event()
        self._spared = 0
        self.was_broken = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close(self._listener, *self._sockets)
        for thread in self._threads:
            thread.join(5)

    def break_after_request(self, *, spared: int = 0) -> None:
        self._spared = spared
        self._mute.set()

    def break_before_request(self) -> None:
        self._cut.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                for target in (self._upwards, self._downwards):
                    thread = threading.Thread(target=target, args=(client, server), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _upwards(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self._cut.is_set():
                    self._cut.clear()
                    break
                server.sendall(data)
                if self._mute.is_set() and self._spared > 0:
                    self._spared -= 1
                elif self._mute.is_set():
                    # The request is with the server; the client learns only that the line is gone.
                    self._close(client)
                    self._mute.clear()
                    self.was_broken.set()
                    return
        self._close(client, server)

    def _downwards(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        self._close(client, server)

    @staticmethod
    def _close(*sockets: socket.socket) -> None:
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
