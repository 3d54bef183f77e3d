"""NOREPLY_MAILER sets system mail up once; what is wrong with it is named."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError

from control.notify import services
from control.notify.models import SystemMail
from control.secrets import get_secret
from tests.control.conftest import SYSTEM

pytestmark = pytest.mark.django_db


def test_noreply_mailer_fills_the_row_once_and_the_panel_has_the_word_from_then_on(
    rows: SystemMail,
) -> None:
    text = '{"server": "mx.test", "email": "a@x.test", "login": "l", "pass": "p", "insecure": true}'
    assert services.set_up_from(text, actor=SYSTEM)
    row = SystemMail.objects.get()
    assert (row.relay_host, row.relay_port, row.email) == ("mx.test", 25, "a@x.test")
    assert row.is_insecure
    assert get_secret(row.secret_ref) == b"p"
    assert not services.set_up_from(text.replace("mx.test", "other.test"), actor=SYSTEM)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        ('{"server": "x"}', "email is missing"),
        ('{"server": "x", "email": "a@x.test", "login": "l"}', "pass: give the password"),
        ('{"server": "x", "email": "a@x.test", "port": "25"}', "port: a number"),
        ('{"server": "x", "email": "a@x.test", "ssl": true}', "no field 'ssl'"),
        ('{"server": "x", "email": "a@x.test", "port": 70000}', "port: Ensure"),
        ('{"server": "x y", "email": "a@x.test"}', "server: Give a host name"),
    ],
)
def test_a_noreply_mailer_that_is_none_is_refused_with_the_field(
    rows: SystemMail, text: str, word: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        services.set_up_from(text, actor=SYSTEM)
    assert word in "; ".join(caught.value.messages)
