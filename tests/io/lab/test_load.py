"""The load is what a plan says, is offered again under one key, and a refusal is told."""

import asyncio
import json
from collections import Counter
from http import HTTPStatus

import pytest

from lab.http import HttpServer, Request, Response
from lab.load import LoadError, LoadPlan, build_messages, payload_of, send
from lab.world import default_world


def test_shares_of_providers_are_kept_and_no_recipient_comes_twice() -> None:
    world = default_world()
    messages = list(build_messages(LoadPlan(count=4_000, run="r", size_bytes=50), world))
    assert len({one.lab_id for one in messages}) == 4_000
    assert len({one.recipient for one in messages}) == 4_000
    offered = Counter(one.provider for one in messages)
    for provider in world.providers:
        assert abs(offered[provider.key] / 4_000 - provider.share) < 0.04
        domains = {
            one.recipient.partition("@")[2] for one in messages if one.provider == provider.key
        }
        assert domains <= {domain.name for domain in provider.domains if domain.weight}
        assert len(domains) > 5  # the small ones too


def test_a_plan_builds_the_same_messages_each_time_and_others_for_another_run() -> None:
    world = default_world()
    plans = [LoadPlan(count=20, run=run, seed=seed) for run, seed in [("a", 1), ("a", 1), ("b", 1)]]
    first, second, third = (list(build_messages(plan, world)) for plan in plans)
    assert first == second
    assert {one.lab_id for one in first}.isdisjoint(one.lab_id for one in third)


def test_a_payload_carries_the_id_that_receivers_count() -> None:
    (message,) = build_messages(LoadPlan(count=1, run="r", size_bytes=500), default_world())
    payload = payload_of(message, campaign="c")
    assert payload["headers"] == {"X-Lab-Id": "r-0000000"}
    assert payload["to"] == [message.recipient]
    assert abs(len(payload["text"]) - 500) < 20


@pytest.mark.parametrize("field", ["count", "size_bytes", "batch_size", "connections"])
def test_a_plan_that_cannot_be_is_refused_by_field(field: str) -> None:
    arguments = {"count": 1, field: 0}
    with pytest.raises(ValueError, match=field):
        LoadPlan(run="r", **arguments)  # type: ignore[arg-type]


class _Api:
    """Takes batches, after one answer of another kind."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.calls = 0
        self.ids: list[str] = []
        self.bodies: list[bytes] = []

    async def handle(self, request: Request) -> Response:
        self.calls += 1
        self.bodies.append(request.body)
        if self.calls == 1 and self.first != 202:
            return Response.of_json({"detail": "not now"}, HTTPStatus(self.first))
        for one in request.json_object()["messages"]:
            self.ids.append(one["headers"]["X-Lab-Id"])
        return Response.of_json({"results": len(self.ids)}, HTTPStatus.ACCEPTED)


async def _offer(api: _Api, plan: LoadPlan) -> list[int]:
    server = HttpServer(api.handle)
    await server.start()
    url = f"http://127.0.0.1:{server.port}"
    try:
        return await asyncio.to_thread(
            lambda: [b.status for b in send(plan, default_world(), url=url, token="t")]
        )
    finally:
        await server.stop()


async def test_batches_arrive_whole_over_several_connections() -> None:
    api = _Api(202)
    statuses = await _offer(api, LoadPlan(count=250, run="r", size_bytes=20, batch_size=20))
    assert statuses == [202] * 13
    assert sorted(api.ids) == [f"r-{number:07d}" for number in range(250)]


async def test_a_batch_that_met_503_is_offered_again_unchanged() -> None:
    api = _Api(503)
    plan = LoadPlan(count=5, run="r", size_bytes=20, connections=1)
    assert await _offer(api, plan) == [202]
    assert api.bodies[0] == api.bodies[1]
    assert json.loads(api.bodies[0])["messages"][0]["campaign"] == "lab"


async def test_a_refusal_ends_the_load_with_the_answer_of_the_api() -> None:
    with pytest.raises(LoadError, match=r"422 .*not now"):
        await _offer(_Api(422), LoadPlan(count=5, run="r", size_bytes=20, connections=1))
