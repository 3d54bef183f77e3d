"""Who may see and do what: the one place that panel and API ask.

Gives    Actor; Verb; AccessRule, which each model declares as `access`; scope(actor, queryset);
         can(actor, verb, model or object)
Raises   nothing: what no rule allows is refused
Follows  design.md section 8

Master administrators may do all; ordinary ones all but manage administrators; account users and
account tokens see only rows of their account. Models without a rule are nobody's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, Self, TypeVar

from django.core.exceptions import FieldDoesNotExist
from django.db import models

M = TypeVar("M", bound=models.Model)


class Verb(Enum):
    """What is done with a row."""

    VIEW = "view"
    ADD = "add"
    CHANGE = "change"
    DELETE = "delete"


class ApiScope(models.TextChoices):
    """What an API token may be used for."""

    MESSAGES_SEND = "messages:send", "messages:send"
    MESSAGES_READ = "messages:read", "messages:read"
    QUEUE = "queue", "queue"
    METRICS = "metrics", "metrics"
    ADMIN = "admin", "admin"


ALL = frozenset(Verb)
READ = frozenset({Verb.VIEW})
NONE: frozenset[Verb] = frozenset()


@dataclass(frozen=True, slots=True)
class AccessRule:
    """Who may do what with a model's rows.

    `account_path` is the look-up that leads from a row to the account it belongs to ("account_id",
    "accounts", or what the model's default manager annotates); empty: account users never see it.
    `master_row` names an attribute that is true of rows which only a master may write.
    """

    admin: frozenset[Verb] = ALL
    master: frozenset[Verb] = ALL
    account_user: frozenset[Verb] = NONE
    account_path: str = ""
    master_row: str = ""


READ_ONLY = AccessRule(admin=READ, master=READ)
DENIED = AccessRule(admin=NONE, master=NONE)


class UserLike(Protocol):
    """What is asked of `accounts.User`, which this module must not import."""

    pk: Any
    account_id: int | None
    is_active: bool
    is_master: bool

    def get_username(self) -> str: ...


class TokenLike(Protocol):
    """What is asked of `accounts.ApiToken`."""

    pk: Any
    name: str
    account_id: int | None
    scopes: list[str]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: a person, a program with an API token, or the product itself.

    `account_id` None is an administrator, if `is_admin`. `scopes` bound what a token may do; a
    person has none of them and needs none.
    """

    label: str
    user_id: int | None = None
    account_id: int | None = None
    is_admin: bool = False
    is_master: bool = False
    scopes: frozenset[str] = frozenset()
    ip: str = ""

    @classmethod
    def of_user(cls, user: UserLike, *, ip: str = "") -> Self:
        """Return the actor that a logged-in person is; inactive people may do nothing."""
        is_admin = user.is_active and user.account_id is None
        return cls(
            label=user.get_username(),
            user_id=user.pk,
            account_id=user.account_id,
            is_admin=is_admin,
            is_master=is_admin and user.is_master,
            ip=ip,
        )

    @classmethod
    def of_token(cls, token: TokenLike, *, ip: str = "") -> Self:
        """Return the actor that a program is; without an account and with `admin`: an admin."""
        scopes = frozenset(token.scopes)
        is_admin = token.account_id is None and ApiScope.ADMIN.value in scopes
        return cls(
            label=f"token {token.name}",
            account_id=token.account_id,
            is_admin=is_admin,
            scopes=scopes,
            ip=ip,
        )

    @classmethod
    def system(cls, label: str) -> Self:
        """Return the product itself, at the command line or in a worker."""
        return cls(label=label, is_admin=True, is_master=True)

    def has_scope(self, name: str) -> bool:
        """Whether this token may be used for `name` (people: see `can`).

        One that administers the installation may do with the queue what an administrator may.
        """
        return name in self.scopes or (self.is_admin and name == ApiScope.QUEUE.value)


NOBODY = Actor(label="nobody")


def rule_of(model: type[models.Model]) -> AccessRule:
    """Return what the model declares; DENIED if it declares nothing."""
    rule = getattr(model, "access", DENIED)
    return rule if isinstance(rule, AccessRule) else DENIED


def scope(actor: Actor, queryset: models.QuerySet[M]) -> models.QuerySet[M]:
    """Return those rows of the query set that the actor may see."""
    rule = rule_of(queryset.model)
    if not _allowed(actor, rule, Verb.VIEW):
        return queryset.none()
    if actor.is_admin:
        return queryset
    rows = queryset.filter(**{rule.account_path: actor.account_id})
    # A many-to-many path can lead to a row twice; a plain column cannot, and DISTINCT costs.
    return rows.distinct() if _is_multi_valued(queryset.model, rule.account_path) else rows


def can(actor: Actor, verb: Verb, target: models.Model | type[models.Model]) -> bool:
    """Whether the actor may do this with the row, or with some row of the model."""
    model = target if isinstance(target, type) else type(target)
    rule = rule_of(model)
    if not _allowed(actor, rule, verb):
        return False
    if isinstance(target, type):
        return True
    if actor.is_admin:
        is_guarded = bool(rule.master_row) and bool(getattr(target, rule.master_row))
        return actor.is_master or verb is Verb.VIEW or not is_guarded
    if target.pk is None:
        return _is_own(actor, rule, target)
    manager = model._default_manager
    return scope(actor, manager.filter(pk=target.pk)).exists()


def _is_own(actor: Actor, rule: AccessRule, unsaved: models.Model) -> bool:
    return getattr(unsaved, rule.account_path, None) == actor.account_id


def _allowed(actor: Actor, rule: AccessRule, verb: Verb) -> bool:
    if actor.is_master:
        return verb in rule.master
    if actor.is_admin:
        return verb in rule.admin
    return actor.account_id is not None and bool(rule.account_path) and verb in rule.account_user


def _is_multi_valued(model: type[models.Model], path: str) -> bool:
    steps: Iterable[str] = path.split("__")
    current: Any = model
    for step in steps:
        try:
            field = current._meta.get_field(step)
        except FieldDoesNotExist:
            return False  # annotated by the model's manager
        if field.many_to_many or field.one_to_many:
            return True
        current = field.related_model or current
    return False
