"""`manage.py restored`: what it says and sets aside, and what it cannot know."""

import dataclasses
import io
from collections.abc import Iterator

import psycopg2
import pytest
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError

from mailio.ledger.accept import Acceptor
from mailio.settings import Settings
from tests.io.ledger.world import accept, message

pytestmark = pytest.mark.django_db


def restored(*arguments: str) -> str:
    out = io.StringIO()
    call_command("restored", *arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def queued(stores: Settings, database_url: str) -> Iterator[None]:
    settings.POSTFLEET = dataclasses.replace(stores, database_url=database_url)
    acceptor = Acceptor(database_url)
    accept(acceptor, message("a@one.test"), message("b@one.test"))
    yield
    acceptor.close()
    line = psycopg2.connect(database_url)
    with line, line.cursor() as cursor:
        cursor.execute(
            "TRUNCATE ledger_row, ledger_lane, ledger_outbox, ledger_restore, ledger_witness"
        )
    line.close()
    settings.POSTFLEET = stores


def test_what_is_queued_is_set_aside_by_hand_and_it_says_what_to_do_then(queued: None) -> None:
    assert restored("show") == "no restored backup was noticed\n"
    said = restored("begin", "--reason", "the backup of Tuesday")
    assert "the backup of Tuesday" in said
    assert "quarantined: 2 recipients since a restored backup" in said
    assert "manage.py queue retry --state unknown --waits-for restored" in said
    assert restored("show") == said


def test_without_the_statistics_nothing_is_taken_for_unsent(queued: None) -> None:
    restored("begin", "--reason", "a backup")
    with pytest.raises(CommandError, match="clickhouse is away"):
        restored("reconcile")
    with pytest.raises(CommandError, match="--reason must say why"):
        restored("begin", "--reason", " ")
