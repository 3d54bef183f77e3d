"""No secret lies in clear anywhere but in the three private files that are there to hold one."""

import base64
import mmap
import os
import re
import stat
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import redis
from cryptography.hazmat.primitives import serialization

from control.management.fleet.house import House
from mailcore.events import raw_lines
from mailio.vault import KeyRing
from tests.support.fleet import Load, Running, descendants, eventually
from tests.support.stack import ask_chdb

PRIVATE_FILES = {"secrets.env", "run/env", "api-token"}
PAGES_PER_MODEL = 6
_ROW_PAGE = re.compile(r"^(.*/)\d+/change/$")


def of_database(running: Running) -> Iterator[tuple[str, bytes]]:
    """Yield every table as text, and what is compressed in it."""
    tables = running.query(
        "SELECT table_schema, table_name FROM information_schema.tables"
        " WHERE table_type = 'BASE TABLE'"
        " AND table_schema NOT IN ('pg_catalog', 'information_schema')"
    )
    with psycopg2.connect(running.settings.database_url) as connection:
        for schema, table in tables:
            with connection.cursor() as cursor:
                out = _Bytes()
                cursor.copy_expert(f'COPY "{schema}"."{table}" TO STDOUT', out)
                yield f"table {table}", out.content
    for table in ("ledger_outbox", "ledger_outbox_refused"):
        for (body,) in running.query(f"SELECT body FROM {table}"):  # noqa: S608 (names of ours)
            yield f"events in {table}", raw_lines(bytes(body))
    for (body,) in running.query("SELECT body FROM policy_revision"):
        yield "snapshot", zlib.decompress(bytes(body))


class _Bytes:
    """A file that keeps what COPY writes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, part: bytes) -> int:
        self._parts.append(part)
        return len(part)

    @property
    def content(self) -> bytes:
        return b"".join(self._parts)


def of_statistics(running: Running) -> Iterator[tuple[str, bytes]]:
    url = running.settings.clickhouse_url
    _, names = ask_chdb(url, "SELECT name FROM system.tables WHERE database = currentDatabase()")
    assert b"event" in names
    for name in re.findall(r"[a-z_]+", names.decode()):
        yield "statistics", ask_chdb(url, f"SELECT * FROM {name}")[1]  # noqa: S608


def of_valkey(running: Running) -> Iterator[tuple[str, bytes]]:
    """Yield every key of every database; a value we cannot read as text is dumped."""
    base = running.settings.redis_url.rpartition("/")[0]
    for number in range(16):
        with redis.Redis.from_url(f"{base}/{number}") as client:
            for key in client.scan_iter(count=1000):
                yield "valkey", key + b" " + _value(client, key)


def _value(client: Any, key: bytes) -> bytes:
    reads: dict[bytes, Callable[[], object]] = {
        b"string": lambda: client.get(key),
        b"hash": lambda: client.hgetall(key),
        b"list": lambda: client.lrange(key, 0, -1),
        b"set": lambda: client.smembers(key),
        b"zset": lambda: client.zrange(key, 0, -1, withscores=True),
        b"stream": lambda: client.xrange(key),
    }
    read = reads.get(client.type(key))
    value = client.dump(key) if read is None else read()
    return value if isinstance(value, bytes) else repr(value).encode()


def of_panel(running: Running) -> Iterator[tuple[str, bytes]]:
    """Yield every page of the panel that the first one leads to, a few rows of each kind."""
    panel = running.panel()
    waiting, seen, rows = [panel.url], set[str](), dict[str, int]()
    while waiting:
        url = waiting.pop()
        path, query = urlsplit(url).path, urlsplit(url).query
        row = _ROW_PAGE.match(path)
        if path in seen or "/logout" in path or "/jsi18n" in path:
            continue
        if row is not None:
            rows[row[1]] = rows.get(row[1], 0) + 1
            if rows[row[1]] > PAGES_PER_MODEL:
                continue
        seen.add(path)
        page = panel.get(f"{path}?{query}" if query else path)
        assert page.status == 200, (path, page.status)
        yield "panel", page.text.encode()
        waiting += sorted(panel.links(page), reverse=True)
    assert len(rows) > 10  # kinds of rows whose own pages were read


def of_api(running: Running, message_ids: list[str]) -> Iterator[tuple[str, bytes]]:
    for message_id in message_ids:
        yield "api", running.api.call("GET", f"/messages/{message_id}").body
    for path in ("/openapi.json", "/messages/no-such", "/no-such"):
        yield "api", running.api.call("GET", path).body
    yield "api", running.api.call("POST", "/messages", b"{", {"Authorization": "Bearer x"}).body


def of_processes() -> Iterator[tuple[str, bytes]]:
    for pid in descendants(os.getpid()):
        try:
            yield "command line", Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue


class Everything:
    """All there is to read of a running product."""

    def __init__(self, running: Running, message_ids: list[str]) -> None:
        self._var_dir = running.house.var_dir
        self._texts = [
            *of_database(running),
            *of_statistics(running),
            *of_valkey(running),
            *of_panel(running),
            *of_api(running, message_ids),
            *of_processes(),
        ]

    def places(self, needles: list[bytes]) -> set[str]:
        """Return where one of the needles occurs, files of the var directory included."""
        found = {place for place, text in self._texts if any(n in text for n in needles)}
        for path in self._var_dir.rglob("*"):
            name = str(path.relative_to(self._var_dir))
            if not path.is_symlink() and path.is_file() and _file_has(path, needles):
                found.add("log" if name.startswith("log/") else f"file {name}")
        return found


def _file_has(path: Path, needles: list[bytes]) -> bool:
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return False
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return any(content.find(needle) >= 0 for needle in needles)
    except FileNotFoundError:  # stores delete files while we look
        return False


def forms(secret: bytes) -> list[bytes]:
    """Return how a secret may be written down."""
    return [secret, base64.b64encode(secret), secret.hex().encode()]


def forms_of_key(pem: bytes) -> list[bytes]:
    """Return the ways to write a private key, without the parts that its public half has too."""
    lines = pem.strip().splitlines()[1:-1]
    if len(lines) > 10:
        return lines[8:-1]  # RSA: after the modulus; any line of the rest tells
    key = serialization.load_pem_private_key(pem, password=None)
    raw = key.private_bytes(
        serialization.Encoding.Raw,
        serialization.PrivateFormat.Raw,
        serialization.NoEncryption(),
    )
    return [*lines, *forms(raw)]


def secrets_of(running: Running, mailbox_password: str) -> Mapping[str, list[bytes]]:
    """Return every secret there is, each in the forms to look for."""
    ring = KeyRing(running.settings.secret_keys)
    sealed = running.query("SELECT ref, value FROM vault_secret")
    found = {ref: ring.open(ref, value) for ref, value in sealed}
    keys = {ref: forms_of_key(secret) for ref, secret in found.items() if ref.startswith("key:")}
    assert len(keys) >= 4  # two for each of the lab's sending domains
    assert mailbox_password.encode() in found.values()
    house: House = running.house
    return {
        **keys,
        "mailbox": forms(mailbox_password.encode()),
        "API token": forms(running.api.token.encode()),
        "operator": forms(running.operator_password.encode()),
        "Flower": forms(house.password("FLOWER_PASSWORD").encode()),
        **{f"ring {number}": forms(key) for number, key in running.settings.secret_keys.items()},
    }


def plant(running: Running, marker: str) -> str:
    """Leave a text that is no secret wherever one might lie; return a message that carries it."""
    panel = running.panel()
    form = {"name": f"planted {marker}", "type": "soft", "bounce_class": "policy", "position": "2"}
    panel.save("mta/bouncepattern/add/", "bouncepattern", pattern=marker, **form)
    receipt = running.api.accept(
        {
            "from": "news@sender.test",
            "to": [f"{marker}@accepta.test"],
            "text": "x",
            "custom": {"planted": marker},
        }
    )
    message_id = str(receipt["message_id"])
    eventually(lambda: running.api.recipient(message_id)["state"] == "delivered")
    running.wait_applied()
    with redis.Redis.from_url(running.settings.redis_url) as client:
        client.set("e2e:planted", marker, ex=600)
    (running.house.var_dir / "log" / "planted.log").write_text(marker)
    return message_id


def test_secrets_are_nowhere_in_clear_and_the_search_would_find_them(
    running: Running, campaign: Load
) -> None:
    marker, password = f"planted{uuid.uuid4().hex}", f"pw-{uuid.uuid4().hex}"
    running.panel().save(
        "mailboxes/mailbox/add/",
        "mailbox",
        name=f"box {uuid.uuid4().hex[:6]}",
        host="mail.example.com",
        login="bounces",
        new_password=password,
    )
    message_id = plant(running, marker)
    everything = Everything(running, [message_id, *campaign.message_ids[:5]])
    assert everything.places([marker.encode()]) >= {
        "table mta_bouncepattern",
        "table audit_auditentry",
        "snapshot",
        "events in ledger_outbox",
        "statistics",
        "valkey",
        "panel",
        "api",
        "log",
    }
    private = {f"file {name}" for name in PRIVATE_FILES}
    for name, needles in secrets_of(running, password).items():
        assert everything.places(needles) <= private, name
    for name in PRIVATE_FILES:
        mode = (running.house.var_dir / name).stat().st_mode
        assert stat.S_IMODE(mode) == 0o600, name
    # The private files are read as well, so the search of files works.
    assert everything.places([running.api.token.encode()]) == {"file api-token"}
