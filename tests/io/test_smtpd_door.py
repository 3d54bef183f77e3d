"""Who may come in over SMTP, for whom, and what the environment may say about it."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from mailcore.reception import Identity
from mailio.settings import SettingsError
from mailio.smtp_door import FAILED_LOGINS, FAILED_LOGINS_S, Door
from mailio.smtpd_settings import SmtpdSettings, load_smtpd
from tests.support.smtpd import FixedPolicy

OWN = (
    (ip_network("192.0.2.0/24"), "acme"),
    (ip_network("2001:db8::/32"), "acme"),
    (ip_network("198.51.100.0/24"), "nobody"),
)


class Time:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def door(time: Time | None = None, *, per_address: int = 100, a_minute: int = 0) -> Door:
    settings = SmtpdSettings(
        listen=(("127.0.0.1", 25),),
        tls_listen=(),
        tls_cert=None,
        tls_key=None,
        host="mx.shop.test",
        networks=OWN,
        connections_per_address=per_address,
        messages_per_minute=a_minute,
    )
    return Door(settings, FixedPolicy(), monotonic=time or Time())


@pytest.mark.parametrize(
    ("address", "account"),
    [
        ("192.0.2.9", 1),
        ("::ffff:192.0.2.9", 1),
        ("2001:db8::9", 1),
        ("198.51.100.1", None),
        ("203.0.113.1", None),
        ("2001:dead::1", None),
        ("", None),
    ],
)
def test_own_hosts_send_for_the_account_their_network_names(
    address: str, account: int | None
) -> None:
    expected = Identity(account) if account is not None else None
    assert door().own_identity(address) == expected


def test_a_network_of_an_account_that_is_not_there_is_told() -> None:
    assert door().unknown_accounts() == ["nobody"]


def test_failed_logins_close_the_door_to_an_address_for_a_while() -> None:
    time = Time()
    ours = door(time)
    for _ in range(FAILED_LOGINS):
        assert ours.enter("203.0.113.1") is None
        ours.login_failed("203.0.113.1")
        ours.leave("203.0.113.1")
    refusal = ours.enter("203.0.113.1")
    assert refusal is not None
    assert str(refusal) == "421 4.7.0 too many failed logins from your address"
    assert ours.enter("203.0.113.2") is None
    time.now = FAILED_LOGINS_S
    assert ours.enter("203.0.113.1") is None


def test_a_network_of_ipv6_counts_as_one_address() -> None:
    ours = door(per_address=1)
    assert ours.enter("2001:db8::1") is None
    refusal = ours.enter("2001:db8::ffff")
    assert refusal is not None
    assert refusal.code == 421
    assert ours.enter("2001:db8:0:1::1") is None
    ours.leave("2001:db8::1")
    assert ours.enter("2001:db8::ffff") is None


def test_an_account_has_its_messages_a_minute() -> None:
    time = Time()
    ours = door(time, a_minute=2)
    assert [ours.admit(Identity(1)).refusal for _ in range(2)] == [None, None]
    assert str(ours.admit(Identity(1)).refusal).startswith("450 4.7.1")
    time.now = 60.0
    assert ours.admit(Identity(1)).refusal is None


@pytest.mark.parametrize("account_id", [2, 99])
def test_an_account_that_is_not_active_or_not_there_is_not_admitted(account_id: int) -> None:
    assert str(door().admit(Identity(account_id)).refusal).startswith("550 5.7.1")


def test_an_account_brings_its_own_limits() -> None:
    admission = door().admit(Identity(1))
    assert (admission.message_bytes, admission.recipients) == (1 << 20, 1000)


# ── settings ──────────────────────────────────────────────────────────────────────────────────

USUAL = {"SMTPD_LISTEN": "0.0.0.0:25", "SMTPD_TLS_CERT": "c.pem", "SMTPD_TLS_KEY": "k.pem"}


def test_the_environment_is_read_whole() -> None:
    settings = load_smtpd(
        {
            **USUAL,
            "SMTPD_LISTEN": "192.0.2.1:587, [::1]:587",
            "SMTPD_TLS_LISTEN": "192.0.2.1:465",
            "SMTPD_HOST": "MX.Shop.test",
            "SMTPD_NETWORKS": "192.0.2.0/24:acme, 2001:db8::/32:acme",
            "SMTPD_CONNECTIONS": "5",
            "SMTPD_SHOW_CLIENT": "1",
        }
    )
    assert settings.listen == (("192.0.2.1", 587), ("::1", 587))
    assert settings.tls_listen == (("192.0.2.1", 465),)
    assert settings.tls_cert == Path("c.pem")
    assert settings.host == "mx.shop.test"
    assert settings.networks == OWN[:2]
    assert (settings.connections, settings.shows_client) == (5, True)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"SMTPD_LISTEN": ""}, "SMTPD_LISTEN is not set"),
        ({"SMTPD_LISTEN": "25"}, "SMTPD_LISTEN: '25' is not address:port"),
        ({"SMTPD_LISTEN": "x:99999"}, "SMTPD_LISTEN: 'x:99999'"),
        ({"SMTPD_TLS_KEY": ""}, "SMTPD_TLS_CERT and SMTPD_TLS_KEY belong together"),
        ({"SMTPD_TLS_CERT": "", "SMTPD_TLS_KEY": ""}, "SMTPD_TLS_CERT is not set"),
        (
            {"SMTPD_TLS_CERT": "", "SMTPD_TLS_KEY": "", "SMTPD_TLS_LISTEN": "x:465"},
            "SMTPD_TLS_LISTEN needs",
        ),
        ({"SMTPD_HOST": "nodot"}, "SMTPD_HOST: "),
        ({"SMTPD_NETWORKS": "192.0.2.0/24"}, "SMTPD_NETWORKS: "),
        ({"SMTPD_NETWORKS": "192.0.2.1/24:acme"}, "SMTPD_NETWORKS: "),
        ({"SMTPD_NETWORKS": "0.0.0.0/0:acme"}, "would let the whole world send"),
        ({"SMTPD_NETWORKS": "::/0:acme"}, "would let the whole world send"),
        ({"SMTPD_CONNECTIONS": "many"}, "SMTPD_CONNECTIONS: 'many' is not a whole number"),
        ({"SMTPD_CONNECTIONS": "0"}, "SMTPD_CONNECTIONS: '0'"),
        (
            {"SMTPD_MESSAGE_BYTES": "1000000", "SMTPD_MEMORY_BYTES": "2999999"},
            "SMTPD_MEMORY_BYTES: 2999999 is less than three times SMTPD_MESSAGE_BYTES (1000000)",
        ),
        ({"SMTPD_SHOW_CLIENT": "yes"}, "SMTPD_SHOW_CLIENT: 'yes' is not 0 or 1"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_smtpd({**USUAL, **changes})
    assert named in str(refused.value)
