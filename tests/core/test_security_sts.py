"""MTA-STS: what is a record, what is a policy, and which hosts it means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.security import StsError, StsMode, StsPolicy, parse_sts_policy, parse_sts_record
from mailcore.security.sts import MAX_AGE_S, MAX_POLICY_BYTES

GOOD = b"version: STSv1\r\nmode: enforce\r\nmx: mx.a.test\r\nmx: *.b.test\r\nmax_age: 86400\r\n"


def parsed(body: bytes) -> StsPolicy:
    return parse_sts_policy(body, domain="Peer.TEST.", policy_id="1")


@pytest.mark.parametrize(
    ("texts", "policy_id"),
    [
        (["v=STSv1; id=20260101T000000;"], "20260101T000000"),
        (["v=STSv1;id=1"], "1"),
        (["v=STSv1 ; id=1 ; "], "1"),
        (["v=STSv1; id=1; ext=some-thing"], "1"),
        (["v=spf1 -all", "v=STSv1; id=7;"], "7"),
        ([], ""),
        (["v=spf1 -all"], ""),
        (["id=1; v=STSv1"], ""),
        (["v=STSv1"], ""),
        (["v=STSv1", "v=STSv1; id=2;"], "2"),
        (["v=STSv12; id=1"], ""),
        (["v=STSv1; id="], ""),
        (["v=STSv1; id=with-dash"], ""),
        ([f"v=STSv1; id={'1' * 33}"], ""),
        (["v=STSv1; nonsense; id=1"], ""),
        (["v=STSv1; id=1", "v=STSv1; id=2"], ""),
    ],
)
def test_a_record_gives_the_id_of_the_policy_or_counts_for_nothing(
    texts: list[str], policy_id: str
) -> None:
    assert parse_sts_record(texts) == policy_id


def test_a_policy_is_read_whichever_way_its_lines_end() -> None:
    for body in (GOOD, GOOD.replace(b"\r\n", b"\n"), GOOD.rstrip(), b"\r\n" + GOOD):
        policy = parsed(body)
        assert (policy.domain, policy.mode, policy.max_age_s) == (
            "peer.test",
            StsMode.ENFORCE,
            86400,
        )
        assert policy.mx == ("mx.a.test", "*.b.test")


def test_of_a_field_that_comes_twice_the_first_counts_and_unknown_ones_are_passed_over() -> None:
    policy = parsed(GOOD + b"mode: none\r\nmax_age: 5\r\nfuture: yes\r\nversion: STSv2\r\n")
    assert (policy.mode, policy.max_age_s) == (StsMode.ENFORCE, 86400)


def test_a_longer_life_than_there_is_is_cut() -> None:
    assert parsed(GOOD.replace(b"86400", b"9999999999")).max_age_s == MAX_AGE_S


def test_mode_none_needs_no_hosts() -> None:
    assert parsed(b"version: STSv1\nmode: none\nmax_age: 60\n").mx == ()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (GOOD.replace(b"STSv1", b"STSv2"), "version"),
        (GOOD.replace(b"version: STSv1\r\n", b""), "version"),
        (GOOD.replace(b"enforce", b"strict"), "mode"),
        (GOOD.replace(b"max_age: 86400\r\n", b""), "max_age is missing"),
        (GOOD.replace(b"86400", b"-1"), "max_age"),
        (GOOD.replace(b"86400", b"1e3"), "max_age"),
        (GOOD.replace(b"86400", b"12345678901"), "max_age"),
        (b"version: STSv1\nmode: testing\nmax_age: 60\n", "mx is missing"),
        (GOOD.replace(b"mx.a.test", b"a b"), "mx"),
        (GOOD.replace(b"*.b.test", b"mx.*.test"), "mx"),
        (GOOD + b"no field at all\r\n", "name: value"),
        (GOOD + b"\xff\xfe: x\r\n", "UTF-8"),
        (GOOD + b"x" * MAX_POLICY_BYTES, "octets"),
    ],
)
def test_a_policy_that_is_none_says_why(changed: bytes, why: str) -> None:
    with pytest.raises(StsError, match=why):
        parsed(changed)


@pytest.mark.parametrize(
    ("host", "is_meant"),
    [
        ("mx.a.test", True),
        ("MX.A.Test.", True),
        ("mx2.a.test", False),
        ("one.b.test", True),
        ("b.test", False),
        ("two.one.b.test", False),
        ("oneb.test", False),
        ("", False),
    ],
)
def test_a_wildcard_stands_for_one_label(host: str, is_meant: bool) -> None:
    assert parsed(GOOD).allows(host) is is_meant


@given(st.binary(max_size=300), st.integers(0, len(GOOD)))
def test_any_octets_give_a_policy_or_a_reason(noise: bytes, at: int) -> None:
    try:
        policy = parsed(GOOD[:at] + noise + GOOD[at:])
    except StsError:
        return
    assert 0 <= policy.max_age_s <= MAX_AGE_S
    assert parse_sts_policy("\n".join(policy.body).encode(), domain="peer.test", policy_id="1").mx
