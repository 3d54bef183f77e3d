"""The control API tells what was counted and moves the levers, or says what is wrong."""

import asyncio
import hashlib
import json

import pytest

from lab.client import LabClient, LabError
from lab.report import summary, table
from lab.run import Lab
from tests.io.lab.support import MESSAGE, dialogue


async def call(lab: Lab, head: str, body: bytes = b"") -> tuple[int, bytes]:
    """Send one raw request and return status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.http.port)
    length = f"\r\nContent-Length: {len(body)}" if body else ""
    writer.write(f"{head}{length}\r\n\r\n".encode() + body)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    first, _, rest = answer.partition(b"\r\n\r\n")
    return int(first.split()[1]), rest


async def test_counts_facts_and_bytes_come_back_over_http(lab: Lab) -> None:
    content = MESSAGE % b"<odd/id 1>"
    async with dialogue(lab) as line:
        await line.begin()
        await line.deliver("a@accepta.test", content)
        await line.deliver("a@accepta.test", content)
    async with dialogue(lab, "refusa") as line:
        await line.begin()
        for number in range(30):
            await line.deliver(f"u{number}@refusa.test", MESSAGE % (b"r%d" % number))

    def look(client: LabClient) -> None:
        assert client.health()["status"] == "ok"
        counts = client.counts()
        accepta, refusa = counts["providers"]["accepta"], counts["providers"]["refusa"]
        assert (accepta["accepted_unique"], accepta["duplicates"]) == (1, 1)
        assert refusa["accepted_unique"] + refusa["refused_unique"] == 30
        assert counts["total"]["duplicates"] == 1
        refused = {row["recipient"] for row in client.facts(fate="refused")}
        accepted = {row["recipient"] for row in client.facts(fate="accepted", provider="refusa")}
        assert len(refused) == refusa["refused_unique"]
        assert refused.isdisjoint(accepted)
        begin = {row["recipient"] for row in client.facts(recipient_prefix="u1")}
        assert begin == {one for one in accepted | refused if one.startswith("u1")}
        assert len(begin) == 11
        (first, second) = client.facts(id="<odd/id 1>")
        assert first["sha256"] == second["sha256"] == hashlib.sha256(content).hexdigest()
        assert client.message("<odd/id 1>") == content
        with pytest.raises(LabError, match="404"):
            client.message("never sent")

    await asyncio.to_thread(look, LabClient(lab.http.port))


async def test_kept_messages_outlive_the_latest_few(lab: Lab) -> None:
    await asyncio.to_thread(LabClient(lab.http.port).keep, ["keep-"])
    async with dialogue(lab) as line:
        await line.begin()
        for number in range(250):
            name = b"keep-%d" % number if number < 2 else b"m%d" % number
            await line.deliver("a@accepta.test", MESSAGE % name)
    stored = lab.tally.stored_ids()
    assert stored[:3] == ["keep-0", "keep-1", "m50"]
    assert len(stored) == 202


async def test_dns_and_scripts_are_set_from_outside_and_reset(lab: Lab) -> None:
    client = LabClient(lab.http.port)

    def move() -> None:
        client.set_record("s._domainkey.sender.test", "TXT", ['"v=DKIM1; p=AA"'])
        client.set_fault("accepta.test", "servfail", times=1)
        client.clear_fault("accepta.test")
        client.script({"mail": ["451 4.3.0 later"], "rcpt": [{"delay_s": 0}]}, provider="accepta")

    await asyncio.to_thread(move)
    assert lab.zone.remove("s._domainkey.sender.test", "TXT")
    async with dialogue(lab) as line:
        await line.begin()
        assert await line.say("MAIL FROM:<>") == "451 4.3.0 later"
        await line.deliver("a@accepta.test", MESSAGE % b"x")
        await asyncio.to_thread(client.reset)
        assert lab.tally.counts()["total"]["accepted"] == 0
        assert list(lab.tally.rows()) == []
        await line.deliver("a@accepta.test", MESSAGE % b"x")
        assert lab.tally.counts()["total"]["duplicates"] == 0


@pytest.mark.parametrize(
    ("method", "path", "document", "status", "pointer"),
    [
        ("POST", "/dns", {"name": "a.test", "type": "A"}, 422, "/values"),
        ("POST", "/dns", {"name": "a.test", "type": "A", "values": ["1.2.3"]}, 422, ""),
        ("POST", "/dns", {"name": "", "type": "A", "values": ["127.0.0.1"]}, 422, "/name"),
        ("POST", "/dns", {"nam": "a.test"}, 422, "/nam"),
        ("POST", "/dns/faults", {"name": "a.test", "kind": "gone"}, 422, "/kind"),
        (
            "POST",
            "/dns/faults",
            {"name": "a.b", "kind": "slow", "delay_s": "1"},
            422,
            "/delay_s",
        ),
        ("POST", "/dns/faults", {"name": "a.test", "kind": "slow", "times": 0}, 422, ""),
        ("POST", "/script", {"provider": "nobody", "script": {}}, 422, "/provider"),
        ("POST", "/script", {"script": {"lunch": []}}, 422, "/script/lunch"),
        ("POST", "/script", {"script": {"mail": ["hello"]}}, 422, "/script/mail/0"),
        ("POST", "/script", {"script": {"mail": [{"delay_s": -1}]}}, 422, "/script/mail/0"),
        ("POST", "/keep", {"prefixes": "x"}, 422, "/prefixes"),
        ("POST", "/keep", [], 400, ""),
        ("GET", "/ids?fat=x", None, 400, "/fat"),
        ("GET", "/ids?fate=x", None, 422, "/fate"),
        ("GET", "/messages/x?copy=one", None, 400, "/copy"),
        ("DELETE", "/dns?name=accepta.test&type=TXT", None, 404, None),
        ("GET", "/nowhere", None, 404, None),
        ("PUT", "/dns", {}, 405, None),
    ],
)
async def test_a_bad_call_is_refused_with_its_field(
    lab: Lab, method: str, path: str, document: object, status: int, pointer: str | None
) -> None:
    body = b"" if document is None else json.dumps(document).encode()
    found, answer = await call(lab, f"{method} {path} HTTP/1.1", body)
    problem = json.loads(answer)
    assert (found, problem.get("pointer")) == (status, pointer)
    assert problem["detail"]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET", 400),
        ("GET / HTTP/1.1\r\nContent-Length: x", 400),
        ("POST /dns HTTP/1.1\r\nContent-Length: 99999999", 413),
        ("POST /dns HTTP/1.1\r\nTransfer-Encoding: chunked", 411),
        ("GET / HTTP/1.1\r\nX: " + "y" * 20_000, 431),
    ],
)
async def test_a_malformed_request_gets_a_status(lab: Lab, head: str, status: int) -> None:
    assert (await call(lab, head))[0] == status


async def test_the_report_shows_each_provider_and_the_total(lab: Lab) -> None:
    async with dialogue(lab) as line:
        await line.begin()
        for recipient in ("a@accepta.test", "a@accepta.test", "b@accepta.test"):
            await line.deliver(recipient, MESSAGE % b"one")
    counts = lab.tally.counts()
    lines = table(counts, offered={"accepta": 2, "refusa": 3}).splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["provider", "offered", "accepted", "twice"],
        ["accepta", "2", "2", "1"],
        ["greylisto", "0", "0", "0"],
        ["refusa", "3", "0", "0"],
        ["total", "5", "2", "1"],
    ]
    assert summary(counts).duplicated == 1
    assert summary(counts).unaccounted(5) == 3
