"""Sites keep their names, ISPs are found by domain and MX, equal hosts share the load."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.policy.model import Isp, Relay
from mailcore.routing.site import (
    MAX_SITE_NAME,
    DnsStatus,
    IspIndex,
    MxAnswer,
    MxHost,
    Site,
    plan_hosts,
    relay_site,
    site_of,
)

NOBODY = IspIndex(())
BIG = Isp(7, "Big", ("big.test",), ("mx.big.test",), is_one_site=True)
SMALL = Isp(3, "Small", ("small.test",), ("*.small-mx.test", "old.small.test"))
ISPS = IspIndex((BIG, SMALL))


def answer(*hosts: tuple[int, str]) -> MxAnswer:
    """Return an answer with these exchangers."""
    return MxAnswer(DnsStatus.OK, tuple(MxHost(*host) for host in hosts))


def test_domains_with_one_mx_set_share_a_site_whatever_the_order_case_and_preference() -> None:
    first = site_of("a.test", answer((10, "mx1.h.test"), (20, "mx2.h.test")), NOBODY)
    second = site_of("b.test", answer((5, "MX2.h.test."), (5, "mx1.H.test")), NOBODY)
    assert first == second == Site("mx1.h.test,mx2.h.test", 0)


def test_another_mx_set_is_another_site() -> None:
    assert site_of("a.test", answer((1, "mx1.h.test")), NOBODY) != site_of(
        "a.test", answer((1, "mx1.h.test"), (2, "mx3.h.test")), NOBODY
    )


@given(st.sets(st.from_regex(r"[a-z]{1,20}\.[a-z]{1,20}\.test", fullmatch=True), min_size=1))
def test_a_site_name_is_short_and_tells_different_sets_apart(names: set[str]) -> None:
    hosts = [(10, name) for name in names]
    name = site_of("a.test", answer(*hosts), NOBODY).name
    assert len(name) <= 200
    assert name == site_of("b.test", answer(*reversed(hosts)), NOBODY).name
    more = site_of("a.test", answer(*hosts, (10, "zzz.one-more.test")), NOBODY).name
    assert len(more) <= 200
    assert more != name


def test_an_isp_that_is_one_site_gathers_every_host_under_its_suffix() -> None:
    first = site_of("x.test", answer((0, "x-test.mx.big.test")), ISPS)
    second = site_of("y.test", answer((0, "y-test.eu.mx.big.test"), (9, "b.mx.big.test")), ISPS)
    assert first == second == Site("isp:mx.big.test", 7)


def test_a_foreign_backup_host_keeps_a_domain_out_of_the_isps_one_site() -> None:
    site = site_of("x.test", answer((0, "x.mx.big.test"), (10, "backup.other.test")), ISPS)
    assert site == Site("backup.other.test,x.mx.big.test", 7)


def test_the_isp_is_found_by_the_recipient_domain_before_the_mx() -> None:
    assert site_of("small.test", answer((0, "x.mx.big.test")), ISPS).isp_id == 3
    assert site_of("other.test", answer((0, "in.small-mx.test")), ISPS).isp_id == 3
    assert site_of("other.test", answer((0, "in.elsewhere.test")), ISPS).isp_id == 0


def test_a_suffix_matches_whole_labels_and_the_longest_wins() -> None:
    isps = IspIndex((Isp(1, "A", (), ("h.test",)), Isp(2, "B", (), ("eu.h.test",))))
    assert isps.of_host("notmyh.test") is None
    assert isps.of_host("mx.h.test") is not None
    found = isps.of_host("mx.eu.h.test")
    assert found is not None
    assert found.id == 2
    exact = isps.of_host("h.test.")
    assert exact is not None
    assert exact.id == 1


def test_an_isp_without_one_site_keeps_its_mx_sets_apart() -> None:
    assert site_of("x.test", answer((0, "in.small-mx.test")), ISPS) == Site("in.small-mx.test", 3)


@pytest.mark.parametrize("status", [DnsStatus.NULL_MX, DnsStatus.NO_DOMAIN, DnsStatus.TEMPORARY])
def test_an_answer_without_hosts_has_no_site(status: DnsStatus) -> None:
    with pytest.raises(ValueError, match=status.value):
        site_of("a.test", MxAnswer(status), NOBODY)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.from_regex(r"mx[0-9]{1,2}\.test", fullmatch=True))),
    st.floats(0, 1, exclude_max=True),
)
def test_hosts_are_tried_by_preference_and_none_is_lost(
    hosts: list[tuple[int, str]], draw: float
) -> None:
    planned = plan_hosts(answer(*hosts), draw)
    assert [host.preference for host in planned] == sorted(preference for preference, _ in hosts)
    assert Counter((host.preference, host.name) for host in planned) == Counter(hosts)


def test_every_order_of_equal_hosts_is_equally_likely() -> None:
    three = answer((10, "a.test"), (10, "b.test"), (10, "c.test"), (20, "d.test"))
    orders = Counter(
        tuple(host.name[0] for host in plan_hosts(three, draw / 600)) for draw in range(600)
    )
    assert len(orders) == 6
    assert set(orders.values()) == {100}
    assert all(order[3] == "d" for order in orders)


@pytest.mark.parametrize("draw", [-0.1, 1.0, float("nan")])
def test_a_draw_outside_its_range_is_refused(draw: float) -> None:
    with pytest.raises(ValueError, match="draw"):
        plan_hosts(answer((0, "a.test")), draw)


def test_relayed_mail_has_a_site_for_each_sender_and_isp() -> None:
    isps = IspIndex([Isp(4, "Peer", ("peer.test",))])
    relay = Relay(7, "relay.test", 587)
    assert relay_site(relay, "else.test", isps) == Site("relay:relay.test:587/7", 0)
    assert relay_site(relay, "Peer.test", isps) == Site("relay:relay.test:587/7/4", 4)
    long = relay_site(Relay(7, "x" * 300, 587), "peer.test", isps)
    assert len(long.name) == MAX_SITE_NAME
    assert long.name.endswith(":587/7/4")
