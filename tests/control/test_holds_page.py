"""Holds and lanes in the panel: place, see, release; purge after a question."""

import pytest
from django.db import models
from django.test import Client

from control.audit.models import AuditEntry
from control.jobs.models import Job
from control.mta.models import Isp, Pool
from control.nodes.models import Node, Source
from control.queue.models import Campaign, Hold, Lane
from control.queue.services import place_hold, release_hold
from control.senders.models import Sender
from mailcore.outcome import WaitReason
from mailcore.rowfilter import RowFilter
from tests.control.conftest import SYSTEM, House
from tests.control.pages import errors, form_of, page, send
from tests.control.reports.test_waiting import lane, put

pytestmark = pytest.mark.django_db


def test_a_hold_is_placed_seen_on_every_page_and_released(house: House, panel: Client) -> None:
    answer = send(panel, page(Hold, "add/"), scope="sender", targets="bulk", reason="too many spam")
    assert answer.status_code == 302
    hold = Hold.objects.get()
    assert (hold.target_id, hold.author, hold.state) == (house.sender.pk, "master", "in_force")
    assert AuditEntry.objects.filter(object_type="queue.hold", action="created").count() == 1
    for path in ("/panel/", page(Sender), page(Pool, "add/"), page(Hold)):
        text = panel.get(path).content.decode()
        assert "Mail is held: 1 hold" in text
        assert "sender bulk: too many spam" in text
    shown = panel.get(page(Hold, f"{hold.pk}/change/")).content.decode()
    assert f"/panel/queue/hold/{hold.pk}/release/" in shown
    panel.post(f"/panel/queue/hold/{hold.pk}/release/")
    hold = Hold.objects.get()
    assert (hold.state, hold.released_by) == ("released", "master")
    text = panel.get(page(Hold, f"{hold.pk}/change/")).content.decode()
    assert "Mail is held" not in text
    assert "/release/" not in text


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"scope": "sender", "targets": "gone", "reason": "x"}, "there is no sender"),
        ({"scope": "sender", "targets": "", "reason": "x"}, "say which sender"),
        ({"scope": "isp", "targets": "all others", "reason": "x"}, "hold a domain"),
        ({"scope": "everything", "targets": "", "reason": ""}, "required"),
        ({"scope": "everything", "targets": "", "reason": "x" * 501}, "at most 500"),
        (
            {
                "scope": "everything",
                "reason": "x",
                "ends_at_0": "2001-01-01",
                "ends_at_1": "00:00:00",
            },
            "must lie in the future",
        ),
    ],
)
def test_a_hold_that_cannot_be_meant_says_at_which_field(
    fields: dict[str, str], complaint: str, house: House, panel: Client
) -> None:
    assert complaint in errors(send(panel, page(Hold, "add/"), **fields))
    assert not Hold.objects.exists()


def test_what_is_wrong_with_several_holds_alike_is_said_once(house: House, panel: Client) -> None:
    other = Pool.objects.create(name="other")
    given = {"scope": "pool", "targets": f"{house.pool.pk},{other.pk}", "reason": "x"}
    given |= {"ends_at_0": "2001-01-01", "ends_at_1": "00:00:00"}
    answer = panel.post("/panel/queue/hold/add/", given)
    assert answer.content.decode().count("the end must lie in the future") == 1
    assert not Hold.objects.exists()


@pytest.mark.parametrize(
    ("model", "scope"),
    [(Node, "node"), (Pool, "pool"), (Source, "source"), (Sender, "sender"), (Isp, "isp")],
)
def test_rows_are_held_from_their_own_pages(
    model: type[models.Model], scope: str, house: House, panel: Client
) -> None:
    Isp.objects.create(name="Example")
    row = model._default_manager.order_by("-pk")[0]
    change = page(model, f"{row.pk}/change/")
    link = f"/panel/queue/hold/add/?scope={scope}&amp;targets={row.pk}"
    assert link in panel.get(change).content.decode()
    bulk = {"action": "hold", "_selected_action": [str(row.pk)]}
    answer = panel.post(page(model), bulk)
    assert answer.status_code == 302
    path = answer["Location"]
    shown = form_of(panel, path)
    assert (shown["scope"], shown["targets"]) == ([scope], [str(row.pk)])
    assert panel.post(path, {**shown, "reason": "x"}).status_code == 302
    text = panel.get(change).content.decode()
    assert f"Held: hold {Hold.objects.get().pk}" in text


def test_several_rows_are_held_with_one_reason(house: House, panel: Client) -> None:
    second = Sender.objects.create(name="second", pool=house.pool)
    keys = [str(house.sender.pk), str(second.pk)]
    answer = panel.post(page(Sender), {"action": "hold", "_selected_action": keys})
    path = answer["Location"]
    panel.post(path, {**form_of(panel, path), "reason": "x"})
    assert sorted(Hold.objects.values_list("target_id", flat=True)) == sorted(map(int, keys))


def test_the_list_filters_by_state_and_releases_what_is_in_force(
    house: House, panel: Client
) -> None:
    over = place_hold(SYSTEM, scope="everything", reason="an old one")
    release_hold(SYSTEM, over)
    held = place_hold(SYSTEM, scope="pool", target=house.pool.pk, reason="a new one")
    for state, reason in (("in_force", "a new one"), ("released", "an old one")):
        rows = panel.get(page(Hold), {"state": state}).context["cl"].result_list
        assert [row.reason for row in rows] == [reason]
    assert not panel.get(page(Hold), {"state": "ended"}).context["cl"].result_list
    bulk = {"action": "release", "_selected_action": [str(over.pk), str(held.pk)]}
    text = panel.post(page(Hold), bulk, follow=True).content.decode()
    assert "Released: 1" in text
    assert "left as they were: 1" in text
    assert not Hold.objects.filter(released_at=None).exists()


def test_a_campaign_is_held_from_its_page(house: House, panel: Client) -> None:
    campaign = Campaign.objects.create(
        account_id=house.account.pk, label="orders", created_at="2026-01-01T00:00:00Z"
    )
    text = panel.get(page(Campaign, f"{campaign.pk}/change/")).content.decode()
    assert f"?scope=campaign&amp;targets={campaign.pk}" in text


def test_lanes_are_purged_after_a_page_that_counts_and_asks_why(panel: Client) -> None:
    put(one := lane(sender_id=3), WaitReason.NEW, 5)
    put(two := lane(sender_id=4), WaitReason.NEW, 2)
    chosen = {"action": "purge", "_selected_action": [str(one), str(two)]}
    asked = panel.post(page(Lane), chosen)
    text = asked.content.decode()
    assert asked.status_code == 200
    assert asked.context["total"] == 7
    assert "senders 3" in text
    assert not Job.objects.exists()
    refused = panel.post(page(Lane), {**chosen, "confirmed": "yes", "reason": " "})
    assert "reason: must say why" in refused.content.decode()
    assert not Job.objects.exists()
    done = panel.post(page(Lane), {**chosen, "confirmed": "yes", "reason": "wrong list"})
    assert (done.status_code, done["Location"]) == (302, "/panel/jobs/job/")
    jobs = list(Job.objects.order_by("id"))
    assert [job.kind for job in jobs] == ["queue.purge", "queue.purge"]
    assert [job.arguments["filter"]["senders"] for job in jobs] == [[3], [4]]
    assert jobs[0].arguments["reason"] == "wrong list"


def test_an_unrouted_lane_is_purged_by_the_name_its_site_has_not_got(panel: Client) -> None:
    number = lane()
    Lane.objects.filter(pk=number).update(site="")
    chosen = {"action": "purge", "_selected_action": [str(number)], "confirmed": "yes"}
    panel.post(page(Lane), {**chosen, "reason": "x"}, follow=True)
    wanted = Job.objects.get().arguments["filter"]
    assert wanted["sites"] == ["unrouted"]
    assert RowFilter.parse(wanted).sites == ("",)


def test_a_hold_whose_end_no_store_could_keep_is_refused_at_its_field(
    house: House, panel: Client
) -> None:
    given = {"scope": "everything", "reason": "x", "targets": ""}
    given |= {"ends_at_0": "9999-12-31", "ends_at_1": "23:59:59"}
    answer = panel.post("/panel/queue/hold/add/", given)
    assert answer.status_code == 200
    assert "lies too far" in answer.content.decode()
    assert not Hold.objects.exists()
