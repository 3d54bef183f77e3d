"""Holds over HTTP: place, list, release; who may; what is refused, and where it points."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from control.access import ApiScope
from control.accounts.services import issue_token
from control.api.authentication import token_memory
from control.audit.models import AuditEntry
from control.queue.models import Campaign, Hold
from tests.control.api.conftest import body_of, problem_of
from tests.control.conftest import SYSTEM, House

pytestmark = pytest.mark.django_db
HOLDS = "/api/v2/holds"


class Program:
    """A program with a token."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._client = Client(raise_request_exception=False)

    def get(self, path: str) -> Any:
        return self._client.get(path, headers={"Authorization": f"Bearer {self._token}"})

    def head(self, path: str) -> Any:
        return self._client.head(path, headers={"Authorization": f"Bearer {self._token}"})

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        return self.post_raw(path, "" if body is None else json.dumps(body), **headers)

    def post_raw(self, path: str, raw: str, **headers: str) -> Any:
        given = {"Authorization": f"Bearer {self._token}", **headers}
        return self._client.post(path, raw, content_type="application/json", headers=given)


@pytest.fixture
def operator(house: House) -> Iterator[Program]:
    scopes = [ApiScope.ADMIN.value]
    yield Program(issue_token(name="ops", account=None, scopes=scopes, actor=SYSTEM)[1])
    token_memory.cache_clear()


@pytest.fixture
def acme(house: House) -> Iterator[Program]:
    """A program of the first account."""
    scopes = [ApiScope.QUEUE.value]
    yield Program(issue_token(name="shop", account=house.account, scopes=scopes, actor=SYSTEM)[1])
    token_memory.cache_clear()


def campaign_of(account_id: int, label: str) -> Campaign:
    return Campaign.objects.create(account_id=account_id, label=label, created_at=timezone.now())


def test_a_hold_is_placed_by_name_shown_and_released_and_the_journal_tells(
    operator: Program, house: House
) -> None:
    ends_at = timezone.now() + timedelta(hours=2)
    placed = operator.post(
        HOLDS,
        {
            "scope": "sender",
            "target": "bulk",
            "reason": " complaints rise ",
            "ends_at": ends_at.isoformat(),
        },
    )
    assert placed.status_code == 201
    shown = body_of(placed)
    assert placed["Location"] == f"{HOLDS}/{shown['id']}"
    assert (shown["scope"], shown["target_id"], shown["target"]) == (
        "sender",
        house.sender.pk,
        "bulk",
    )
    assert (shown["reason"], shown["author"], shown["state"]) == (
        "complaints rise",
        "token ops",
        "in_force",
    )
    assert body_of(operator.get(placed["Location"])) == shown
    released = body_of(operator.post(f"{placed['Location']}/release"))
    assert (released["state"], released["released_by"]) == ("released", "token ops")
    again = operator.post(f"{placed['Location']}/release")
    assert (again.status_code, body_of(again)) == (200, released)
    entries = AuditEntry.objects.filter(object_type="queue.hold").order_by("id")
    assert [(one.actor, one.action) for one in entries] == [
        ("token ops", "created"),
        ("token ops", "changed"),
    ]
    assert entries[0].before is None
    assert entries[1].before is not None
    assert entries[1].after is not None
    assert entries[1].before["released_at"] is None
    assert entries[1].after["released_by"] == "token ops"


@pytest.mark.parametrize(
    ("scope", "target", "shown"),
    [
        ("everything", None, (None, None)),
        ("node", "node1", (None, "node1")),
        ("pool", "pool", ("pool", "pool")),
        ("source", "192.0.2.1", ("source", "192.0.2.1")),
        ("account", "acme", ("account", "acme")),
        ("domain", "Bücher.example.com.", (None, "xn--bcher-kva.example.com")),
    ],
)
def test_every_scope_takes_a_name(
    scope: str, target: str | None, shown: tuple[str | None, str | None], operator: Program,
    house: House,
) -> None:  # fmt: skip
    body = {"scope": scope, "reason": "x"} | ({} if target is None else {"target": target})
    answer = operator.post(HOLDS, body)
    assert answer.status_code == 201, answer.content
    found = body_of(answer)
    number = getattr(house, shown[0]).pk if shown[0] else None
    assert (found["target_id"], found["target"]) == (number, shown[1])


def test_a_campaign_is_named_by_number_label_or_account_and_label(
    operator: Program, house: House
) -> None:
    ours = campaign_of(house.account.pk, "orders")
    campaign_of(house.other.pk, "orders")
    for target in (ours.pk, str(ours.pk), "acme/orders"):
        answer = operator.post(HOLDS, {"scope": "campaign", "target": target, "reason": "x"})
        assert body_of(answer)["target_id"] == ours.pk
    both = operator.post(HOLDS, {"scope": "campaign", "target": "orders", "reason": "x"})
    assert problem_of(both) == [("/target", "unknown_target")]
    assert "say the number" in body_of(both)["detail"]


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        ({}, [("/reason", "required"), ("/scope", "invalid")]),
        ({"scope": "planet", "reason": "x"}, [("/scope", "invalid")]),
        ({"scope": [], "reason": "x"}, [("/scope", "invalid")]),
        ({"scope": "sender", "target": "gone", "reason": "x"}, [("/target", "unknown_target")]),
        ({"scope": "sender", "reason": "x"}, [("/target", "unknown_target")]),
        ({"scope": "sender", "target": True, "reason": "x"}, [("/target", "unknown_target")]),
        ({"scope": "sender", "target": 9 * 10**30, "reason": "x"}, [("/target", "unknown_target")]),
        ({"scope": "sender", "target": "\x00", "reason": "x"}, [("/target", "unknown_target")]),
        ({"scope": "source", "target": "nowhere", "reason": "x"}, [("/target", "unknown_target")]),
        ({"scope": "source", "target": "::1%eth", "reason": "x"}, [("/target", "unknown_target")]),
        ({"scope": "isp", "target": "9" * 5000, "reason": "x"}, [("/target", "unknown_target")]),
        ({"scope": "everything", "target": 1, "reason": "x"}, [("/target", "unknown_target")]),
        ({"scope": "domain", "target": "no dot", "reason": "x"}, [("/target", "unknown_target")]),
        ({"scope": "isp", "target": "all others", "reason": "x"}, [("/target", "unknown_target")]),
        ({"scope": "everything", "reason": "x" * 501}, [("/reason", "too_long")]),
        ({"scope": "everything", "reason": "a\nb"}, [("/reason", "invalid")]),
        ({"scope": "everything", "reason": 7}, [("/reason", "required")]),
        (
            {"scope": "everything", "reason": "x", "ends_at": "2001-01-01T00:00:00Z"},
            [("/ends_at", "in_the_past")],
        ),
        (
            {"scope": "everything", "reason": "x", "ends_at": "2101-01-01T00:00:00"},
            [("/ends_at", "invalid_time")],
        ),
        (
            {"scope": "everything", "reason": "x", "ends_at": "9999-12-31T23:59:59Z"},
            [("/ends_at", "invalid_time")],
        ),
        (
            {"scope": "everything", "reason": "x", "ends_at": "2101-01-01T00:00:00+25:00"},
            [("/ends_at", "invalid_time")],
        ),
        (
            {"scope": "everything", "reason": "x", "ends_at": "soon"},
            [("/ends_at", "invalid_time")],
        ),
        ({"scope": "everything", "reason": "x", "end": 1}, [("/end", "unknown_member")]),
        ([], [("", "not_an_object")]),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_pointer(
    body: Any, problems: list[tuple[str, str]], operator: Program
) -> None:
    answer = operator.post(HOLDS, body)
    assert answer.status_code == 422
    assert problem_of(answer) == problems
    assert not Hold.objects.exists()


def test_an_account_holds_itself_and_its_campaigns_alone(acme: Program, house: House) -> None:
    ours = campaign_of(house.account.pk, "orders")
    theirs = campaign_of(house.other.pk, "theirs")
    for scope, target in (("account", "acme"), ("campaign", "orders"), ("campaign", ours.pk)):
        answer = acme.post(HOLDS, {"scope": scope, "target": target, "reason": "x"})
        assert answer.status_code == 201, answer.content
        assert body_of(answer)["author"] == f"account {house.account.pk}, token shop"
    for scope, target in (("account", "other"), ("campaign", theirs.pk)):
        answer = acme.post(HOLDS, {"scope": scope, "target": target, "reason": "x"})
        assert problem_of(answer) == [("/target", "unknown_target")]
    for scope in ("everything", "node", "pool", "source", "sender", "isp", "domain"):
        answer = acme.post(HOLDS, {"scope": scope, "target": "bulk", "reason": "x"})
        assert (answer.status_code, problem_of(answer)) == (403, [("", "not_yours")])
    assert Hold.objects.count() == 3


def test_an_account_sees_its_own_holds_and_releases_what_it_placed(
    acme: Program, operator: Program, house: House
) -> None:
    own = body_of(acme.post(HOLDS, {"scope": "account", "target": "acme", "reason": "x"}))
    by_operator = body_of(
        operator.post(HOLDS, {"scope": "account", "target": "acme", "reason": "x"})
    )
    foreign = body_of(operator.post(HOLDS, {"scope": "account", "target": "other", "reason": "x"}))
    operator.post(HOLDS, {"scope": "sender", "target": "bulk", "reason": "x"})
    seen = [one["id"] for one in body_of(acme.get(HOLDS))["results"]]
    assert seen == [by_operator["id"], own["id"]]
    assert acme.get(f"{HOLDS}/{foreign['id']}").status_code == 404
    assert acme.post(f"{HOLDS}/{foreign['id']}/release").status_code == 404
    denied = acme.post(f"{HOLDS}/{by_operator['id']}/release")
    assert (denied.status_code, problem_of(denied)) == (403, [("", "not_yours")])
    assert acme.post(f"{HOLDS}/{own['id']}/release").status_code == 200
    assert operator.post(f"{HOLDS}/{by_operator['id']}/release").status_code == 200


def test_the_list_is_paged_from_the_newest_and_can_leave_out_what_is_over(
    operator: Program,
) -> None:
    made = [
        body_of(operator.post(HOLDS, {"scope": "everything", "reason": str(number)}))["id"]
        for number in range(5)
    ]
    operator.post(f"{HOLDS}/{made[2]}/release")
    path: str | None = f"{HOLDS}?limit=2&in_force=true"
    pages = []
    while path:
        answer = body_of(operator.get(path))
        pages.append([one["id"] for one in answer["results"]])
        path = answer["next"]
    assert pages == [[made[4], made[3]], [made[1], made[0]]]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=501", "cursor=-1", "cursor=a", "in_force=1", "page=2"]
)
def test_a_parameter_that_is_wrong_or_unknown_is_named(query: str, operator: Program) -> None:
    answer = operator.get(f"{HOLDS}?{query}")
    assert (answer.status_code, problem_of(answer)) == (400, [("", "bad_parameter")])
    assert body_of(answer)["detail"].startswith(query.partition("=")[0])


def test_a_repeated_key_places_one_hold(operator: Program) -> None:
    body = {"scope": "everything", "reason": "x"}
    first = operator.post(HOLDS, body, **{"Idempotency-Key": "k"})
    second = operator.post(HOLDS, body, **{"Idempotency-Key": "k"})
    assert (first.content, first["Location"]) == (second.content, second["Location"])
    assert second["Idempotency-Replayed"] == "true"
    assert Hold.objects.count() == 1
    other = operator.post(HOLDS, {**body, "reason": "y"}, **{"Idempotency-Key": "k"})
    assert problem_of(other) == [("", "idempotency_key_reused")]


def test_a_hold_that_does_not_exist_is_not_found(operator: Program) -> None:
    for number in ("1", "9" * 30, "x"):
        assert operator.get(f"{HOLDS}/{number}").status_code == 404


def test_a_token_without_the_scope_is_told_which_one(house: House) -> None:
    token = issue_token(
        name="sends", account=house.account, scopes=["messages:send"], actor=SYSTEM
    )[1]
    for path in (HOLDS, "/api/v2/queue", "/api/v2/jobs"):
        answer = Program(token).get(path)
        assert (answer.status_code, problem_of(answer)) == (403, [("", "scope_missing")])
        assert "queue" in body_of(answer)["detail"]
    token_memory.cache_clear()
