"""Mail held by the API is purged by the command line, brought back, let go, and arrives once."""

import json
import subprocess
import sys
import uuid
from collections import Counter
from typing import Any

from control.management.fleet.house import TOP
from tests.support import holds
from tests.support.fleet import Running, eventually

COUNT = 5


def queue(running: Running, *arguments: str) -> str:
    """Run `manage.py queue …` to its end beside the fleet."""
    done = subprocess.run(
        [sys.executable, "manage.py", "queue", *arguments],
        cwd=TOP,
        env=running.fleet.environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask(running: Running, path: str, **document: str) -> dict[str, Any]:
    """Let the API do something that it must do; return its answer."""
    answer = running.api.call(
        "POST", path, json.dumps(document).encode(), {"Content-Type": "application/json"}
    )
    assert answer.status in (200, 201), answer.body
    return dict(answer.json())


def last_purge(running: Running) -> int:
    return int(running.one("SELECT max(id) FROM jobs_job WHERE kind = 'queue.purge'"))


def test_held_mail_is_purged_restored_let_go_and_delivered_once(running: Running) -> None:
    campaign, mark = f"purge-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex[:8]

    def send(number: int) -> str:
        recipient = f"p{number}.{mark}@accepta.test"
        message: dict[str, Any] = {"from": "news@sender.test", "to": [recipient], "text": "x"}
        return str(running.api.accept({**message, "campaign": campaign})["message_id"])

    def states(*messages: str) -> Counter[str]:
        return Counter(running.api.recipient(each)["state"] for each in messages)

    first = send(0)
    eventually(lambda: states(first) == {"delivered": 1})
    with holds.obeyed(running):
        hold = ask(running, "/holds", scope="campaign", target=campaign, reason="wrong subject")
    messages = [send(number) for number in range(1, COUNT + 1)]
    assert states(*messages) == {"queued": COUNT}

    only = ("--campaign", campaign, "--reason", "wrong subject")
    assert f"changed: {COUNT}" in queue(running, "purge", *only, "--yes")
    assert states(*messages) == {"purged": COUNT}
    reply = running.api.recipient(messages[0])["trace"][-1]["reply"]
    assert "(command line): wrong subject" in reply

    undone = queue(running, "undo", str(last_purge(running)), "--reason", "the subject was right")
    assert f"changed: {COUNT}" in undone
    assert states(*messages) == {"queued": COUNT}
    assert ask(running, f"/holds/{hold['id']}/release")["state"] == "released"
    eventually(lambda: states(*messages) == {"delivered": COUNT})

    running.wait_applied()
    kinds = Counter(
        event["kind"]
        for each in [first, *messages]
        for event in running.api.recipient(each)["trace"]
    )
    assert kinds == {"accepted": 1 + 2 * COUNT, "purged": COUNT, "delivered": 1 + COUNT}
    assert running.queued(campaign) == 0
    arrived = Counter(
        fact["recipient"]
        for fact in running.lab.facts(recipient_prefix="p")
        if mark in fact["recipient"]
    )
    assert sorted(arrived.values()) == [1] * (1 + COUNT)
    assert running.one("SELECT count(*) FROM queue_undo") == 0
