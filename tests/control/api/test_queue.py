"""Figures, verbs and jobs over HTTP: what is told, what is started, who is confined to what."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings

from control.access import ApiScope
from control.accounts.models import Account
from control.accounts.services import issue_token
from control.audit.models import AuditEntry
from control.jobs import services as job_services
from control.jobs.models import Job
from control.queue import selectors
from control.queue.services import place_hold
from mailio.settings import Settings
from tests.control.api.conftest import Api, body_of, problem_of
from tests.control.api.test_holds import Program
from tests.control.conftest import SYSTEM

pytestmark = pytest.mark.django_db
QUEUE = "/api/v2/queue"
JOBS = "/api/v2/jobs"


@pytest.fixture
def queue(api: Api, stores: Settings) -> Iterator[Api]:
    """A queue with rows of two accounts, two ISPs and two classes; figures read this database."""
    settings.POSTFLEET = dataclasses.replace(stores, database_url=api.url)
    ours, theirs = api.house.account.pk, api.house.other.pk
    for account, isp, mail_class, waiting, leased in (
        (ours, 1, 0, 5, 1),
        (ours, 2, 1, 7, 0),
        (theirs, 2, 1, 100, 3),
    ):
        api.query(
            "INSERT INTO ledger_lane (sender_id, account_id, isp_id, mail_class, site, waiting,"
            " leased, unknown) VALUES (%s, %s, %s, %s, 'mx.test', %s, %s, 1)",
            api.house.sender.pk, account, isp, mail_class, waiting, leased,
        )  # fmt: skip
    yield api
    selectors._groups.cache_clear()
    settings.POSTFLEET = stores


def program(account: Account | None, scope: ApiScope) -> Program:
    name = f"{account} {scope}"
    return Program(issue_token(name=name, account=account, scopes=[scope.value], actor=SYSTEM)[1])


@pytest.fixture
def operator(queue: Api) -> Program:
    return program(None, ApiScope.ADMIN)


@pytest.fixture
def acme(queue: Api) -> Program:
    return program(queue.house.account, ApiScope.QUEUE)


@pytest.fixture
def other(queue: Api) -> Program:
    return program(queue.house.other, ApiScope.QUEUE)


def counts(shown: dict[str, Any]) -> tuple[int, int, int, int]:
    return shown["waiting"], shown["held"], shown["leased"], shown["unknown"]


def test_figures_are_told_by_group_with_names_and_in_all(operator: Program, queue: Api) -> None:
    answer = body_of(operator.get(f"{QUEUE}?group_by=account,mail_class"))
    assert counts(answer["total"]) == (112, 0, 4, 3)
    assert [
        (one["account"]["name"], one["mail_class"], *counts(one)) for one in answer["results"]
    ] == [
        ("acme", "priority", 5, 0, 1, 1),
        ("acme", "main", 7, 0, 0, 1),
        ("other", "main", 100, 0, 3, 1),
    ]
    assert answer["next"] is None
    plain = body_of(operator.get(QUEUE))
    assert (plain["total"], plain["results"]) == (answer["total"], [])


def test_what_a_hold_keeps_is_told_beside_what_waits(operator: Program, queue: Api) -> None:
    place_hold(SYSTEM, scope="account", target="acme", reason="x")
    answer = body_of(operator.get(f"{QUEUE}?group_by=account"))
    assert [counts(one) for one in answer["results"]] == [(12, 12, 1, 2), (100, 0, 3, 1)]
    place_hold(SYSTEM, scope="node", target="node1", reason="the only source of the sender")
    assert counts(body_of(operator.get(QUEUE))["total"]) == (112, 112, 4, 3)


def test_figures_are_filtered_by_number_or_name_and_paged(operator: Program, queue: Api) -> None:
    one = body_of(operator.get(f"{QUEUE}?account=acme&isp=2"))
    assert counts(one["total"]) == (7, 0, 0, 1)
    assert counts(body_of(operator.get(f"{QUEUE}?mail_class=priority"))["total"])[0] == 5
    path: str | None = f"{QUEUE}?group_by=isp,account&limit=2"
    pages = []
    while path:
        answer = body_of(operator.get(path))
        assert answer["total"]["waiting"] == 112
        pages.append([(g["isp"]["id"], g["account"]["name"]) for g in answer["results"]])
        path = answer["next"]
    assert pages == [[(1, "acme"), (2, "acme")], [(2, "other")]]


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("group_by=planet", "group_by: 'planet' is none of"),
        ("account=gone", "account: there is no account 'gone'"),
        ("mail_class=x", "mail_class: 'x' is none of"),
        ("by=isp", "by: there is no such parameter"),
        ("group_by=isp&cursor=1.2", "cursor: belongs to another"),
        ("cursor=x", "cursor: is none that we gave"),
        (f"campaign={'9' * 5000}", "campaign: there is no campaign"),
        (f"limit={'0' * 17}500999", "limit: must be a number"),
    ],
)
def test_a_wrong_parameter_is_named(query: str, detail: str, operator: Program) -> None:
    answer = operator.get(f"{QUEUE}?{query}")
    assert (answer.status_code, problem_of(answer)) == (400, [("", "bad_parameter")])
    assert body_of(answer)["detail"].startswith(detail)


def test_an_account_sees_its_own_figures_alone(acme: Program, queue: Api) -> None:
    answer = body_of(acme.get(f"{QUEUE}?group_by=account"))
    assert [one["account"]["name"] for one in answer["results"]] == ["acme"]
    assert counts(answer["total"]) == (12, 0, 1, 2)
    foreign = acme.get(f"{QUEUE}?account={queue.house.other.pk}")
    assert (foreign.status_code, problem_of(foreign)) == (400, [("", "bad_parameter")])


@pytest.mark.parametrize("verb", ["purge", "expire", "retry"])
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_verb_starts_a_job_and_says_where_it_is(
    verb: str, dry_run: bool, operator: Program, queue: Api
) -> None:
    body = {"filter": {"accounts": ["acme"], "isps": [2]}, "reason": "why", "dry_run": dry_run}
    answer = operator.post(f"{QUEUE}/{verb}", body)
    assert answer.status_code == 202
    shown = body_of(answer)
    assert (shown["kind"], shown["state"], shown["done"]) == (f"queue.{verb}", "waiting", 0)
    assert shown["arguments"]["filter"]["accounts"] == [queue.house.account.pk]
    assert (shown["arguments"]["reason"], shown["arguments"]["dry_run"]) == ("why", dry_run)
    assert answer["Location"] == f"{JOBS}/{shown['id']}"
    assert body_of(operator.get(answer["Location"])) == shown
    assert AuditEntry.objects.filter(object_type="jobs.job", actor="token None admin").exists()


def test_an_account_s_verb_means_its_own_mail_whatever_it_says(acme: Program, queue: Api) -> None:
    for given in ({"everything": True}, {"isps": [2]}, {"accounts": ["acme"]}):
        shown = body_of(acme.post(f"{QUEUE}/purge", {"filter": given, "reason": "x"}))
        stored = Job.objects.get(pk=shown["id"])
        assert stored.arguments["filter"]["accounts"] == [queue.house.account.pk]
        assert "everything" not in stored.arguments["filter"]
        assert stored.account == queue.house.account
    foreign = {"accounts": [queue.house.other.pk]}
    answer = acme.post(f"{QUEUE}/purge", {"filter": foreign, "reason": "x"})
    assert (answer.status_code, problem_of(answer)) == (422, [("/filter/accounts", "bad_filter")])


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"reason": "x"}, ("/filter", "required")),
        ({"filter": [], "reason": "x"}, ("/filter", "required")),
        ({"filter": {}, "reason": "x"}, ("/filter", "bad_filter")),
        ({"filter": {"planet": 1}, "reason": "x"}, ("/filter/planet", "bad_filter")),
        ({"filter": {"senders": ["gone"]}, "reason": "x"}, ("/filter/senders", "bad_filter")),
        ({"filter": {"domains": ["x"]}, "reason": "x"}, ("/filter/domains", "bad_filter")),
        ({"filter": {"recipients": ["x"]}, "reason": "x"}, ("/filter/recipients", "refused")),
        ({"filter": {"everything": True}}, ("/reason", "refused")),
        ({"filter": {"everything": True}, "reason": 1}, ("/reason", "invalid")),
        ({"filter": {"everything": True}, "reason": "x" * 501}, ("/reason", "refused")),
        ({"filter": {"everything": True}, "reason": "a\u202eb"}, ("/reason", "refused")),
        ({"filter": {"a/b~": 1}, "reason": "x"}, ("/filter/a~1b~0", "bad_filter")),
        ({"filter": {"sites": ["x" * 321]}, "reason": "x"}, ("/filter/sites", "bad_filter")),
        ({"filter": {"senders": ["9" * 5000]}, "reason": "x"}, ("/filter/senders", "bad_filter")),
        ({"filter": {"everything": True}, "reason": "x", "dry_run": 1}, ("/dry_run", "invalid")),
        ({"filter": {"everything": True}, "why": "x"}, ("/why", "unknown_member")),
    ],
)
def test_a_verb_that_cannot_be_meant_is_refused_with_a_pointer(
    body: dict[str, Any], problem: tuple[str, str], operator: Program
) -> None:
    answer = operator.post(f"{QUEUE}/purge", body)
    assert (answer.status_code, problem_of(answer)) == (422, [problem])
    assert not Job.objects.exists()


def test_half_a_surrogate_pair_is_no_text_wherever_it_stands(operator: Program) -> None:
    half = "\ud800"
    for body in (
        {"filter": {"sites": [half]}, "reason": "x"},
        {"filter": {"recipients": [f"{half}@one.test"]}, "reason": "x"},
        {"filter": {"campaigns": [f"acme/{half}"]}, "reason": "x"},
        {"filter": {half: 1}, "reason": "x"},
        {"filter": {"everything": True}, "reason": half},
        {half: 1},
    ):
        answer = operator.post(f"{QUEUE}/purge", body)
        assert (answer.status_code, problem_of(answer)) == (400, [("", "malformed_json")])
    whole = {"filter": {"sites": ["\U0001f600"]}, "reason": "x"}
    assert operator.post(f"{QUEUE}/purge", whole).status_code == 202


def test_a_body_as_deep_as_json_reads_is_refused_and_no_fault_of_ours(operator: Program) -> None:
    for depth in range(500, 1000):
        text = f'{{"filter": {{"senders": [{"[" * depth}{"]" * depth}]}}, "reason": "x"}}'
        answer = operator.post_raw(f"{QUEUE}/purge", text)
        assert answer.status_code in (400, 422), depth


def test_unrouted_mail_is_named_as_a_site(operator: Program, queue: Api) -> None:
    queue.query(
        "INSERT INTO ledger_lane (sender_id, account_id, isp_id, mail_class, site, waiting)"
        " VALUES (%s, %s, 0, 1, '', 4)",
        queue.house.sender.pk, queue.house.account.pk,
    )  # fmt: skip
    assert body_of(operator.get(f"{QUEUE}?site=unrouted"))["total"]["waiting"] == 4
    body = {"filter": {"sites": ["unrouted"]}, "reason": "x"}
    shown = body_of(operator.post(f"{QUEUE}/purge", body))
    assert shown["arguments"]["filter"]["sites"] == ["unrouted"]
    assert shown["title"] == "purge: sites unrouted"


def test_parked_mail_is_held_where_it_lies_and_not_at_a_site(operator: Program, queue: Api) -> None:
    (lane_id,) = queue.query(
        "INSERT INTO ledger_lane (sender_id, account_id, isp_id, mail_class, site, waiting)"
        " VALUES (%s, %s, 2, 1, '', 1) RETURNING id",
        queue.house.sender.pk, queue.house.account.pk,
    )[0]  # fmt: skip
    place_hold(SYSTEM, scope="domain", target="held.test", reason="x")
    queue.query(
        "INSERT INTO ledger_row (lane_id, state, due_at, accepted_at, expires_at, message_id,"
        " recipient_no, recipient, reverse_path, header_from, message_id_header, custom, reason,"
        " unrouted_domain, content_segment, content_offset, content_length, content_crc)"
        " VALUES (%s, 0, now(), now(), now() + interval '1 h', gen_random_uuid(), 0,"
        " 'a@held.test', '', '', '', '', 'held', 'held.test', 1, 0, 1, 0)",
        lane_id,
    )
    assert counts(body_of(operator.get(f"{QUEUE}?site=unrouted"))["total"])[:2] == (1, 1)
    assert counts(body_of(operator.get(f"{QUEUE}?site=mx.test"))["total"])[:2] == (112, 0)
    place_hold(SYSTEM, scope="account", target="other", reason="x")
    for group_by, held in (("", []), ("isp", [0, 101]), ("mail_class", [0, 101])):
        answer = body_of(operator.get(f"{QUEUE}?group_by={group_by}"))
        assert [one["held"] for one in answer["results"]] == held
        assert counts(answer["total"])[:2] == (113, 101)
    place_hold(SYSTEM, scope="account", target="acme", reason="x")
    assert counts(body_of(operator.get(QUEUE))["total"])[:2] == (113, 113)


def test_a_head_needs_the_scope_of_a_get(queue: Api) -> None:
    reader = program(queue.house.account, ApiScope.MESSAGES_READ)
    assert reader.head(QUEUE).status_code == 403
    assert program(queue.house.account, ApiScope.QUEUE).head(QUEUE).status_code == 200


def test_a_repeated_key_starts_one_job(operator: Program) -> None:
    body = {"filter": {"everything": True}, "reason": "x"}
    first = operator.post(f"{QUEUE}/purge", body, **{"Idempotency-Key": "k1"})
    second = operator.post(f"{QUEUE}/purge", body, **{"Idempotency-Key": "k1"})
    assert (first.content, first["Location"]) == (second.content, second["Location"])
    assert second["Idempotency-Replayed"] == "true"
    assert Job.objects.count() == 1
    reused = operator.post(f"{QUEUE}/expire", body, **{"Idempotency-Key": "k1"})
    assert problem_of(reused) == [("", "idempotency_key_reused")]


def test_jobs_are_listed_stopped_and_undone_by_those_whose_they_are(
    acme: Program, other: Program, operator: Program
) -> None:
    body = {"filter": {"everything": True}, "reason": "x"}
    ours = acme.post(f"{QUEUE}/purge", body)["Location"]
    by_operator = operator.post(f"{QUEUE}/purge", body)["Location"]
    assert [one["id"] for one in body_of(acme.get(JOBS))["results"]] == [int(ours.split("/")[-1])]
    assert body_of(other.get(JOBS))["results"] == []
    assert len(body_of(operator.get(JOBS))["results"]) == 2
    for path in (ours, by_operator):
        for what in ("/stop", "/undo"):
            assert other.post(f"{path}{what}").status_code == 404
    running = acme.post(f"{ours}/undo")
    assert (running.status_code, problem_of(running)) == (422, [("", "refused")])
    stopped = acme.post(f"{ours}/stop")
    assert (stopped.status_code, body_of(stopped)["state"]) == (202, "stopped")
    undone = acme.post(f"{ours}/undo", {"reason": "the wrong ones"})
    assert undone.status_code == 202
    assert body_of(undone)["kind"] == "queue.undo"
    assert Job.objects.get(pk=body_of(undone)["id"]).account is not None


def test_an_account_watches_a_job_that_is_not_on_the_queue_and_no_more(
    acme: Program, queue: Api
) -> None:
    job = job_services.start(
        kind="import", title="contacts", actor=SYSTEM, account=queue.house.account
    )
    assert acme.get(f"{JOBS}/{job.pk}").status_code == 200
    assert acme.post(f"{JOBS}/{job.pk}/stop").status_code == 403
    assert not Job.objects.get().stop_requested


def test_jobs_are_paged_from_the_newest(operator: Program) -> None:
    made = [job_services.start(kind="x", title=str(number), actor=SYSTEM).pk for number in range(3)]
    first = body_of(operator.get(f"{JOBS}?limit=2"))
    assert [one["id"] for one in first["results"]] == [made[2], made[1]]
    second = body_of(operator.get(first["next"]))
    assert [one["id"] for one in second["results"]] == [made[0]]
    assert second["next"] is None
