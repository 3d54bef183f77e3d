"""Who is refused as unknown is not mailed again: the events themselves fill the stop list."""

import uuid
from itertools import count

from lab.world import default_world
from tests.support.fleet import Load, Running, eventually


def unknown_recipient() -> str:
    """Return an address whose provider says that there is nobody of this name."""
    world = default_world()
    provider = world.provider("refusa")
    (rule,) = provider.manner.rules
    mark = uuid.uuid4().hex[:8]
    names = (f"gone{number}.{mark}@{provider.domains[0].name}" for number in count())
    for name in names:
        if rule.applies(world.seed, name):
            return name
    raise AssertionError("no such name")


def connections_ever(running: Running) -> int:
    counts = running.lab.counts()
    ended, opened = counts["total"]["connections"], counts["open_connections"].values()
    return int(ended + sum(opened))


def test_everybody_refused_as_unknown_in_a_campaign_is_on_the_stop_list(
    running: Running, campaign: Load
) -> None:
    refused = running.seen(campaign).refused
    eventually(lambda: running.applied("stop_list"))
    rows = running.query(
        "SELECT e.recipient, e.reason, a.login_name FROM stop_entry e"
        " JOIN accounts_account a ON a.id = e.account_id WHERE e.recipient LIKE %s",
        f"%.{campaign.run}-%",
    )
    assert {recipient for recipient, _, _ in rows} == refused
    assert {(reason, account) for _, reason, account in rows} == {("hard_bounce", "demo")}


def test_the_second_message_to_an_unknown_recipient_is_stopped_before_any_connection(
    running: Running,
) -> None:
    recipient = unknown_recipient()
    message = {"from": "news@sender.test", "to": [recipient], "text": "x"}
    first = str(running.api.accept(message)["message_id"])
    eventually(lambda: running.api.recipient(first)["state"] == "bounced")
    stopped = "SELECT count(*) FROM stop_entry WHERE recipient = %s"
    eventually(lambda: running.one(stopped, recipient) == 1)
    opened = connections_ever(running)

    receipt = running.api.accept(message)
    (answer,) = receipt["recipients"]
    assert (answer["accepted"], answer["reason"]) == (True, "stopped")
    state = running.api.recipient(receipt["message_id"])
    assert (state["state"], state["queue"]) == ("stopped", None)
    assert [event["kind"] for event in state["trace"]] == ["accepted", "stopped"]
    running.wait_applied()
    assert running.api.recipient(receipt["message_id"])["state"] == "stopped"
    assert len(list(running.lab.facts(recipient=recipient))) == 1
    assert connections_ever(running) == opened


def test_the_stop_list_is_the_accounts_and_shown_at_the_panel(running: Running) -> None:
    (entry,) = running.query("SELECT recipient FROM stop_entry ORDER BY id DESC LIMIT 1")
    assert entry[0] in running.panel().get("stoplists/stopentry/").text
