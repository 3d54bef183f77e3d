"""Own one chdb directory, and answer queries of other processes over a local socket.

chdb allows one process per directory, and a child forked from a process that imported it hangs.
So one process imports it, this one:

    python -m embedded.chdb_owner --data DIR --socket PATH

Gives    a unix stream socket, mode 0600: who may open the file may ask. Its address is written
         `chdb+unix:///percent/quoted/path`, optionally with `?database=NAME`
Takes    any number of clients; each connection carries requests one after the other; queries of
         all clients run one at a time, in the order they arrive
Raises   nothing to a client but an error frame; exits with 1 if the directory cannot be opened

Protocol. A frame, either way, is

    4 bytes   length N of the header, unsigned, big-endian
    N bytes   header: a JSON object in UTF-8, at most 16 MiB
    M bytes   body, M = header["body_length"], at most 512 MiB

Request header
    query         text of one statement, no ending ";" needed. Data for INSERT … FORMAT x is the
                  body; the query then ends with the name of the format
    body_length   0 if there is no body
    format        of the result; "JSONEachRow" unless given; FORMAT in the query wins
    database      in which bare table names are looked up; "default" unless given
    settings      {name: text, number or bool}, in force for this query alone
    params        {name: text, number, bool, null or a list of these} for {name:Type} in the query

Response header
    ok            true, and the body is the result; or false, and the body is empty
    error         null, or what ClickHouse said
    code          0, ClickHouse's error number, or below zero: -1 the request is malformed, -2 it is
                  too large, -3 the owner is stopping or has all the connections it takes
    rows          rows of the result, or rows written by an INSERT
    elapsed       seconds in the engine
    body_length   M

After -1 because of the frame itself, and after -2 and -3, the owner closes the connection. An error
of a query leaves it open. A connection that ends before the response has come leaves an INSERT in
doubt: the client must be able to repeat it. `SET` and `USE` are refused: they would change the
queries of the others; use `settings` and `database`.

A CREATE that fails may leave a table that keeps the directory from being opened ever again
(ENGINE=Kafka does). What a failed CREATE left is dropped at once, and what one cut off by a crash
left is moved to `refused/` before the directory is opened.
"""

import argparse
import contextlib
import os
import selectors
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from embedded.chdb_engine import Engine, say
from embedded.chdb_wire import UNAVAILABLE, RequestError, failure, read_request, send_frame

CONNECTION_LIMIT = 100


class Owner:
    """The socket: a thread for each connection, the engine's lock between them."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self._engine = engine
        self._path = path
        self._places = threading.BoundedSemaphore(CONNECTION_LIMIT)
        self._wake_r, self._wake_w = os.pipe()

    def stop(self) -> None:
        os.write(self._wake_w, b".")

    def serve(self) -> None:
        """Answer until `stop`."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            # Bound under another name: a client never meets a socket that does not listen yet.
            draft = f"{self._path}.{os.getpid() % 100000}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft)
            listener.bind(draft)
            os.chmod(draft, 0o600)
            listener.listen(128)
            os.replace(draft, self._path)
            with selectors.DefaultSelector() as selector:
                selector.register(listener, selectors.EVENT_READ)
                selector.register(self._wake_r, selectors.EVENT_READ)
                while all(key.fd != self._wake_r for key, _ in selector.select()):
                    connection, _ = listener.accept()
                    threading.Thread(target=self._attend, args=(connection,), daemon=True).start()
            self._path.unlink(missing_ok=True)

    def _attend(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream, contextlib.suppress(OSError):
            if not self._places.acquire(blocking=False):
                send_frame(connection, failure(UNAVAILABLE, "too many connections"), b"")
                return
            try:
                while self._answer(connection, stream):
                    pass
            finally:
                self._places.release()

    def _answer(self, connection: socket.socket, stream: BinaryIO) -> bool:
        """Handle one request; False when the connection is over."""
        try:
            request = read_request(stream)
            if request is None:
                return False
            header, body = self._engine.run(request)
        except RequestError as exc:
            send_frame(connection, failure(exc.code, str(exc)), b"")
            return not exc.closes
        send_frame(connection, header, body)
        return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Own one chdb directory.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--socket", type=Path, required=True)
    arguments = parser.parse_args()
    os.umask(0o077)
    try:
        engine = Engine(arguments.data.resolve())
    except (RuntimeError, OSError, ImportError) as exc:
        say(f"{arguments.data} cannot be opened: {exc}")
        return 1
    owner = Owner(engine, arguments.socket)
    # After the engine is up, for it installs handlers of its own.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: owner.stop())
    say(f"ready at {arguments.socket}")
    owner.serve()
    engine.close()
    say("closed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
