"""Settings, health, tables: what stands around the pages."""

import pytest
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connection
from django.test import Client

from control.access import Actor
from control.accounts.models import User
from control.environment import read_environment
from control.jobs import services as jobs
from control.jobs.choices import JobState
from control.stoplists import services as stoplists
from control.stoplists.models import StopEntry
from mailio.settings import Settings
from tests.control.conftest import SYSTEM

pytestmark = pytest.mark.django_db
UNMANAGED = [model for model in apps.get_models() if not model._meta.managed]


@pytest.fixture
def browser() -> Client:
    return Client(headers={"host": "localhost"})


def test_health_answers_always(browser: Client) -> None:
    answer = browser.get("/health")
    assert (answer.status_code, answer.content) == (200, b"OK")


@pytest.mark.parametrize("path", ["/health", "/readiness"])
def test_a_watcher_need_not_know_the_name_of_the_host(path: str) -> None:
    watcher = Client(headers={"host": "192.0.2.7:8025"})
    assert watcher.get(path).status_code in (200, 503)
    assert watcher.get("/panel/").status_code == 400


def test_readiness_names_the_stores_that_do_not_answer(browser: Client) -> None:
    answer = browser.get("/readiness")
    assert answer.status_code == 503
    assert answer.json() == {"status": "FAIL", "failed": ["clickhouse"]}


def test_readiness_without_stores_says_not_started(
    browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "POSTFLEET", None)
    assert browser.get("/readiness").json() == {"status": "FAIL", "failed": ["started"]}


@pytest.mark.parametrize("model", UNMANAGED, ids=[model._meta.label for model in UNMANAGED])
def test_unmanaged_models_name_columns_their_tables_have(model: type) -> None:
    meta = apps.get_model(model._meta.label)._meta  # type: ignore[attr-defined]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_name = %s",
            (meta.db_table,),
        )
        columns = {name for (name,) in cursor.fetchall()}
    assert {field.column for field in meta.concrete_fields} <= columns


def test_models_and_migrations_agree() -> None:
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


def test_account_users_do_not_reach_the_panel(browser: Client, account_user: User) -> None:
    answer = browser.post(
        "/panel/login/", {"username": "ann@acme", "password": "correct horse battery"}
    )
    assert answer.status_code == 200  # the form again
    assert browser.get("/panel/").status_code == 302


def test_settings_without_a_database_serve_nothing_and_with_a_wrong_one_say_why() -> None:
    bare = read_environment({"VAR_DIR": "/nonexistent"})
    assert bare.settings is None
    assert not bare.is_lab
    with pytest.raises(ImproperlyConfigured, match="BROKER_URL is not set"):
        read_environment({"VAR_DIR": "/nonexistent", "DATABASE_URL": "postgresql://x/y"})


def test_what_a_running_stack_left_is_found_and_the_own_environment_wins(
    stores: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    var = tmp_path_factory.mktemp("left")
    (var / "run").mkdir()
    lines = {
        "DATABASE_URL": stores.database_url,
        "BROKER_URL": stores.broker_url,
        "REDIS_URL": stores.redis_url,
        "CLICKHOUSE_URL": stores.clickhouse_url,
        "SPOOL_URL": stores.spool_url,
        "SECRET_KEYS": "1:" + "A" * 43 + "=",
        "NODE": "left",
    }
    (var / "run" / "env").write_text("".join(f"{k}={v}\n" for k, v in lines.items()))
    found = read_environment({"VAR_DIR": str(var), "NODE": "own"})
    assert found.settings is not None
    assert found.settings.database_url == stores.database_url
    assert found.settings.node == "own"


def test_a_live_process_serves_https_unless_told_otherwise(stores: Settings) -> None:
    live = {
        "MODE": "live",
        "DATABASE_URL": stores.database_url,
        "BROKER_URL": stores.broker_url,
        "REDIS_URL": stores.redis_url,
        "CLICKHOUSE_URL": stores.clickhouse_url,
        "SPOOL_URL": stores.spool_url,
        "SECRET_KEYS": "1:" + "A" * 43 + "=",
        "VAR_DIR": "/nonexistent",
    }
    assert read_environment(live).serves_https
    assert not read_environment({**live, "PUBLIC_URL": "http://127.0.0.1:8000"}).serves_https
    assert not read_environment({**live, "MODE": "lab"}).serves_https


def test_a_job_is_claimed_once_and_stops_when_asked() -> None:
    job = jobs.start(kind="import", title="Addresses", actor=SYSTEM, file="a.csv")
    running = jobs.claim(job.pk)
    assert running is not None
    assert jobs.claim(job.pk) is None
    assert jobs.report_progress(running, done=5, total=10, cursor={"at": 5})
    assert jobs.request_stop(running, actor=SYSTEM)
    assert not jobs.report_progress(running, done=6, total=10, cursor={"at": 6})
    jobs.finish(running, is_stopped=True)
    running.refresh_from_db()
    assert (running.state, running.done_count) == (JobState.STOPPED, 6)
    assert not jobs.request_stop(running, actor=SYSTEM)


def test_a_waiting_job_stops_at_once_and_a_failed_one_says_why() -> None:
    waiting = jobs.start(kind="import", title="a", actor=SYSTEM)
    assert jobs.request_stop(waiting, actor=SYSTEM)
    assert jobs.claim(waiting.pk) is None
    failing = jobs.claim(jobs.start(kind="import", title="b", actor=SYSTEM).pk)
    assert failing is not None
    jobs.fail(failing, "no such file")
    failing.refresh_from_db()
    assert (failing.state, failing.error) == (JobState.FAILED, "no such file")


def test_an_address_is_stopped_once_in_its_compared_form_and_let_go() -> None:
    actor = Actor.system("test")
    first = stoplists.add(StopEntry(recipient="Ann@Example.COM"), actor=actor)
    again = stoplists.add(StopEntry(recipient="ann@example.com"), actor=actor)
    assert first.pk == again.pk
    assert first.recipient == "ann@example.com"
    stoplists.remove(first, actor=actor)
    assert not StopEntry.objects.exists()
