"""A private PostgreSQL for Django, people of each kind, and a policy that compiles."""

import base64
import contextlib
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


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> None:
    """Give the test database what every installation begins with, once: a hundred rows with their
    audit and a revision are most of what a small test costs."""
    with django_db_blocker.unblock():
        create_system_rows(actor=SYSTEM)


@pytest.fixture
def database_url(db: None, stores: Settings) -> str:
    """Where Django's test database is, for what reaches it without Django."""
    return urlunsplit(
        urlsplit(stores.database_url)._replace(path=f"/{connection.settings_dict['NAME']}")
    )


@pytest.fixture
def system_rows(db: None) -> None:
    """What every installation begins with; a test that commits takes it away from the next."""
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
    strategy = Strategy.objects.get(name="60:60")
    return House(account, other, sender, pool, source, domain, key, strategy)


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
