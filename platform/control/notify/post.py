"""System mail on its way: through our own queue, or by the relay.

Gives    send_due, one turn of the worker; send_now, which tells what became of one notice
Takes    notices that are owed
Raises   nothing: what failed stands in the notice, and is tried again until GIVE_UP has passed
Follows  style.md rule 7: the own path knows a repeat by its key; a copy by the relay, which a crash
         between taking and noting can cause, has the same Message-ID
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Iterator
from datetime import datetime, timedelta

from django.conf import settings
from django.db import Error, connection
from django.db.models import Case, F, When
from django.utils import timezone, translation
from django.utils.translation import gettext as _

from control.notify import services
from control.notify.choices import NoticeKind, NoticeState
from control.notify.errors import NotSent, Undeliverable
from control.notify.letters import Mail, write
from control.notify.models import Notice, SystemMail
from control.notify.relay import Relay, send_by_relay
from control.notify.words import letter_of
from control.secrets import get_secret, has_secret
from control.submission.services import submit_one
from mailcore.errors import SubmissionRefused
from mailcore.ports import StoreUnavailable
from mailcore.submission import parse_offer
from mailio.intake import RequestKey
from mailio.vault import VaultError

TURN_S = 5.0
AT_ONCE = 20
# While one process waits for a relay that stalls, the others have jobs and alerts to work on.
SEND_LOCK = 7_305_194_483
# Somebody waits for these, and is not to wait behind a thousand alerts.
ASKED_FOR = (NoticeKind.WELCOME, NoticeKind.PASSWORD)
# Another process takes a notice over whose sender gave no word for this long.
CLAIMED = timedelta(minutes=2)
FIRST_RETRY = timedelta(seconds=10)
LONGEST_RETRY = timedelta(minutes=15)
GIVE_UP = timedelta(days=1)
CAMPAIGN = "system"
OWN_PATH = "own path"
STOPPED = "stopped"

log = logging.getLogger(__name__)


def send_due(*, turn_s: float = TURN_S) -> int:
    """Send what is due, for about `turn_s`, unless another process does; return how many left."""
    with _alone() as is_alone:
        return _send_due(turn_s) if is_alone else 0


def _send_due(turn_s: float) -> int:
    deadline = time.monotonic() + turn_s
    services.answer_asked()
    due = Notice.objects.filter(state=NoticeState.WAITING, due_at__lte=timezone.now())
    mails = due.exclude(kind=NoticeKind.ASKED)
    in_turn = mails.order_by(Case(When(kind__in=ASKED_FOR, then=0), default=1), "due_at", "id")
    sent = 0
    for number in list(in_turn.values_list("pk", flat=True)[:AT_ONCE]):
        notice = _claim(number, timezone.now())
        if notice is not None:
            sent += send_now(notice)
        if time.monotonic() >= deadline:
            break
    return sent


@contextlib.contextmanager
def _alone() -> Iterator[bool]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", (SEND_LOCK,))
        (is_alone,) = cursor.fetchone()
    try:
        yield is_alone
    finally:
        if is_alone:
            # A connection that broke has let go of it.
            with contextlib.suppress(Error), connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", (SEND_LOCK,))


def _claim(number: int, now: datetime) -> Notice | None:
    taken = Notice.objects.filter(pk=number, state=NoticeState.WAITING, due_at__lte=now).update(
        due_at=now + CLAIMED, tries=F("tries") + 1
    )
    return Notice.objects.select_related("user", "alert").get(pk=number) if taken else None


def send_now(notice: Notice, *, is_last_try: bool = False) -> bool:
    """Try once and note what became of it; return whether it left."""
    row = SystemMail.objects.first()
    try:
        if row is None or not row.email:
            raise NotSent(_("system mail is not set up: it has no sender address"))
        notice.way = f"{row.relay_host}:{row.relay_port}" if row.relay_host else OWN_PATH
        notice.message_id = _send(row, notice)
    except Undeliverable as exc:
        _note_failure(notice, str(exc), is_final=True)
    except NotSent as exc:
        _note_failure(notice, str(exc), is_final=is_last_try)
    else:
        notice.state, notice.sent_at, notice.error = NoticeState.SENT, timezone.now(), ""
        notice.save(update_fields=["state", "sent_at", "error", "way", "message_id"])
        return True
    return False


def _note_failure(notice: Notice, reason: str, *, is_final: bool) -> None:
    now = timezone.now()
    is_over = is_final or now - notice.created_at > GIVE_UP
    notice.state = NoticeState.FAILED if is_over else NoticeState.WAITING
    wait = FIRST_RETRY * 2 ** min(max(notice.tries, 1) - 1, 10)
    notice.due_at = now + min(wait, LONGEST_RETRY)
    notice.error = reason[:2000]
    notice.save(update_fields=["state", "due_at", "error", "way"])
    log.warning("system mail not sent: %s", reason, extra={"notice": notice.pk})


def _send(row: SystemMail, notice: Notice) -> str:
    mark = f"system.{notice.pk}.{notice.created_at:%Y%m%d%H%M%S}"
    with translation.override(notice.language):
        mail = write(
            letter_of(notice),
            sender=row.email,
            display_name=row.display_name,
            recipient=notice.recipient,
            mark=mark,
            language=notice.language,
        )
    if not row.relay_host:
        return _send_own_path(row, mail, mark)
    send_by_relay(_relay(row), mail)
    return ""


def _relay(row: SystemMail) -> Relay:
    password = ""
    if row.relay_login and has_secret(row.secret_ref):
        try:
            password = get_secret(row.secret_ref).decode()
        except VaultError as exc:
            raise NotSent(_("the relay's password cannot be opened: %s") % exc) from exc
    configured = settings.POSTFLEET
    return Relay(
        host=row.relay_host,
        port=row.relay_port,
        login=row.relay_login,
        password=password,
        helo=row.relay_helo,
        is_insecure=row.is_insecure,
        without_tls=row.without_tls,
        is_confined=configured is None or configured.is_lab,
    )


def _send_own_path(row: SystemMail, mail: Mail, mark: str) -> str:
    """Hand the mail in as any program would; return its message ID."""
    if row.account_id is None:
        raise NotSent(_("no account is named that sends system mail"))
    body = {
        "from": {"address": mail.sender, "name": mail.display_name},
        "to": [mail.recipient],
        "subject": mail.subject,
        "text": mail.text,
        "html": mail.html,
        "headers": {**mail.headers, "Message-ID": mail.message_id_header},
        "campaign": CAMPAIGN,
        "priority": True,
        "sender": row.sender_id,
    }
    # By its mark, not by its words: a link in it is another each time.
    hashed = hashlib.sha256(mark.encode()).digest()
    try:
        outcome = submit_one(
            parse_offer(body),
            account_id=row.account_id,
            key=RequestKey(row.account_id, f"system-mail:{mark}", hashed),
        )
    except SubmissionRefused as exc:
        raise NotSent("; ".join(f"{p.pointer}: {p.detail}" for p in exc.problems)) from exc
    except StoreUnavailable as exc:
        raise NotSent(str(exc)) from exc
    receipt = json.loads(outcome.text)
    (recipient,) = receipt["recipients"]
    why = recipient.get("detail") or recipient["reason"]
    if not recipient["accepted"]:
        raise Undeliverable(f"{mail.recipient}: {why}")
    if recipient["reason"] == STOPPED:
        raise Undeliverable(
            _("%(to)s is on a stop list: %(why)s") % {"to": mail.recipient, "why": why}
        )
    return str(receipt["message_id"])
