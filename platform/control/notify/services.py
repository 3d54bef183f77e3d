"""Owe system mail: welcome, lost password, alerts; and the rows an installation begins with.

Gives    welcome, ask_for_password, answer_asked, test_message, owe, try_again, operators;
         create_rows; store_password; set_up_from, which reads NOREPLY_MAILER
Raises   ValidationError for a NOREPLY_MAILER that is none, naming the field
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from control.access import Actor
from control.accounts.models import User
from control.audit.changes import policy_change
from control.notify.choices import WATCHED, NoticeKind, NoticeState
from control.notify.models import Alert, AlertRule, Notice, SystemMail
from control.secrets import put_secret

# Whoever asks for a lost password again within this time gets the mail that is under way.
ASK_AGAIN_S = 600
ANSWERED_AT_ONCE = 100
# A test is sent by the page that makes it, which has to be done in this time.
SENT_HERE = timedelta(minutes=2)
_WORDS = {
    str: _("a text is needed"),
    int: _("a number is needed"),
    bool: _("true or false is needed"),
}
_FIELDS: Mapping[str, tuple[str, type]] = {
    "server": ("relay_host", str),
    "port": ("relay_port", int),
    "email": ("email", str),
    "login": ("relay_login", str),
    "helo": ("relay_helo", str),
    "insecure": ("is_insecure", bool),
    "force_no_ssl": ("without_tls", bool),
}


def create_rows(*, actor: Actor) -> None:
    """Add the row of system mail and the alert rules that are missing; change none that is."""
    known = set(AlertRule.objects.values_list("kind", flat=True))
    rows: list[Any] = [
        AlertRule(kind=kind, threshold=watched.threshold)
        for kind, watched in WATCHED.items()
        if kind not in known
    ]
    if not SystemMail.objects.exists():
        rows.append(SystemMail())
    if not rows:
        return
    with policy_change(actor) as change:
        for row in rows:
            row.is_system = True
            row.save(force_insert=True)
            change.created(row)


def is_set_up() -> bool:
    """Whether system mail has a sender address."""
    return SystemMail.objects.exclude(email="").exists()


def owe(
    kind: NoticeKind,
    recipient: str,
    *,
    key: str,
    user: User | None = None,
    alert: Alert | None = None,
    due_in: timedelta = timedelta(),
) -> Notice | None:
    """Store a mail to be sent soon, once for a key, and return it; None: no way to send any."""
    if not recipient or not is_set_up():
        return None
    notice = Notice(
        key=key,
        kind=kind,
        recipient=recipient,
        language=user.language if user is not None else "en",
        user=user,
        alert=alert,
        due_at=timezone.now() + due_in,
    )
    Notice.objects.bulk_create([notice], ignore_conflicts=True)
    return Notice.objects.filter(key=key).first()


def no_links_because() -> str:
    """Return why no mail with a link can be sent; nothing if one can."""
    if not is_set_up():
        return str(_("System mail is not set up"))
    if not settings.PUBLIC_URL:
        return str(_("PUBLIC_URL is not set, so there is no link to send"))
    return ""


def welcome(user: User) -> str:
    """Owe a user the mail with the link that sets a password; a double click makes one mail.
    Return why none can be sent, or nothing."""
    if why := no_links_because():
        return why
    key = f"welcome:{_about(user)}:{timezone.now():%Y%m%d%H%M}"
    owe(NoticeKind.WELCOME, user.email, key=key, user=user)
    return ""


def ask_for_password(name: str) -> None:
    """Note that somebody asks. A worker looks who it is: the page would take longer for somebody
    than for nobody, and so tell them apart."""
    if no_links_because():
        return
    key = f"asked:{hashlib.sha256(name.lower().encode()).hexdigest()}:{_turn()}"
    asked = Notice(key=key, kind=NoticeKind.ASKED, recipient=name, due_at=timezone.now())
    Notice.objects.bulk_create([asked], ignore_conflicts=True)


def answer_asked() -> None:
    """Owe everybody of a login or address that was asked about the mail with the link."""
    for asked in Notice.objects.filter(kind=NoticeKind.ASKED).order_by("id")[:ANSWERED_AT_ONCE]:
        name = asked.recipient
        users = User.objects.filter(Q(username__iexact=name) | Q(email__iexact=name))
        for user in users.filter(is_active=True).exclude(email="")[:20]:
            key = f"password:{_about(user)}:{_turn()}"
            owe(NoticeKind.PASSWORD, user.email, key=key, user=user)
        asked.delete()


def _turn() -> int:
    return int(timezone.now().timestamp()) // ASK_AGAIN_S


def _about(user: User) -> str:
    """Return whom a key is about: whoever gets another address is owed another mail."""
    return f"{user.pk}:{hashlib.sha256(user.email.encode()).hexdigest()[:16]}"


def test_message(recipient: str) -> Notice | None:
    """Owe a test message that the caller sends; None while there is no sender address. Workers
    leave it alone meanwhile."""
    key = f"test:{timezone.now().timestamp()}"
    return owe(NoticeKind.TEST, recipient, key=key, due_in=SENT_HERE)


def try_again(notices: QuerySet[Notice]) -> int:
    """Have those that have not left tried again; return how many.

    One that was given up begins anew, with a day of patience and as a message of its own: under
    the old mark our own queue would only tell again what became of it.
    """
    now = timezone.now()
    given_up = notices.filter(state=NoticeState.FAILED)
    waiting = notices.filter(state=NoticeState.WAITING)
    count = waiting.update(due_at=now, tries=0)
    return count + given_up.update(state=NoticeState.WAITING, due_at=now, created_at=now, tries=0)


def operators() -> list[str]:
    """Return who is told of the installation's alerts."""
    row = SystemMail.objects.first()
    if row is not None and row.alert_to:
        return list(dict.fromkeys(row.alert_to))
    found = User.objects.filter(account__isnull=True, is_active=True).exclude(email="")
    return list(dict.fromkeys(found.order_by("pk").values_list("email", flat=True)))


def store_password(row: SystemMail, password: str) -> None:
    """Seal the relay's password."""
    put_secret(row.secret_ref, password.encode())


def set_up_from(text: str, *, actor: Actor) -> bool:
    """Fill the row from NOREPLY_MAILER, a JSON object, while it has no sender address; the panel is
    its home from then on. Return whether it was filled."""
    row = SystemMail.objects.first()
    if not text or row is None or row.email:
        return False
    given = _read(text)
    with policy_change(actor) as change:
        change.touch(row)
        for name, (field, _kind) in _FIELDS.items():
            if name in given:
                setattr(row, field, given[name])
        _check(row)
        row.save()
        if given.get("pass"):
            store_password(row, given["pass"])
    return True


def _check(row: SystemMail) -> None:
    """Refuse the row, naming fields as the variable does."""
    names = {field: name for name, (field, _kind) in _FIELDS.items()}
    try:
        row.full_clean()
    except ValidationError as exc:
        faults = exc.message_dict.items()
        raise ValidationError(
            [f"{names.get(field, field)}: {' '.join(said)}" for field, said in faults]
        ) from exc


def _read(text: str) -> dict[str, Any]:
    try:
        given = json.loads(text)
    except ValueError as exc:
        raise ValidationError(_("this is no JSON: %s") % exc) from exc
    if not isinstance(given, dict):
        raise ValidationError(_("this is no JSON object"))
    kinds = {**{name: kind for name, (_field, kind) in _FIELDS.items()}, "pass": str}
    for name, value in given.items():
        if name not in kinds:
            raise ValidationError(_("there is no field %r") % name)
        if type(value) is not kinds[name]:
            raise ValidationError(f"{name}: {_WORDS[kinds[name]]}")
    for name in ("server", "email"):
        if not given.get(name):
            raise ValidationError(_("%s is missing") % name)
    if given.get("login") and not given.get("pass"):
        raise ValidationError(_("pass: give the password of this login"))
    return given
