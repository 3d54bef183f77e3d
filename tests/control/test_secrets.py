"""A secret is nowhere in clear, and rotates."""

import base64
from dataclasses import replace
from typing import Any

import pytest
from django.conf import settings
from django.contrib import admin
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from psycopg2 import sql

from control import secrets
from control.mailboxes.models import Mailbox
from control.mta.models import Key
from control.policy.models import PolicyRevision
from mailcore.policy import codec
from tests.control.conftest import House
from tests.control.pages import errors, form_of, page, send

pytestmark = pytest.mark.django_db
PASSWORD = "s3cret-of-the-mailbox"


def dump() -> str:
    """Return every row of every table as text."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        tables = [name for (name,) in cursor.fetchall()]
        lines = []
        for table in tables:
            cursor.execute(sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(table)))
            lines += [row for (row,) in cursor.fetchall()]
    assert len(tables) > 30
    return "\n".join(lines)


def everything_shown(panel: Client) -> str:
    """Return every page of the panel: lists, and the form of each row."""
    pages = []
    for model in admin.site._registry:
        pages.append(panel.get(page(model)).content.decode())
        for row in model._default_manager.all()[:20]:
            pages.append(panel.get(page(model, f"{row.pk}/change/")).content.decode())
    return "\n".join(pages)


def test_a_secret_is_in_no_table_snapshot_audit_or_page(house: House, panel: Client) -> None:
    path = page(Mailbox, "add/")
    fields = {"name": "bounces", "host": "mail.test", "login": "b", "new_password": PASSWORD}
    assert panel.post(path, {**form_of(panel, path), **fields}).status_code == 302
    mailbox = Mailbox.objects.get()
    assert secrets.get_secret(mailbox.secret_ref) == PASSWORD.encode()
    pem = secrets.get_secret(house.key.secret_ref).decode()
    inside = pem.splitlines()[1]
    row = PolicyRevision.objects.get(is_active=True)
    snapshot = codec.decode(bytes(row.body), digest=row.digest, revision=row.revision)
    seen = dump() + everything_shown(panel) + repr(snapshot) + repr(secrets.key_ring())
    assert house.key.public_key in seen  # the search looks in the right places
    for secret in (PASSWORD, inside, base64.b64encode(PASSWORD.encode()).decode()):
        assert secret not in seen


def test_a_pasted_key_that_is_wrong_is_not_quoted_back(house: House, panel: Client) -> None:
    text = "-----BEGIN PRIVATE KEY-----\nnot-really-a-key\n-----END PRIVATE KEY-----"
    answer = send(panel, page(Key, "add/"), name="bad", private_key=text)
    assert "no private key" in errors(answer)


def test_a_replaced_key_has_a_new_reference_and_the_old_one_still_opens(
    house: House, panel: Client
) -> None:
    old = house.key.secret_ref
    answer = send(panel, page(Key, f"{house.key.pk}/change/"), draw="ed25519-sha256")
    assert answer.status_code == 302
    house.key.refresh_from_db()
    assert house.key.secret_ref != old
    assert secrets.get_secret(house.key.secret_ref) != secrets.get_secret(old)


def test_deleting_a_key_deletes_every_generation_of_its_secret(house: House, panel: Client) -> None:
    send(panel, page(Key, "add/"), name="spare", draw="ed25519-sha256")
    spare = Key.objects.get(name="spare")
    first = spare.secret_ref
    send(panel, page(Key, f"{spare.pk}/change/"), draw="ed25519-sha256")
    spare.refresh_from_db()
    assert panel.post(page(Key, f"{spare.pk}/delete/"), {"post": "yes"}).status_code == 302
    assert not secrets.has_secret(first)
    assert not secrets.has_secret(spare.secret_ref)
    assert secrets.has_secret(house.key.secret_ref)


def ring(*numbers: int) -> dict[int, bytes]:
    return {number: bytes([number]) * 32 for number in numbers}


def test_rotation_seals_all_with_the_newest_key_and_the_old_may_go(
    house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old: Any = settings.POSTFLEET
    clear = secrets.get_secret(house.key.secret_ref)
    both = {**old.secret_keys, **ring(2)}
    monkeypatch.setattr(settings, "POSTFLEET", replace(old, secret_keys=both))
    call_command("rotate")
    assert "1 secrets are now sealed with key 2" in capsys.readouterr().out
    monkeypatch.setattr(settings, "POSTFLEET", replace(old, secret_keys=ring(2)))
    assert secrets.get_secret(house.key.secret_ref) == clear


def test_rotation_stops_whole_at_a_value_no_key_opens(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    old: Any = settings.POSTFLEET
    monkeypatch.setattr(settings, "POSTFLEET", replace(old, secret_keys=ring(3)))
    with pytest.raises(CommandError, match="sealed with key 1, which SECRET_KEYS lacks"):
        call_command("rotate")
