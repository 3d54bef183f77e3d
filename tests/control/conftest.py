"""A private PostgreSQL for Django, people of each kind, and a policy that compiles."""

import base64
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import pytest
from django.conf import settings
from django.db import connection, connections
from django.test import Client
from pytest_django import DjangoDbBlocker

from control.access import Actor
from control.accounts.models import Account, User
from control.audit.changes import policy_change
from control.domains.models import DkimKey, SendingDomain
from control.mta.choices import KeyAlgorithm
from control.mta.models import Key, Pool, PoolMember, Strategy
from control.mta.services import draw_private_key, store_key
from control.nodes.models import Node, Source
from control.policy.system_rows import create_system_rows
from control.senders.models import Sender
from control.settings import database_of
from mailio.settings import Settings, load
from tests.support.stack import postgres_url, redis_url

SYSTEM = Actor.system("test")
PASSWORD = "correct horse battery"


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings of a process whose stores are this session's own."""
    var = tmp_path_factory.mktemp("var")
    (var / "spool").mkdir()
    return load(
        {
            "DATABASE_URL": postgres_url(),
            "REDIS_URL": redis_url(),
            "BROKER_URL": redis_url(),
            "CLICKHOUSE_URL": f"chdb+unix://{var}/nobody",
            "SPOOL_URL": f"file://{var}/spool",
            "SECRET_KEYS": f"1:{base64.b64encode(bytes(range(32))).decode()}",
            "VAR_DIR": str(var),
            "NODE": "node1",
        }
    )


@pytest.fixture(scope="session")
def django_db_modify_db_settings(stores: Settings) -> None:
    """Point Django at this session's PostgreSQL before it makes its test database."""
    settings.POSTFLEET = stores
    databases = {"default": database_of(stores.database_url)}
    connections.settings = connections.configure_settings(databases)
    with contextlib.suppress(AttributeError):
        del connections["default"]  # the one made while no database was named


class Databases:
    """Two databases to run a test on: one as after an installation, and a copy with a house in it.
    A house is fifteen rows, their audit and a compiled policy: more than most tests that live in it
    do themselves."""

    bare = ""
    furnished = ""
    wanted_furnished = False

    @classmethod
    def copy(cls) -> None:
        """Make the second from the first."""
        cls.bare = connection.settings_dict["NAME"]
        cls.furnished = f"{cls.bare}_house"
        connection.close()  # nobody may look on at a copy
        with connection._nodb_cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{cls.furnished}" TEMPLATE "{cls.bare}"')
        cls._go(cls.furnished)
        furnish()
        cls.choose()

    @classmethod
    def choose(cls) -> None:
        """Go where the next test wants to be."""
        if cls.bare:
            cls._go(cls.furnished if cls.wanted_furnished else cls.bare)

    @classmethod
    def _go(cls, name: str) -> None:
        if connection.settings_dict["NAME"] != name:
            connection.close()
            connection.settings_dict["NAME"] = name  # every thread's connection shares these


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Choose the database before a transaction is begun in it."""
    Databases.wanted_furnished = "house" in getattr(item, "fixturenames", ())
    Databases.choose()


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Give the test database what every installation begins with, once: a hundred rows with their
    audit and a revision are most of what a small test costs."""
    with django_db_blocker.unblock():
        create_system_rows(actor=SYSTEM)
        Databases.copy()
    yield
    Databases.wanted_furnished = False
    Databases.choose()


@pytest.fixture
def database_url(db: None, stores: Settings) -> str:
    """Where Django's test database is, for what reaches it without Django."""
    return urlunsplit(
        urlsplit(stores.database_url)._replace(path=f"/{connection.settings_dict['NAME']}")
    )


@pytest.fixture
def system_rows(db: None) -> None:
    """What every installation begins with; a test that commits takes it away from the next."""
    if not Strategy.objects.exists():
        create_system_rows(actor=SYSTEM)


@dataclass(frozen=True)
class House:
    """A policy that compiles: one of each."""

    account: Account
    other: Account
    sender: Sender
    pool: Pool
    source: Source
    domain: SendingDomain
    key: Key
    strategy: Strategy


@pytest.fixture
def house(system_rows: None) -> House:
    """One account with a sender and a signed domain, and a second account with nothing."""
    if not Account.objects.exists():  # a test that commits has emptied it
        furnish()
    return House(
        Account.objects.get(title="Acme"),
        Account.objects.get(title="Other"),
        Sender.objects.get(),
        Pool.objects.get(),
        Source.objects.get(),
        SendingDomain.objects.get(),
        Key.objects.get(),
        Strategy.objects.get(name="60:60"),
    )


def furnish() -> None:
    """Create the rows of a house."""
    with policy_change(SYSTEM) as change:
        node = Node.objects.create(name="node1")
        source = Source.objects.create(node=node, address="192.0.2.1", ehlo_name="a.example.com")
        pool = Pool.objects.create(name="pool")
        PoolMember.objects.create(pool=pool, source=source)
        account = Account.objects.create(title="Acme", login_name="acme")
        other = Account.objects.create(title="Other", login_name="other")
        sender = Sender.objects.create(name="bulk", pool=pool)
        sender.accounts.add(account)
        domain = SendingDomain.objects.create(domain="acme.test")
        domain.accounts.add(account)
        private = draw_private_key(KeyAlgorithm.ED25519)
        key = store_key(Key(name="acme"), private, actor=SYSTEM)
        DkimKey.objects.create(sending_domain=domain, selector="s1", key=key)
        for row in (node, source, pool, account, other, sender, domain):
            change.created(row)


@pytest.fixture
def master(db: None) -> User:
    return User.objects.create_superuser("master", PASSWORD)


@pytest.fixture
def ordinary(db: None) -> User:
    return User.objects.create_user("ordinary", PASSWORD)


@pytest.fixture
def account_user(house: House) -> User:
    return User.objects.create_user("ann@acme", PASSWORD, account=house.account)


@pytest.fixture
def panel(master: User) -> Client:
    """A browser in which a master administrator has logged in."""
    client = Client(headers={"host": "localhost"})
    client.force_login(master)
    return client
