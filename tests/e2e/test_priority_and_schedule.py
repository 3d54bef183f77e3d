"""What is to wait, waits; what is urgent goes by processes of its own."""

import base64
import json
import urllib.request
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from control.management.fleet.launch import FLOWER_USER
from tests.support.fleet import Running, eventually


def fresh(domain: str = "accepta.test") -> str:
    return f"{uuid.uuid4().hex}@{domain}"


def ask_flower(running: Running, path: str) -> Any:
    password = running.house.password("FLOWER_PASSWORD")
    credentials = base64.b64encode(f"{FLOWER_USER}:{password}".encode()).decode()
    url = running.fleet.addresses.flower + path
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {credentials}"})  # noqa: S310 (http)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        return json.loads(answer.read())


def test_what_is_to_be_sent_later_is_not_sent_before(running: Running) -> None:
    recipient = fresh()
    send_at = datetime.now(UTC) + timedelta(seconds=2)
    receipt = running.api.accept(
        {
            "from": "news@sender.test",
            "to": [recipient],
            "text": "x",
            "send_at": send_at.isoformat(),
        }
    )
    state = running.api.recipient(receipt["message_id"])
    if datetime.now(UTC) < send_at:  # else this machine was too busy to look in time
        assert state["state"] == "queued"
        assert datetime.fromisoformat(state["queue"]["next_due_at"]) >= send_at - timedelta(
            milliseconds=1
        )
    eventually(lambda: any(running.lab.facts(recipient=recipient)))
    (fact,) = running.lab.facts(recipient=recipient)
    assert fact["fate"] == "accepted"
    assert fact["at"] >= send_at.timestamp()


def test_a_priority_message_is_drained_by_the_priority_process(running: Running) -> None:
    def drained_by_priority() -> int:
        found = ask_flower(running, "api/tasks?taskname=deliver.drain&limit=10000")
        workers = [task["worker"] for task in found.values() if task["state"] != "PENDING"]
        return sum(str(worker).startswith("priority@") for worker in workers)

    before = drained_by_priority()
    receipt = running.api.accept(
        {"from": "news@sender.test", "to": [fresh()], "text": "x", "priority": True}
    )
    message_id = receipt["message_id"]
    eventually(lambda: running.api.recipient(message_id)["state"] == "delivered")
    trace = running.api.recipient(message_id)["trace"]
    assert {event["mail_class"] for event in trace} == {"priority"}
    eventually(lambda: drained_by_priority() > before)
