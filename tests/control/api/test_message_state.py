"""A program that asks what became of a message sees every recipient and all that happened."""

import json
import os
from dataclasses import asdict
from typing import Any
from uuid import UUID

import pytest

from control.mta.models import PoolMember
from control.nodes.models import Source
from control.queue.services import place_hold, release_hold
from control.submission import services
from mailcore.events import Event, EventKind, encode_lines, event_id
from tests.control.api.conftest import Api, body_of, message, new_token, problem_of
from tests.control.conftest import SYSTEM

pytestmark = pytest.mark.django_db


def sent(api: Api, **changes: Any) -> str:
    response = api.send(message(**changes))
    assert response.status_code == 202, response.content
    return str(body_of(response)["message_id"])


def state(api: Api, message_id: str) -> dict[str, Any]:
    response = api.get(f"/api/v2/messages/{message_id}")
    assert response.status_code == 200, response.content
    answer: dict[str, Any] = body_of(response)
    return answer


def later(event: Event, kind: EventKind, *, after_ms: int, **changes: Any) -> Event:
    return Event(
        **asdict(event)
        | {
            "kind": kind.value,
            "claim_no": 1,
            "occurred_ms": event.occurred_ms + after_ms,
            "event_id": event_id(
                message_id=UUID(event.message_id),
                recipient_no=event.recipient_no,
                claim_no=1,
                kind=kind,
            ),
        }
        | changes
    )


def settle(api: Api, *events: Event) -> None:
    """Do as a settle does: end the rows, tell it in the outbox."""
    for event in events:
        api.query(
            "DELETE FROM ledger_row WHERE message_id = %s AND recipient_no = %s",
            event.message_id,
            event.recipient_no,
        )
    api.query(
        "INSERT INTO ledger_outbox (event_count, body) VALUES (%s, %s)",
        len(events),
        encode_lines(events),
    )


def test_a_queued_recipient_says_why_it_waits_and_until_when(api: Api) -> None:
    message_id = sent(api, to=["a@x.test", "nobody"], send_at="2026-12-24T18:00:00+01:00")
    api.query("UPDATE ledger_row SET reason = 'retry', last_reply = '451 4.7.1 later', attempt = 2")
    answer = state(api, message_id)
    assert (answer["message_id"], answer["is_trace_complete"]) == (message_id, True)
    first, second = answer["recipients"]
    assert (first["recipient"], first["state"]) == ("a@x.test", "queued")
    queue = first["queue"]
    assert (queue["state"], queue["reason"], queue["attempts"]) == ("waiting", "retry", 2)
    assert queue["last_reply"] == "451 4.7.1 later"
    assert queue["next_due_at"] == "2026-12-24T17:00:00.000Z"
    assert queue["expires_at"] == "2026-12-25T17:00:00.000Z"
    assert queue["priority"] == "main"
    assert [event["kind"] for event in first["trace"]] == ["accepted"]
    assert (second["recipient"], second["state"], second["queue"]) == ("nobody", "rejected", None)
    assert second["trace"][0]["rule"] == "malformed_address"


def test_events_of_outbox_and_statistics_are_one_trace_without_repeats(api: Api) -> None:
    message_id = sent(api, to=["a@x.test", "b@x.test"])
    first, second = api.events()
    deferred = later(first, EventKind.DEFERRED, after_ms=10, code=451, reply="451 later")
    delivered = later(first, EventKind.DELIVERED, after_ms=20, code=250)
    bounced = later(second, EventKind.BOUNCED, after_ms=5, code=550, bounce_type="hard")
    settle(api, delivered, bounced)
    api.statistics.rows = [asdict(event) for event in (deferred, first, bounced)]
    answer = state(api, message_id)
    shown = {
        one["recipient"]: (one["state"], [event["kind"] for event in one["trace"]])
        for one in answer["recipients"]
    }
    assert shown == {
        "a@x.test": ("delivered", ["accepted", "deferred", "delivered"]),
        "b@x.test": ("bounced", ["accepted", "bounced"]),
    }
    event = answer["recipients"][1]["trace"][1]
    assert (event["code"], event["bounce_type"]) == (550, "hard")
    assert event["occurred_at"].endswith("Z")
    assert "campaign" not in event


def test_a_row_whose_outcome_is_unknown_says_so(api: Api) -> None:
    message_id = sent(api)
    api.query("UPDATE ledger_row SET state = 2, reason = 'unknown_outcome'")
    (one,) = state(api, message_id)["recipients"]
    assert (one["state"], one["queue"]["state"]) == ("unknown", "unknown")


def test_a_final_event_outweighs_a_row_read_just_before_it(api: Api) -> None:
    message_id = sent(api)
    (accepted,) = api.events()
    api.statistics.rows = [asdict(later(accepted, EventKind.DELIVERED, after_ms=40))]
    (one,) = state(api, message_id)["recipients"]
    assert (one["state"], one["queue"]) == ("delivered", None)


def test_mail_whose_purge_was_undone_is_queued_again_and_then_what_it_becomes(api: Api) -> None:
    message_id = sent(api)
    (accepted,) = api.events()
    purged = later(accepted, EventKind.PURGED, after_ms=10, claim_no=0)
    restored = later(accepted, EventKind.ACCEPTED, after_ms=20)
    api.statistics.rows = [asdict(event) for event in (accepted, purged)]
    assert [one["state"] for one in state(api, message_id)["recipients"]] == ["purged"]
    api.statistics.rows.append(asdict(restored))
    (one,) = state(api, message_id)["recipients"]
    assert (one["state"], one["queue"]["state"]) == ("queued", "waiting")
    assert [event["kind"] for event in one["trace"]] == ["accepted", "purged", "accepted"]
    settle(api, later(accepted, EventKind.DELIVERED, after_ms=30, claim_no=2))
    assert [one["state"] for one in state(api, message_id)["recipients"]] == ["delivered"]


def test_a_message_is_shown_to_its_own_account_alone(api: Api) -> None:
    message_id = sent(api)
    path = f"/api/v2/messages/{message_id}"
    api.query("UPDATE ledger_lane SET account_id = account_id + 1000")
    (mine,) = api.events()
    api.query("DELETE FROM ledger_outbox")
    api.statistics.rows = [asdict(mine) | {"account_id": mine.account_id + 1000}]
    response = api.get(path)
    assert response.status_code == 404
    assert problem_of(response) == [("", "not_found")]
    sender = new_token(api.house, "messages:send", name="sender")
    assert api.get(path, Authorization=f"Bearer {sender}").status_code == 403


def test_the_queue_is_shown_while_the_statistics_are_away(api: Api) -> None:
    message_id = sent(api)
    api.statistics.is_away = True
    answer = state(api, message_id)
    assert answer["is_trace_complete"] is False
    assert answer["recipients"][0]["state"] == "queued"
    api.query("DELETE FROM ledger_row")
    api.query("DELETE FROM ledger_outbox")
    response = api.get(f"/api/v2/messages/{message_id}")
    assert response.status_code == 503
    assert problem_of(response) == [("", "store_unavailable")]


def test_a_process_opens_its_door_once_and_a_child_its_own(api: Api) -> None:
    opened = services.door()
    assert services.door() is opened
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write_end, json.dumps(os.getpid() in services._Doors.opened).encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        assert json.load(pipe) is False
    os.waitpid(child, 0)


@pytest.mark.parametrize("scope", ["everything", "pool", "source", "node", "sender", "domain"])
def test_a_held_recipient_says_who_holds_it_and_why(scope: str, api: Api) -> None:
    message_id = sent(api)
    target = {
        "pool": api.house.pool.pk,
        "source": api.house.source.pk,
        "node": "node1",
        "sender": api.house.sender.pk,
        "domain": "x.test",
    }.get(scope, "")
    hold = place_hold(SYSTEM, scope=scope, target=target, reason="complaints rise")
    (one,) = state(api, message_id)["recipients"]
    assert (one["state"], one["queue"]["state"]) == ("queued", "waiting")
    assert one["queue"]["reason"] == "held"
    shown = one["queue"]["held"]
    assert (shown["id"], shown["scope"], shown["until"]) == (hold.pk, scope, None)
    assert (shown["reason"], shown["author"]) == ("complaints rise", "test")
    release_hold(SYSTEM, hold)
    (one,) = state(api, message_id)["recipients"]
    assert (one["queue"]["reason"], one["queue"]["held"]) == ("unrouted", None)


def test_a_hold_on_one_of_two_sources_keeps_nothing(api: Api) -> None:
    message_id = sent(api)
    second = Source.objects.create(
        node=api.house.source.node, address="192.0.2.2", ehlo_name="b.example.com"
    )
    PoolMember.objects.create(pool=api.house.pool, source=second)
    place_hold(SYSTEM, scope="source", target=second.pk, reason="x")
    assert state(api, message_id)["recipients"][0]["queue"]["held"] is None
    place_hold(SYSTEM, scope="source", target=api.house.source.pk, reason="x")
    assert state(api, message_id)["recipients"][0]["queue"]["held"]["scope"] == "source"
