"""The control API of the lab: what it counted, what it holds, and levers on its DNS and scripts.

Gives    Control: handle(), a handler for HttpServer
Takes    a tally, a zone, a receiver, a world, a postmaster, the mailboxes
Raises   HttpError naming the field at fault
Follows  docs/lab.md, which lists every call
"""

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import asdict
from enum import Enum
from http import HTTPStatus
from typing import Any, TypeVar

from lab.http import HttpError, Request, Response
from lab.mailbox import MailboxServer
from lab.maildrop import ReportKind
from lab.postmaster import Postmaster
from lab.receiver import Closing, Receiver, Script, Stage, Step
from lab.tally import Fate, Tally
from lab.world import Fault, FaultKind, Record, World
from lab.zone import RecordError, Zone

ROWS_PER_PART = 500
_E = TypeVar("_E", bound=Enum)


class Control:
    """The calls, each a method."""

    def __init__(
        self,
        world: World,
        tally: Tally,
        zone: Zone,
        receiver: Receiver,
        postmaster: Postmaster,
        mailboxes: MailboxServer,
    ) -> None:
        self._world = world
        self._tally = tally
        self._zone = zone
        self._receiver = receiver
        self._postmaster = postmaster
        self._mailboxes = mailboxes
        self._calls: dict[tuple[str, str], Callable[[Request], Awaitable[Response]]] = {
            ("GET", "/health"): self._health,
            ("GET", "/world"): self._show_world,
            ("GET", "/counts"): self._counts,
            ("GET", "/ids"): self._ids,
            ("GET", "/endings"): self._endings,
            ("GET", "/late"): self._late,
            ("POST", "/late"): self._bounce,
            ("GET", "/complaints"): self._complaints,
            ("POST", "/complaints"): self._complain,
            ("GET", "/mailboxes"): self._show_mailboxes,
            ("GET", "/messages"): self._messages,
            ("POST", "/keep"): self._keep,
            ("POST", "/script"): self._script,
            ("POST", "/dns"): self._add_record,
            ("DELETE", "/dns"): self._remove_record,
            ("POST", "/dns/faults"): self._script_fault,
            ("DELETE", "/dns/faults"): self._remove_fault,
            ("POST", "/reset"): self._reset,
        }

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        call = self._calls.get((request.method, request.path))
        if call is not None:
            return await call(request)
        if request.method == "GET" and request.path.startswith("/messages/"):
            return await self._message(request)
        if any(path == request.path for _, path in self._calls):
            raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, f"{request.path}: not by this method")
        raise HttpError(HTTPStatus.NOT_FOUND, f"no such call: {request.path}")

    # -- looking -------------------------------------------------------------------------------

    async def _health(self, request: Request) -> Response:
        return Response.of_json({"status": "ok", "smtp_port": self._receiver.port})

    async def _show_world(self, request: Request) -> Response:
        return Response.of_json(_plain(asdict(self._world)))

    async def _counts(self, request: Request) -> Response:
        counts = self._tally.counts()
        reported = self._postmaster.counts(counts["providers"])
        for key, found in reported.items():
            counts["providers"][key] |= found
        for kind in ReportKind:
            counts["total"][kind.value] = sum(one[kind.value] for one in reported.values())
        counts["open_connections"] = self._receiver.open_connections()
        counts["reports_due"] = self._postmaster.due_count
        return Response.of_json(counts)

    async def _endings(self, request: Request) -> Response:
        rows = [
            asdict(ending) | {"on_the_wire": ending.on_the_wire}
            for ending in self._tally.endings
            if "lost" not in request.query or not ending.is_clean
        ]
        return Response.of_json({"results": rows})

    async def _ids(self, request: Request) -> Response:
        allowed = {"fate", "provider", "recipient", "recipient_prefix", "id"}
        if unknown := set(request.query) - allowed:
            raise HttpError(
                HTTPStatus.BAD_REQUEST,
                f"unknown parameter, know {', '.join(sorted(allowed))}",
                pointer=f"/{min(unknown)}",
            )
        if "fate" in request.query:
            _member(Fate, request.query["fate"], "/fate")
        prefix = request.query.get("recipient_prefix", "")
        wanted = [item for item in request.query.items() if item[0] != "recipient_prefix"]
        rows = (
            row
            if row["kind"] == "fact"
            and row["recipient"].startswith(prefix)
            and all(row[name] == value for name, value in wanted)
            else None
            for row in self._tally.rows()
        )
        return _lines(rows)

    async def _late(self, request: Request) -> Response:
        return _lines(one.row() for one in self._postmaster.reports(ReportKind.LATE_BOUNCED))

    async def _complaints(self, request: Request) -> Response:
        return _lines(one.row() for one in self._postmaster.reports(ReportKind.COMPLAINED))

    async def _show_mailboxes(self, request: Request) -> Response:
        accounts = (self._world.bounces, self._world.complaints)
        rows = []
        for one in accounts:
            _, drop = self._mailboxes.drops[one.user]
            rows.append(asdict(one) | {"messages": len(drop), "size_bytes": drop.size_bytes})
        ports = {"port": self._mailboxes.port, "tls_port": self._mailboxes.tls_port}
        certificate = str(self._mailboxes.certificate)
        return Response.of_json(
            {"host": "127.0.0.1", **ports, "certificate": certificate, "results": rows}
        )

    async def _messages(self, request: Request) -> Response:
        return Response.of_json({"results": self._tally.stored_ids()})

    async def _message(self, request: Request) -> Response:
        lab_id = request.path.removeprefix("/messages/")
        copies = self._tally.messages(lab_id)
        number = request.query.get("copy", "-1")
        if not re.fullmatch(r"-?[0-9]{1,6}", number):
            raise HttpError(HTTPStatus.BAD_REQUEST, "must be a number from 0", pointer="/copy")
        try:
            message = copies[int(number)]
        except IndexError:
            detail = f"{lab_id}: {len(copies)} copies stored, none with this number"
            raise HttpError(HTTPStatus.NOT_FOUND, detail) from None
        envelope = {
            "provider": message.provider,
            "reverse_path": message.reverse_path,
            "recipients": message.recipients,
            "sha256": message.sha256,
            "at": message.at,
            "copies": len(copies),
        }
        headers = {"X-Lab-Envelope": json.dumps(envelope)}
        return Response(message.content, content_type="message/rfc822", headers=headers)

    # -- acting --------------------------------------------------------------------------------

    async def _keep(self, request: Request) -> Response:
        prefixes = _strings(_object(request, "prefixes"), "prefixes")
        self._tally.keep_prefixes = prefixes
        return Response.of_json({"prefixes": prefixes})

    async def _script(self, request: Request) -> Response:
        document = _object(request, "provider", "host", "script", "is_per_connection")
        script = document.get("script", {})
        if not isinstance(script, dict):
            raise _bad("/script", "must be an object of stages")
        stages = {
            _member(Stage, stage, f"/script/{stage}").value: _steps(steps, f"/script/{stage}")
            for stage, steps in script.items()
        }
        played = Script.of(is_per_connection=document.get("is_per_connection") is True, **stages)
        try:
            self._receiver.play(
                played, provider=document.get("provider"), host=document.get("host")
            )
        except KeyError as exc:
            raise _bad("/provider", str(exc.args[0])) from exc
        return Response.of_json({"status": "ok"})

    async def _bounce(self, request: Request) -> Response:
        return self._report(request, ReportKind.LATE_BOUNCED)

    async def _complain(self, request: Request) -> Response:
        return self._report(request, ReportKind.COMPLAINED)

    def _report(self, request: Request, kind: ReportKind) -> Response:
        document = _object(request, "id", "recipient")
        lab_id, recipient = _string(document, "id"), _string(document, "recipient")
        copies = [one for one in self._tally.messages(lab_id) if recipient in one.recipients]
        if not copies:
            detail = f"{lab_id}: no stored copy for {recipient}"
            raise HttpError(HTTPStatus.NOT_FOUND, detail, pointer="/id")
        try:
            report = self._postmaster.report(copies[-1], recipient, kind)
        except ValueError as exc:
            raise _bad("/recipient", str(exc)) from exc
        return Response.of_json(report.row(), HTTPStatus.CREATED)

    async def _add_record(self, request: Request) -> Response:
        document = _object(request, "name", "type", "values", "ttl_s")
        ttl_s = document.get("ttl_s", 60)
        if not isinstance(ttl_s, int) or isinstance(ttl_s, bool):
            raise _bad("/ttl_s", "must be a whole number of seconds")
        record = Record(
            _string(document, "name"),
            _string(document, "type"),
            _strings(document, "values"),
            ttl_s,
        )
        try:
            self._zone.add(record)
        except RecordError as exc:
            raise _bad("", str(exc)) from exc
        return Response.of_json(asdict(record), HTTPStatus.CREATED)

    async def _remove_record(self, request: Request) -> Response:
        try:
            found = self._zone.remove(request.query.get("name", ""), request.query.get("type", ""))
        except RecordError as exc:
            raise _bad("", str(exc)) from exc
        return _gone(found, "no such record")

    async def _script_fault(self, request: Request) -> Response:
        document = _object(request, "name", "kind", "delay_s", "times")
        delay_s, times = document.get("delay_s", 0.0), document.get("times")
        if not isinstance(delay_s, int | float) or isinstance(delay_s, bool):
            raise _bad("/delay_s", "must be a number of seconds")
        if times is not None and (not isinstance(times, int) or isinstance(times, bool)):
            raise _bad("/times", "must be a whole number, or absent")
        kind = _member(FaultKind, _string(document, "kind"), "/kind")
        fault = Fault(_string(document, "name"), kind, float(delay_s), times)
        try:
            self._zone.script_fault(fault)
        except RecordError as exc:
            raise _bad("", str(exc)) from exc
        return Response.of_json(_plain(asdict(fault)), HTTPStatus.CREATED)

    async def _remove_fault(self, request: Request) -> Response:
        try:
            found = self._zone.remove_fault(request.query.get("name", ""))
        except RecordError as exc:
            raise _bad("/name", str(exc)) from exc
        return _gone(found, "no such fault")

    async def _reset(self, request: Request) -> Response:
        self._tally.reset()
        self._receiver.reset()
        self._postmaster.reset()
        # Keys set at run time stay unless asked for: the product would not set them anew.
        if _object(request, "dns").get("dns") is True:
            self._zone.reset()
        return Response.of_json({"status": "ok"})


def _lines(rows: Iterable[dict[str, Any] | None]) -> Response:
    return Response(content_type="application/x-ndjson", stream=_stream(rows))


async def _stream(rows: Iterable[dict[str, Any] | None]) -> AsyncIterator[bytes]:
    """Yield rows as lines, None left out, and let the receivers work in between."""
    part: list[str] = []
    for number, row in enumerate(rows, start=1):
        if row is not None:
            part.append(json.dumps(row) + "\n")
        if number % ROWS_PER_PART == 0:
            if part:
                yield "".join(part).encode()
                part.clear()
            await asyncio.sleep(0)
    if part:
        yield "".join(part).encode()


def _bad(pointer: str, detail: str) -> HttpError:
    return HttpError(HTTPStatus.UNPROCESSABLE_ENTITY, detail, pointer=pointer)


def _gone(found: bool, detail: str) -> Response:
    if not found:
        raise HttpError(HTTPStatus.NOT_FOUND, detail)
    return Response(status=HTTPStatus.NO_CONTENT)


def _object(request: Request, *known: str) -> dict[str, Any]:
    document = request.json_object()
    if unknown := set(document) - set(known):
        raise _bad(f"/{min(unknown)}", "unknown field")
    return document


def _string(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise _bad(f"/{name}", "must be a string that is not empty")
    return value


def _strings(document: dict[str, Any], name: str) -> tuple[str, ...]:
    value = document.get(name)
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise _bad(f"/{name}", "must be a list of strings")
    return tuple(value)


def _member(kind: type[_E], value: object, pointer: str) -> _E:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(str(one.value) for one in kind)
        raise _bad(pointer, f"must be one of {known}") from None


def _steps(value: object, pointer: str) -> list[Step]:
    """Read steps: a reply as a string, or {reply, delay_s, closing}; delay_s null is a stall."""
    if not isinstance(value, list):
        raise _bad(pointer, "must be a list of steps")
    steps = []
    for number, one in enumerate(value):
        here = f"{pointer}/{number}"
        fields = {"reply": one} if isinstance(one, str) else one
        if not isinstance(fields, dict) or set(fields) - {"reply", "delay_s", "closing"}:
            raise _bad(here, "must be a reply, or an object of reply, delay_s, closing")
        reply, delay_s = fields.get("reply"), fields.get("delay_s", 0.0)
        if not isinstance(reply, str | None):
            raise _bad(f"{here}/reply", "must be a string")
        if not isinstance(delay_s, int | float | None) or isinstance(delay_s, bool):
            raise _bad(f"{here}/delay_s", "must be seconds, or null for ever")
        closing = _member(Closing, fields.get("closing", "never"), f"{here}/closing")
        try:
            steps.append(Step(reply, math.inf if delay_s is None else float(delay_s), closing))
        except ValueError as exc:
            raise _bad(here, str(exc)) from exc
    return steps


def _plain(value: object) -> object:
    """Return a value as JSON has it: enums by value, sets in order."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(str(_plain(one)) for one in value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
