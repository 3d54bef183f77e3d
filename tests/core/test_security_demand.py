"""What domain, host and message together demand of TLS, and which session meets it."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from typing import Any

import pytest

from mailcore.outcome import TlsNeed, TlsPolicy
from mailcore.policy.lookup import domain_tls_for
from mailcore.policy.model import DomainTls, PolicySnapshot
from mailcore.policy.words import DomainTlsLevel, TlsMode
from mailcore.routing.site import DnsStatus
from mailcore.security import (
    CLEAR,
    Level,
    Proof,
    Proven,
    StsAnswer,
    StsMode,
    StsPolicy,
    Tlsa,
    TlsaAnswer,
    TlsDemand,
    demand_of_host,
    is_named,
    matches,
    plan_wish,
    strongest,
    usable,
)

HOST = "mx.peer.test"
EE = Tlsa(3, 1, 1, b"e" * 32)
TA = Tlsa(2, 0, 1, b"t" * 32)
SECURE = TlsaAnswer(DnsStatus.OK, (EE,), base=HOST, is_secure=True)
ENCRYPTED = Proven(is_encrypted=True)


def sts(mode: StsMode = StsMode.ENFORCE, *mx: str) -> StsAnswer:
    return StsAnswer(StsPolicy("peer.test", "1", mode, mx or (HOST,), 86400))


def demand(tlsa: TlsaAnswer | None = None, *, host: str = HOST, **asked: Any) -> TlsDemand:
    values: dict[str, Any] = {
        "mode": TlsMode.OPPORTUNISTIC,
        "need": TlsNeed.POLICY,
        "word": None,
        "sts": StsAnswer(),
        "is_mx_secure": tlsa is not None,
        "uses_dane": True,
    }
    return demand_of_host(plan_wish("peer.test", **(values | asked)), host, tlsa)


def word(level: DomainTlsLevel, *names: str) -> DomainTls:
    return DomainTls(1, "peer.test", level, names)


# --- TLSA -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "is_usable"),
    [
        (EE, True),
        (TA, True),
        (Tlsa(3, 0, 2, b"x" * 64), True),
        (Tlsa(2, 1, 0, b"whole"), True),
        (Tlsa(0, 0, 1, b"x" * 32), False),
        (Tlsa(1, 1, 1, b"x" * 32), False),
        (Tlsa(4, 1, 1, b"x" * 32), False),
        (Tlsa(3, 2, 1, b"x" * 32), False),
        (Tlsa(3, 1, 3, b"x" * 32), False),
        (Tlsa(3, 1, 1, b"x" * 31), False),
        (Tlsa(3, 1, 2, b"x" * 32), False),
        (Tlsa(3, 1, 0, b""), False),
    ],
)
def test_records_of_smtp_are_those_of_dane(record: Tlsa, is_usable: bool) -> None:
    assert bool(usable([record])) is is_usable


def test_a_digest_gives_way_to_a_stronger_one_of_its_kind() -> None:
    strong, whole = Tlsa(3, 1, 2, b"s" * 64), Tlsa(3, 1, 0, b"key")
    assert strongest([EE, strong, whole, TA]) == (strong, whole, TA)


def test_a_record_means_a_certificate_or_its_key_in_full_or_by_digest() -> None:
    hashes = (lambda data: data, lambda data: hashlib.sha256(data).digest(), None)
    for selector, matching in itertools.product((0, 1), (0, 1)):
        meant = (b"certificate", b"key")[selector]
        digest = hashes[matching]
        assert digest is not None
        record = Tlsa(3, selector, matching, digest(meant))
        assert matches(record, certificate=b"certificate", public_key=b"key")
        assert not matches(record, certificate=b"another", public_key=b"one")


@pytest.mark.parametrize(
    ("presented", "wanted", "is_so"),
    [
        ("mx.peer.test", "MX.peer.test.", True),
        ("*.peer.test", "mx.peer.test", True),
        ("*.peer.test", "a.mx.peer.test", False),
        ("*.peer.test", "peer.test", False),
        ("*.test", "peer.test", False),
        ("m*.peer.test", "mx.peer.test", False),
        ("a.b.peer.test", ".peer.test", True),
        ("*.peer.test", ".peer.test", True),
        ("peer.test", ".peer.test", False),
        ("evilpeer.test", ".peer.test", False),
    ],
)
def test_names_are_compared_label_by_label(presented: str, wanted: str, is_so: bool) -> None:
    assert is_named([presented], wanted) is is_so


# --- DANE -----------------------------------------------------------------------------------------


def test_secure_records_are_obeyed_before_any_other_policy() -> None:
    for mode in StsMode:
        found = demand(SECURE, sts=sts(mode, "other.test"))
        assert (found.level, found.by, found.proof) == (
            Level.AUTHENTICATED,
            TlsPolicy.TLSA,
            Proof.TLSA,
        )
        assert found.tlsa == (EE,)


def test_the_names_of_an_authority_are_the_hosts_and_the_domains() -> None:
    answer = TlsaAnswer(DnsStatus.OK, (TA,), base="real.host.test", is_secure=True)
    assert demand(answer).names == ("real.host.test", HOST, "peer.test")
    # The domain is an alias: its end is a name of its own.
    aliased = demand(answer, canonical="Real.peer.test.")
    assert aliased.names == ("real.host.test", HOST, "peer.test", "real.peer.test")


UNUSABLE = TlsaAnswer(DnsStatus.OK, (Tlsa(1, 1, 1, b"x" * 32),), HOST, is_secure=True)


def test_records_that_nobody_can_use_take_nothing_from_an_enforced_policy() -> None:
    for need in TlsNeed:
        assert demand(UNUSABLE, sts=sts(), need=need) == demand(sts=sts(), need=need)
        assert demand(UNUSABLE, sts=sts(StsMode.ENFORCE, "other.test"), need=need).refusal
    tested = demand(UNUSABLE, sts=sts(StsMode.TESTING))
    assert (tested.level, tested.result) == (Level.ENCRYPTED, "tlsa-invalid")


def test_records_that_nobody_can_use_still_demand_encryption() -> None:
    found = demand(UNUSABLE)
    assert (found.level, found.proof, found.result) == (
        Level.ENCRYPTED,
        Proof.NONE,
        "tlsa-invalid",
    )


def test_records_that_cannot_be_looked_up_forbid_the_host() -> None:
    found = demand(TlsaAnswer(DnsStatus.TEMPORARY, detail="SERVFAIL"), sts=sts())
    assert "SERVFAIL" in found.refusal
    assert found.result == "dnssec-invalid"
    assert not Proven(True, frozenset({HOST}), frozenset({EE})).meets(found)


@pytest.mark.parametrize(
    ("answer", "asked"),
    [
        (TlsaAnswer(DnsStatus.OK, (EE,), HOST, is_secure=False), {}),
        (TlsaAnswer(DnsStatus.NO_DATA, is_secure=True), {}),
        (None, {"is_mx_secure": True}),
        (SECURE, {"is_mx_secure": False}),
        (SECURE, {"uses_dane": False}),
    ],
)
def test_records_that_are_not_secure_or_not_wanted_demand_nothing(
    answer: TlsaAnswer | None, asked: dict[str, Any]
) -> None:
    assert demand(answer, **asked) == TlsDemand(Level.OPPORTUNISTIC)


# --- MTA-STS --------------------------------------------------------------------------------------


def test_an_enforced_policy_wants_a_valid_certificate_of_a_host_it_names() -> None:
    found = demand(sts=sts())
    assert (found.level, found.by, found.proof, found.names) == (
        Level.AUTHENTICATED,
        TlsPolicy.STS,
        Proof.PKIX,
        (HOST,),
    )
    assert not ENCRYPTED.meets(found)
    assert Proven(True, frozenset({HOST})).meets(found)


def test_an_enforced_policy_forbids_a_host_it_does_not_name() -> None:
    found = demand(sts=sts(StsMode.ENFORCE, "*.other.test"))
    assert found.refusal
    assert found.result == "validation-failure"


def test_a_tested_policy_is_tried_and_holds_nothing_back() -> None:
    found = demand(sts=sts(StsMode.TESTING))
    assert (found.level, found.is_tested, found.proof) == (Level.OPPORTUNISTIC, True, Proof.PKIX)
    assert CLEAR.meets(found)
    other = demand(sts=sts(StsMode.TESTING, "other.test"))
    assert (other.refusal, other.result, other.is_tested) == ("", "validation-failure", False)


def test_mode_none_is_no_policy_and_one_that_cannot_be_had_is_counted() -> None:
    assert demand(sts=sts(StsMode.NONE)) == TlsDemand(Level.OPPORTUNISTIC)
    failed = demand(sts=StsAnswer(None, "sts-policy-fetch-error"))
    assert (failed.level, failed.by, failed.result) == (
        Level.OPPORTUNISTIC,
        TlsPolicy.STS,
        "sts-policy-fetch-error",
    )


# --- operators and messages -----------------------------------------------------------------------


@pytest.mark.parametrize("level", DomainTlsLevel)
def test_operators_are_obeyed_in_place_of_what_a_domain_publishes(level: DomainTlsLevel) -> None:
    found = demand(SECURE, sts=sts(), word=word(level))
    assert found.by is TlsPolicy.OPERATOR
    assert found.level.name.lower() == {"required": "encrypted", "verified": "authenticated"}.get(
        level.value, level.value
    )
    assert found.names == ((HOST,) if level is DomainTlsLevel.VERIFIED else ())


def test_operators_may_name_what_stands_in_the_certificate() -> None:
    found = demand(word=word(DomainTlsLevel.VERIFIED, ".Peer.TEST"))
    assert found.names == (".peer.test",)


@pytest.mark.parametrize("level", DomainTlsLevel)
@pytest.mark.parametrize("mode", TlsMode)
@pytest.mark.parametrize("need", TlsNeed)
def test_nothing_lowers_what_the_message_asks_for(
    level: DomainTlsLevel, mode: TlsMode, need: TlsNeed
) -> None:
    floor = {TlsNeed.POLICY: 0, TlsNeed.REQUIRED: 2, TlsNeed.REQUIRETLS: 3}[need]
    floor = max(floor, 2) if mode is TlsMode.REQUIRED else floor
    for policy in (StsAnswer(), sts(), sts(StsMode.TESTING), sts(StsMode.NONE)):
        for records in (None, SECURE):
            for said in (None, word(level)):
                found = demand(records, mode=mode, need=need, word=said, sts=policy)
                assert found.level >= floor
                assert found.is_tested is False or found.level < Level.AUTHENTICATED


def test_a_path_without_tls_asks_nobody() -> None:
    found = demand(SECURE, sts=sts(), mode=TlsMode.NONE)
    assert (found.level, found.by) == (Level.NONE, TlsPolicy.OPERATOR)


def test_requiretls_needs_a_host_whose_name_is_known_for_sure() -> None:
    asked: dict[str, Any] = {"need": TlsNeed.REQUIRETLS}
    assert demand(**asked).refusal
    assert demand(sts=sts(StsMode.TESTING, "other.test"), **asked).refusal
    for found in (
        demand(is_mx_secure=True, **asked),
        demand(sts=sts(StsMode.TESTING), **asked),
        demand(SECURE, **asked),
        demand(word=word(DomainTlsLevel.VERIFIED, "peer.test"), **asked),
    ):
        assert (found.refusal, found.level, found.is_tested) == ("", Level.AUTHENTICATED, False)
        assert found.proof is not Proof.NONE


def test_a_proof_of_one_kind_or_name_stands_for_no_other() -> None:
    by_tlsa, by_name = demand(SECURE), demand(sts=sts())
    assert not Proven(True, frozenset({HOST})).meets(by_tlsa)
    assert not Proven(True, tlsa=frozenset({EE})).meets(by_name)
    assert not Proven(True, frozenset({"mx2.peer.test"})).meets(by_name)
    assert not Proven(True, tlsa=frozenset({TA})).meets(by_tlsa)
    assert Proven(True, tlsa=frozenset({EE, TA})).meets(by_tlsa)


def test_what_an_authority_issued_for_one_domain_stands_for_no_other() -> None:
    answer = TlsaAnswer(DnsStatus.OK, (TA, EE), HOST, is_secure=True)
    by_authority = demand(replace(answer, records=(TA,)))
    for names, is_met in (((), False), (("else.test",), False), (("x", "peer.test"), True)):
        proven = Proven(True, tlsa=frozenset({TA}), tlsa_names=frozenset(names))
        assert proven.meets(by_authority) is is_met
    # The name was not shown by PKIX, nor would one that was stand for the record.
    below = Proven(True, tlsa=frozenset({TA}), tlsa_names=frozenset({HOST}))
    assert not below.meets(demand(sts=sts()))
    assert not Proven(True, frozenset({HOST}), frozenset({TA})).meets(by_authority)
    assert Proven(True, tlsa=frozenset({EE})).meets(demand(answer))


def test_a_row_of_a_domain_goes_before_those_of_its_parents() -> None:
    def row(domain: str) -> DomainTls:
        return DomainTls(1, domain, DomainTlsLevel.REQUIRED)

    rows = {name: row(name) for name in (".test", ".peer.test", "a.peer.test")}
    policy = PolicySnapshot(1, domain_tls=rows)
    for domain, found in (
        ("a.peer.test", "a.peer.test"),
        ("b.peer.test", ".peer.test"),
        ("x.b.peer.test", ".peer.test"),
        ("peer.test", ".test"),
        ("example.com", None),
    ):
        said = domain_tls_for(policy, domain=domain)
        assert (said.domain if said is not None else None) == found
