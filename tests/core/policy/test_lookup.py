"""What the policy says in one case: default < ISP < sender < source."""

from dataclasses import replace

import pytest

from mailcore.policy import lookup, model, words

STRATEGIES = {
    number: model.Strategy(number, name, number, 1, 1, 60.0)
    for number, name in enumerate(("default", "isp", "sender", "sender at isp", "source"), start=1)
}
SENDER = model.Sender(id=1, name="s", account_ids=(1,), pool_id=1, strategy_id=0, default_rule_id=0)
POLICY = model.PolicySnapshot(
    revision=1,
    senders={1: SENDER},
    pools={1: model.Pool(1, "p", (model.PoolMember(1, 100), model.PoolMember(2, 0)))},
    sources={
        1: model.Source(1, "n1", "192.0.2.1", "a.test"),
        2: model.Source(2, "n1", "192.0.2.2", "b.test"),
        3: model.Source(3, "n2", "192.0.2.3", "c.test"),
    },
    isps={5: model.Isp(5, "i", ("i.test",))},
    strategies=STRATEGIES,
    sending_domains={"acme.test": model.SendingDomain(1, "acme.test", (1,), "b.acme.test")},
    default_strategy_id=1,
)


def chosen(policy: model.PolicySnapshot, *, isp_id: int = 5, sender_id: int = 1) -> str:
    return lookup.strategy_for(policy, sender_id=sender_id, isp_id=isp_id, source_id=1).name


def test_each_level_beats_the_ones_before_it() -> None:
    policy = POLICY
    assert chosen(policy) == "default"
    policy = replace(policy, isps={5: replace(policy.isps[5], strategy_id=2)})
    assert chosen(policy) == "isp"
    assert chosen(policy, isp_id=0) == "default"
    policy = replace(policy, senders={1: replace(SENDER, strategy_id=3)})
    assert chosen(policy) == "sender"
    policy = replace(policy, senders={1: replace(SENDER, strategy_id=3, isp_strategies=((5, 4),))})
    assert chosen(policy) == "sender at isp"
    assert chosen(policy, isp_id=0) == "sender"
    pool = model.Pool(1, "p", (model.PoolMember(1, 100, 5),))
    assert chosen(replace(policy, pools={1: pool})) == "source"


def test_what_is_in_no_row_falls_back_to_the_reference_s_60_in_60() -> None:
    empty = model.PolicySnapshot(revision=1)
    found = lookup.strategy_for(empty, sender_id=9, isp_id=9, source_id=9)
    assert (found.messages_per_interval, found.interval_s) == (60, 60.0)
    assert chosen(POLICY, sender_id=9) == "default"


@pytest.mark.parametrize(
    ("sender_domain", "header_from", "expected"),
    [
        ("", "acme.test", "b.acme.test"),
        ("r.test", "acme.test", "r.test"),
        ("", "unknown.test", ""),
    ],
)
def test_the_sender_s_return_path_domain_beats_the_sending_domain_s(
    sender_domain: str, header_from: str, expected: str
) -> None:
    policy = replace(POLICY, senders={1: replace(SENDER, return_path_domain=sender_domain)})
    found = lookup.return_path_domain(policy, sender_id=1, header_from=header_from)
    assert found == expected


@pytest.mark.parametrize(
    ("account_id", "domain", "is_allowed"),
    [
        (1, "acme.test", True),
        (1, "ACME.test", True),
        (2, "acme.test", False),
        (1, "sub.acme.test", False),
        (1, "notacme.test", False),
        (1, "test", False),
    ],
)
def test_an_account_sends_from_the_domains_listed_for_it_and_no_other(
    account_id: int, domain: str, is_allowed: bool
) -> None:
    assert lookup.may_use_domain(POLICY, account_id=account_id, domain=domain) is is_allowed


def test_an_account_uses_the_senders_assigned_to_it() -> None:
    assert lookup.may_use_sender(POLICY, account_id=1, sender_id=1)
    assert not lookup.may_use_sender(POLICY, account_id=2, sender_id=1)
    assert not lookup.may_use_sender(POLICY, account_id=1, sender_id=2)


def test_the_stricter_of_sender_and_strategy_says_how_mail_travels() -> None:
    strict = replace(POLICY, senders={1: replace(SENDER, tls=words.TlsMode.REQUIRED)})
    usual = STRATEGIES[1]
    clear = replace(usual, tls=words.TlsMode.NONE)
    assert lookup.tls_mode_for(strict, sender_id=1, strategy=clear) is words.TlsMode.REQUIRED
    assert lookup.tls_mode_for(POLICY, sender_id=1, strategy=clear) is words.TlsMode.NONE
    assert lookup.tls_mode_for(POLICY, sender_id=9, strategy=usual) is words.TlsMode.OPPORTUNISTIC


@pytest.mark.parametrize(
    ("sender", "presented"),
    [
        (SENDER, "from.test"),
        (replace(SENDER, domain_type=words.DomainType.PTR), "a.test"),
        (
            replace(SENDER, domain_type=words.DomainType.FIXED, fixed_domain="own.test"),
            "own.test",
        ),
        (replace(SENDER, domain_type=words.DomainType.FIXED), "a.test"),
    ],
)
def test_a_sender_presents_itself_as_its_domain_type_says(
    sender: model.Sender, presented: str
) -> None:
    policy = replace(POLICY, senders={1: sender})
    source = POLICY.sources[1]
    assert (
        lookup.presented_domain(policy, sender_id=1, header_from="from.test", source=source)
        == presented
    )
