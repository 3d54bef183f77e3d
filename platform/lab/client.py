"""Talk to a lab that runs in another process.

Gives    LabClient: health(), counts(), facts(), late(), complaints(), bounce(), complain(),
         mailboxes(), endings(), message(), keep(), script(), set_record(), set_fault(),
         clear_fault(), reset()
Takes    the control port the lab printed when it was ready
Raises   LabError when the lab refuses a call or cannot be reached, with its reason
Follows  docs/lab.md
"""

import http.client
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

TIMEOUT_S = 30.0


class LabError(Exception):
    """The lab did not do what was asked."""


class LabClient:
    """One lab, by its control API."""

    def __init__(self, control_port: int) -> None:
        self._port = control_port

    def health(self) -> dict[str, Any]:
        """Return the state of the lab."""
        return self._json("GET", "/health")

    def counts(self) -> dict[str, Any]:
        """Return what the receivers counted, per provider and in total."""
        return self._json("GET", "/counts")

    def facts(self, **wanted: str) -> Iterator[dict[str, Any]]:
        """Return journaled facts; narrow them by provider, fate, recipient, its prefix, or id."""
        return self._rows("/ids?" + urlencode(wanted))

    def late(self) -> Iterator[dict[str, Any]]:
        """Yield a row for every late report of non-delivery that was put into our mailbox."""
        return self._rows("/late")

    def complaints(self) -> Iterator[dict[str, Any]]:
        """Yield a row for every complaint that was put into our mailbox."""
        return self._rows("/complaints")

    def bounce(self, lab_id: str, recipient: str) -> dict[str, Any]:
        """Report a message kept whole as undeliverable, now."""
        return self._json("POST", "/late", {"id": lab_id, "recipient": recipient})

    def complain(self, lab_id: str, recipient: str) -> dict[str, Any]:
        """Complain of a message kept whole, now."""
        return self._json("POST", "/complaints", {"id": lab_id, "recipient": recipient})

    def mailboxes(self) -> dict[str, Any]:
        """Return where our mailboxes are read, who may, and how much lies in them."""
        return self._json("GET", "/mailboxes")

    def endings(self, *, lost_only: bool = False) -> list[dict[str, Any]]:
        """Return how the latest connections ended."""
        found = self._json("GET", "/endings" + ("?lost" if lost_only else ""))["results"]
        return list(found)

    def message(self, lab_id: str) -> bytes:
        """Return the bytes of the latest copy of a message."""
        connection, response = self._open("GET", "/messages/" + quote(lab_id, safe=""))
        try:
            return response.read()
        finally:
            connection.close()

    def keep(self, prefixes: Sequence[str]) -> None:
        """Keep every message whose id begins so, beside the latest few."""
        self._json("POST", "/keep", {"prefixes": list(prefixes)})

    def script(
        self, stages: Mapping[str, object], *, provider: str, is_per_connection: bool = False
    ) -> None:
        """Let a provider follow a script."""
        document = {"provider": provider, "script": dict(stages)}
        self._json("POST", "/script", document | {"is_per_connection": is_per_connection})

    def set_record(self, name: str, kind: str, values: Sequence[str], *, ttl_s: int = 60) -> None:
        """Set the record set of a name: a DKIM key, for one."""
        document = {"name": name, "type": kind, "values": list(values), "ttl_s": ttl_s}
        self._json("POST", "/dns", document)

    def set_fault(
        self, name: str, kind: str, *, delay_s: float = 0.0, times: int | None = None
    ) -> None:
        """Let a name fail."""
        document = {"name": name, "kind": kind, "delay_s": delay_s, "times": times}
        self._json("POST", "/dns/faults", document)

    def clear_fault(self, name: str) -> None:
        """Let a name resolve again."""
        self._json("DELETE", "/dns/faults?" + urlencode({"name": name}))

    def reset(self, *, dns: bool = False) -> None:
        """Forget counts, journal, scripts and greylisting; records and faults when asked."""
        self._json("POST", "/reset", {"dns": dns})

    def _rows(self, target: str) -> Iterator[dict[str, Any]]:
        connection, response = self._open("GET", target)
        try:
            for line in response:
                yield json.loads(line)
        finally:
            connection.close()

    def _json(self, method: str, target: str, document: object = None) -> dict[str, Any]:
        connection, response = self._open(method, target, document)
        try:
            value = json.loads(response.read() or b"{}")
        except ValueError as exc:
            raise LabError(f"{method} {target}: the answer is not JSON") from exc
        finally:
            connection.close()
        if not isinstance(value, dict):
            raise LabError(f"{method} {target}: the answer is not an object")
        return value

    def _open(
        self, method: str, target: str, document: object = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        try:
            body = None if document is None else json.dumps(document)
            connection.request(method, target, body)
            response = connection.getresponse()
            if response.status >= 400:
                reason = response.read().decode("utf-8", "replace").strip()
                raise LabError(f"{method} {target}: {response.status} {reason}")
        except (OSError, http.client.HTTPException) as exc:
            connection.close()
            raise LabError(f"{method} {target}: {exc or type(exc).__name__}") from exc
        except LabError:
            connection.close()
            raise
        return connection, response
