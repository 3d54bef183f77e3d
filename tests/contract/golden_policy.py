"""The policy snapshot of the golden files.

Gives    policy_sample: a snapshot with every field set and every word of its vocabularies used
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from mailcore.outcome import BounceClass, BounceType
from mailcore.policy import model, words

REVISION = 7


def policy_sample() -> model.PolicySnapshot:
    """A snapshot with every field set and every word of its vocabularies used."""
    strategies = [
        model.Strategy(number, f"strategy {number}", 20, 3, 1, 60.0, helo, tls, drop=number == 3)
        for number, (helo, tls) in enumerate(
            zip(words.HeloMode, (*words.TlsMode, words.TlsMode.NONE), strict=True), 1
        )
    ]
    return model.PolicySnapshot(
        revision=REVISION,
        accounts={1: model.Account(1, "Example", True, 1, 259200.0, 10485760, 1000, False)},
        senders=dict(enumerate(_senders(), 1)),
        sending_domains={
            "example.com": model.SendingDomain(1, "example.com", (1, 2), "b.example.com", (1, 2))
        },
        pools={1: model.Pool(1, "main", (model.PoolMember(1, 3, 2), model.PoolMember(2, 1)), "ex")},
        sources={
            1: model.Source(1, "node1", "192.0.2.10", "out1.example.com"),
            2: model.Source(2, "node1", "2001:db8::10", "out2.example.com", is_active=False),
        },
        nodes={
            "node1": model.Node(
                *(1, "node1", 4.0, 1800.0, 20.0, 86400.0, 3 * 2**30, 2**27),
                *("X-Ex-Token", "ops@example.com", True, False, False),
            )
        },
        isps={one.id: one for one in _isps()},
        strategies={one.id: one for one in strategies},
        retry_rules={one.id: one for one in _retry_rules()},
        default_rules={one.id: one for one in _default_rules()},
        bounce_patterns=tuple(_patterns()),
        dkim_keys={
            1: model.DkimKey(1, "example.com", "r1", "rsa", "dkim/1"),
            2: model.DkimKey(2, "example.com", "e1", "ed25519", "dkim/2"),
        },
        mailboxes={one.id: one for one in _mailboxes()},
        default_strategy_id=2,
        relays={one.sender_id: one for one in _relays()},
        domain_tls={
            one.domain: one
            for one in (
                model.DomainTls(number, f"d{number}.test", level, ("mx.test", ".mx.test"))
                for number, level in enumerate(words.DomainTlsLevel, 1)
            )
        },
    )


def _mailboxes() -> Sequence[model.Mailbox]:
    protocols, modes = itertools.cycle(words.MailboxProtocol), itertools.cycle(words.MailboxTls)
    return [
        model.Mailbox(
            number,
            f"mailbox {number}",
            "pop.example.com",
            995,
            "bounces@example.com",
            f"mailbox:{number}",
            next(protocols),
            next(modes),
            purpose,
            number - 1,
            300.0,
            deletes_after_reading=number % 2 == 0,
        )
        for number, purpose in enumerate(words.MailboxPurpose, 1)
    ]


def _retry_rules() -> Sequence[model.RetryRule]:
    modes = zip(words.RetryMode, words.RetryType, strict=True)
    return [
        model.RetryRule(number, f"retry {number}", mode, 30, 900.0, kind, 1.5, 0.25)
        for number, (mode, kind) in enumerate(modes, 1)
    ]


def _patterns() -> Sequence[model.BouncePattern]:
    types = itertools.cycle(BounceType)
    return [
        model.BouncePattern(
            number, f"pattern {number}", 1, next(types), word, r"^55\d .*gone", "gone", number
        )
        for number, word in enumerate(BounceClass, 1)
    ]


def _senders() -> Sequence[model.Sender]:
    return [
        model.Sender(
            number,
            f"sender {number}",
            (1, 2),
            1,
            1,
            1,
            kind,
            "fixed.example.com",
            "b.example.com",
            ((1, 2), (2, 3)),
            words.TlsMode.REQUIRED,
            mode,
            (2, 1),
        )
        for number, (kind, mode) in enumerate(
            zip(words.DomainType, itertools.cycle(words.ReturnPathMode), strict=False), 1
        )
    ]


def _relays() -> Sequence[model.Relay]:
    """One for each way to log in, and with that each way to encrypt."""
    modes = itertools.cycle(words.RelayTls)
    return [
        model.Relay(
            number,
            "relay.example.com",
            465,
            next(modes),
            number % 2 == 0,
            auth,
            "someone",
            f"relay:{number}",
            number % 2 == 1,
            number % 2 == 0,
        )
        for number, auth in enumerate(words.RelayAuth, 1)
    ]


def _isps() -> Sequence[model.Isp]:
    """So many that each kind of content is sent in each encoding."""
    encodings = list(words.Encoding)
    return [
        model.Isp(
            number,
            f"Provider {number}",
            ("provider.test", "xn--bcher-kva.test"),
            ("mx.provider.test",),
            2,
            1,
            number == 1,
            (("X-Added", "größe"),),
            ("X-Deleted",),
            *(encodings[number - 1 :] + encodings[: number - 1])[:3],
        )
        for number in range(1, len(encodings) + 1)
    ]


def _default_rules() -> Sequence[model.DefaultRule]:
    stop, retry = words.RuleAction.STOP, words.RuleAction.RETRY
    return [
        model.DefaultRule(number, f"rule {number}", 1, 10, 1, stop, retry, retry, action, 600.0)
        for number, action in enumerate(words.UnknownAction, 1)
    ]
