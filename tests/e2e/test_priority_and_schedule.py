"""What is to wait, waits; what is urgent goes by processes of its own."""

import uuid
from datetime import UTC, datetime, timedelta

from tests.support.fleet import Running, eventually


def fresh(domain: str = "accepta.test") -> str:
    return f"{uuid.uuid4().hex}@{domain}"


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
        found = running.flower("/api/tasks?taskname=deliver.drain&limit=10000").json()
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
