"""A change saved at the panel is in force in every worker without a restart."""

import time
import uuid

import pytest

from tests.support.fleet import Running, eventually

ACKNOWLEDGED = """
SELECT count(*) FILTER (WHERE revision = %s), count(*)
  FROM policy_ack WHERE at > statement_timestamp() - interval '30 seconds'
"""


def active(running: Running) -> int:
    return int(running.one("SELECT revision FROM policy_revision WHERE is_active"))


def test_a_new_bounce_pattern_decides_at_once_in_the_workers_that_run(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    eventually(lambda: running.query(ACKNOWLEDGED, active(running))[0][1] >= 5)
    pids, before = running.fleet.pids(), active(running)
    name = f"moonstruck {uuid.uuid4().hex[:6]}"
    panel = running.panel()
    form = {"name": name, "type": "soft", "bounce_class": "policy", "position": "1"}
    began = time.monotonic()
    panel.save("mta/bouncepattern/add/", "bouncepattern", pattern="moon is not right", **form)
    saved_s = time.monotonic() - began
    revision = active(running)
    assert revision == before + 1

    def is_in_force() -> bool:
        ((those, all_of_them),) = running.query(ACKNOWLEDGED, revision)
        return bool(those == all_of_them)

    delay_s = eventually(is_in_force)
    with capsys.disabled():
        print(f"\n[saved in {saved_s:.2f} s; in force in all workers {delay_s:.2f} s later]")

    # By its code a 550 ends the message; the new rule says it is worth another try.
    running.lab.script({"rcpt": ["550 5.7.9 The moon is not right tonight"]}, provider="accepta")
    sent = running.api.accept(
        {"from": "news@sender.test", "to": [f"{uuid.uuid4().hex}@accepta.test"], "text": "x"}
    )
    message_id = str(sent["message_id"])
    eventually(lambda: running.api.recipient(message_id)["state"] == "delivered")
    trace = running.api.recipient(message_id)["trace"]
    assert [event["kind"] for event in trace] == ["accepted", "deferred", "delivered"]
    assert (trace[1]["rule"], trace[1]["code"]) == (name, 550)
    assert {event["policy_revision"] for event in trace[1:]} == {revision}
    assert running.fleet.pids() == pids
    assert f"revision {revision}" in panel.get().text.lower()


def test_a_change_that_makes_no_policy_is_refused_and_the_fleet_goes_on(running: Running) -> None:
    before = active(running)
    panel = running.panel()
    page = panel.send(
        "mta/bouncepattern/add/",
        "bouncepattern_form",
        name="broken",
        type="hard",
        bounce_class="policy",
        pattern="(unfinished",
    )
    assert "regular expression" in " ".join(panel.complaints(page))
    assert active(running) == before
