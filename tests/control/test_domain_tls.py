"""TLS of single domains: what may be saved, and what becomes of it."""

from __future__ import annotations

import pytest
from django.test import Client

from control.accounts.models import User
from control.audit.models import AuditEntry
from control.mta.models import DomainTls
from control.policy.compiler import compile_policy
from mailcore.policy import model, words
from tests.control.pages import errors, page, send

pytestmark = pytest.mark.django_db


def added(panel: Client, **fields: str) -> object:
    return send(panel, page(DomainTls, "add/"), **fields)


def test_a_row_is_compiled_and_told_of(panel: Client) -> None:
    answer = added(
        panel, domain=" .Bücher.test. ", level="verified", names=".Mail.test\nmx.test", note="why"
    )
    assert getattr(answer, "status_code", 0) == 302
    added(panel, domain="clear.test", level="none", names="")
    row = DomainTls.objects.get(level="verified")
    assert compile_policy().domain_tls == {
        ".xn--bcher-kva.test": model.DomainTls(
            row.pk,
            ".xn--bcher-kva.test",
            words.DomainTlsLevel.VERIFIED,
            (".mail.test", "mx.test"),
        ),
        "clear.test": model.DomainTls(
            DomainTls.objects.get(level="none").pk, "clear.test", words.DomainTlsLevel.NONE
        ),
    }
    assert AuditEntry.objects.filter(object_label="clear.test").exists()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"domain": "a b"}, "domain"),
        ({"domain": "."}, "domain"),
        ({"domain": "a.test", "level": "required", "names": "mx.test"}, "Only Verified"),
        ({"domain": "a.test", "level": "verified", "names": "no name!"}, "names"),
        ({"domain": "A.test."}, "already exists"),
    ],
)
def test_what_makes_no_sense_names_the_field(
    panel: Client, fields: dict[str, str], said: str
) -> None:
    DomainTls.objects.create(domain="a.test" if said == "already exists" else "b.test")
    assert said in errors(added(panel, **fields))


def test_account_users_have_no_business_here(account_user: User) -> None:
    client = Client(headers={"host": "localhost"})
    client.force_login(account_user)
    assert client.get(page(DomainTls)).status_code in (302, 403)
