"""Which hosts may be gone to: not ourselves, not of the other family, the dead ones last."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.routing.hosts import (
    DEAD_FIRST_S,
    DEAD_MOST_S,
    Ourselves,
    before_us,
    dead_for_s,
    fitting,
)
from mailcore.routing.site import MxHost

A, B, C, US = MxHost(5, "a.test"), MxHost(10, "b.test"), MxHost(20, "c.test"), MxHost(10, "us.test")


@pytest.mark.parametrize(
    ("hosts", "left"),
    [
        ((A, B, C), (A, B, C)),
        ((A, US), (A,)),
        ((A, B, US, C), (A,)),
        ((US, B), ()),
        ((US, C), ()),
        ((US,), ()),
        ((), ()),
    ],
)
def test_ourselves_and_all_of_equal_or_worse_preference_are_left_out(
    hosts: tuple[MxHost, ...], left: tuple[MxHost, ...]
) -> None:
    assert before_us(hosts, [host for host in hosts if host is US]) == left


def test_we_are_known_by_any_of_our_names_in_any_case() -> None:
    own = Ourselves(names=frozenset({"out1.sender.test", "mx.sender.test"}))
    assert own.is_name("MX.Sender.Test.")
    assert not own.is_name("sender.test")
    assert not own.is_name("amx.sender.test")


@pytest.mark.parametrize(
    ("address", "port", "is_us"),
    [
        ("192.0.2.1", 25, True),
        ("192.0.2.1", 26, False),
        ("192.0.2.2", 25, False),
        ("::ffff:192.0.2.1", 25, True),
        ("2001:db8:0::1", 25, True),
        ("198.51.100.7", 587, True),
        ("198.51.100.8", 587, False),
        ("127.0.0.1", 587, True),
        ("127.9.9.9", 587, True),
        ("::1", 587, True),
        ("0.0.0.0", 587, True),
        ("127.0.0.1", 25, False),
        ("no address", 587, False),
    ],
)
def test_an_address_is_ours_where_our_server_listens_on_that_port(
    address: str, port: int, is_us: bool
) -> None:
    own = Ourselves(
        listeners=frozenset({("192.0.2.1", 25), ("2001:db8::1", 25), ("0.0.0.0", 587)}),
        addresses=frozenset({"198.51.100.7"}),
    )
    assert own.is_listener(address, port) is is_us


def test_who_listens_nowhere_is_at_no_address() -> None:
    assert not Ourselves(addresses=frozenset({"192.0.2.1"})).is_listener("192.0.2.1", 25)


def test_a_source_reaches_addresses_of_its_own_family() -> None:
    both = ("2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2")
    assert fitting(both, source_address="198.51.100.1") == ("192.0.2.1", "192.0.2.2")
    assert fitting(both, source_address="2001:db8::9") == ("2001:db8::1", "2001:db8::2")
    assert fitting(both, source_address="") == both


@given(st.integers(0, 10_000))
def test_a_dead_host_rests_longer_each_time_and_never_for_good(failures: int) -> None:
    rest_s = dead_for_s(failures)
    assert DEAD_FIRST_S <= rest_s <= DEAD_MOST_S
    assert rest_s <= dead_for_s(failures + 1)
    assert [dead_for_s(n) for n in (1, 2, 3, 6)] == [30.0, 60.0, 120.0, 900.0]
