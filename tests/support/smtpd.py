"""An installation with a listener: database, published policy, tokens, spool, certificate.

Gives    House (its settings, what was accepted), furnished; Listening: a server on a thread of
         its own, on loopback; Wire, a raw client; ENVELOPE and MESSAGE to send
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import psycopg2
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mailcore.envelope import ContentRef
from mailcore.policy import codec
from mailcore.policy.model import Account, Node, PolicySnapshot, Sender, SendingDomain
from mailcore.reception import Identity
from mailio.clock import LedgerClock
from mailio.intake import Intake
from mailio.ledger import schema
from mailio.ledger.accept import Acceptor
from mailio.letters import LetterIntake, Stamp
from mailio.smtp_batches import Batches
from mailio.smtp_credentials import TokenDesk
from mailio.smtp_door import Door
from mailio.smtp_server import SmtpServer, postmaster_of
from mailio.smtp_session import Desk, Patience
from mailio.smtpd_settings import SmtpdSettings
from mailio.snapshots import schema_sql
from mailio.spool.segments import SegmentSpool
from tests.support import stack

HOST = "mx.shop.test"
NODE = "n1"
TOKEN = "pf_a-token-of-acme"
MESSAGE = b"From: News <news@shop.test>\r\nSubject: hi\r\n\r\n.dot\r\n\r\nbye\r\n"
ENVELOPE = b"MAIL FROM:<news@shop.test>\r\nRCPT TO:<a@example.com>\r\nDATA\r\n"
LOOPBACK = ((ip_network("127.0.0.0/8"), "acme"),)
# The columns of the control plane's table that a listener reads.
_TOKENS = """
CREATE TABLE accounts_apitoken (
    id serial PRIMARY KEY, name varchar(120) UNIQUE, account_id integer, scopes varchar(40)[],
    is_active boolean DEFAULT true, token_hash varchar(64) UNIQUE, expires_at timestamptz,
    last_used_at timestamptz)
"""
POLICY = PolicySnapshot(
    revision=7,
    accounts={
        1: Account(1, "acme", True, 1, 3600.0, 1 << 20, 1000),
        2: Account(2, "gone", False, 1, 3600.0, 1 << 20, 1000),
    },
    senders={1: Sender(1, "bulk", (1, 2), 1, 1, 1)},
    sending_domains={"shop.test": SendingDomain(1, "shop.test", (1, 2), "")},
    nodes={NODE: Node(1, NODE, admin_email="admin@shop.test", spool_stop_bytes=0)},
)


@dataclass(frozen=True)
class House:
    """Where everything is."""

    database: str
    directory: Path

    @property
    def spool_dir(self) -> Path:
        return self.directory / "spool"

    def query(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(self.database)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(sql, params or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def accepted(self, recipient: str = "") -> list[tuple[str, str, bytes]]:
        """Return recipient, reverse-path and content of each row, in order; or those of one."""
        rows = self.query(
            "SELECT recipient, reverse_path, content_segment, content_offset, content_length,"
            " content_crc FROM ledger_row WHERE %s IN ('', recipient) ORDER BY id",
            recipient,
        )
        spool = SegmentSpool(self.spool_dir)
        try:
            contents = spool.read_now([ContentRef(*row[2:]) for row in rows])
        finally:
            spool.close()
        found = []
        for row, content in zip(rows, contents, strict=True):
            assert content is not None, f"the content of {row[0]} is gone"
            found.append((str(row[0]), str(row[1]), content))
        return found

    def add_token(self, name: str, clear: str, **columns: object) -> int:
        given = {"account_id": 1, "scopes": ["messages:send"], **columns}
        given |= {"name": name, "token_hash": hashlib.sha256(clear.encode()).hexdigest()}
        names, marks = ", ".join(given), ", ".join(["%s"] * len(given))
        sql = f"INSERT INTO accounts_apitoken ({names}) VALUES ({marks}) RETURNING id"  # noqa: S608
        return int(self.query(sql, *given.values())[0][0])


@contextlib.contextmanager
def furnished(directory: Path) -> Iterator[House]:
    """Make a house, with the account acme and its token `news`."""
    database = stack.postgres_url()
    schema.migrate(database)
    house = House(database, directory)
    house.query(schema_sql())
    house.query(_TOKENS)
    stored = codec.encode(POLICY)
    house.query(
        "INSERT INTO policy_revision (revision, digest, schema_version, body, is_active)"
        " VALUES (7, %s, 1, %s, true)",
        stored.digest,
        stored.body,
    )
    house.add_token("news", TOKEN)
    make_certificate(directory)
    yield house
    stack.drop_postgres(database)


def make_certificate(directory: Path) -> None:
    """Write cert.pem and key.pem for HOST."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def trusting(directory: Path) -> ssl.SSLContext:
    """Return what a client trusts the listener with."""
    context = ssl.create_default_context(cafile=str(directory / "cert.pem"))
    context.check_hostname = False
    return context


class Woken:
    """A Waker nobody listens to."""

    def wake(self) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class FixedPolicy:
    """A policy that never changes."""

    snapshot: PolicySnapshot = POLICY

    def current(self) -> PolicySnapshot:
        return self.snapshot


class Listening:
    """A server on a thread of its own."""

    def __init__(
        self,
        house: House,
        *,
        patience: Patience | None = None,
        policy: PolicySnapshot = POLICY,
        **changes: Any,
    ) -> None:
        self.house = house
        usual = SmtpdSettings(
            listen=(("127.0.0.1", 0),),
            tls_listen=(("127.0.0.1", 0),),
            tls_cert=house.directory / "cert.pem",
            tls_key=house.directory / "key.pem",
            host=HOST,
            networks=LOOPBACK,
        )
        self._settings = replace(usual, **changes)
        self._patience = patience
        self._policy = FixedPolicy(policy)
        self._closing = contextlib.ExitStack()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.server = self._build()

    def _build(self) -> SmtpServer:
        acceptor = Acceptor(self.house.database)
        spool = SegmentSpool(self.house.spool_dir, min_free_bytes=0)
        tokens = TokenDesk(self.house.database)
        for close in (acceptor.close, spool.close, tokens.close):
            self._closing.callback(close)
        clock = LedgerClock()
        letters = LetterIntake(
            Intake(acceptor, spool, clock=clock, waker=Woken()),
            self._policy,
            tokens,
            clock=clock,
            stamp=Stamp(HOST, self._settings.shows_client),
        )

        async def check(user: str, password: str) -> Identity | None:
            return await asyncio.to_thread(tokens.identify, user, password)

        node = self._policy.snapshot.nodes[NODE]
        desk = Desk(
            Door(self._settings, self._policy),
            Batches(letters.take),
            check,
            lambda: postmaster_of(node, HOST),
        )
        return SmtpServer(self._settings, desk, patience=self._patience)

    def __enter__(self) -> Listening:
        self._thread.start()
        self.call(self.server.start())
        self.port, self.tls_port = self.server.ports
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.stop(timeout_s=1.0)

    def call(self, work: Any) -> Any:
        """Run something on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """Stop the server and its thread."""
        self.call(self.server.stop(timeout_s=timeout_s))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._closing.close()


class Wire:
    """A client that sends what it is told."""

    def __init__(self, port: int, *, timeout_s: float = 60.0, receive_bytes: int = 0) -> None:
        self._socket = socket.socket()
        self._socket.settimeout(timeout_s)
        if receive_bytes:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.connect(("127.0.0.1", port))

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, octets: bytes) -> None:
        self._socket.sendall(octets)

    def reply(self) -> str:
        """Return the next reply whole; "" at the end."""
        text = b""
        while not (text.endswith(b"\r\n") and text.splitlines()[-1][3:4] == b" "):
            octet = self.octet()
            if not octet:
                break
            text += octet
        return text.decode("ascii")

    def octet(self) -> bytes:
        """Return what comes next; b"" at the end."""
        return self._socket.recv(1)

    def ask(self, octets: bytes, *, replies: int = 1) -> list[str]:
        """Send and return so many replies."""
        self.send(octets)
        return [self.reply() for _ in range(replies)]

    def reset(self) -> None:
        """Drop the line at once."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def end(self) -> None:
        """End our side."""
        self._socket.shutdown(socket.SHUT_WR)
