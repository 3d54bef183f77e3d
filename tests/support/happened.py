"""Events as a fleet would have told them, for tests of what is counted from them.

Gives    happened(), one event; some_hours(), many of all kinds; store(), into statistics
Takes    when, and for whom
"""

import random
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from mailcore.events import Event, EventKind, encode_lines, event_id
from mailio.stats import ClickhouseStatistics

_ISPS = (("Gmail-like", 2), ("Mail.test", 3), ("Outlook-like", 4), ("", 0))
_GREYLISTED = "451 4.7.1 Greylisted, please try again in some minutes"
_UNKNOWN_USER = "550 5.1.1 <recipient>: Recipient address rejected: User unknown in table"
_SPAM = "554 5.7.1 Message refused: it looks like spam, see https://help.example.com/s?id=<id>"
_FULL = "452 4.2.2 The mailbox of the recipient is over its quota"


def happened(kind: EventKind, at: datetime, number: int, **fields: Any) -> Event:
    """Return one event of message `number`."""
    message_id = UUID(int=number)
    values: dict[str, Any] = {
        "account_id": 1,
        "recipient": f"r{number}@receiver.test",
        "recipient_domain": "receiver.test",
        "header_from": "acme.test",
        "source_ip": "192.0.2.1",
        "attempt": 0 if kind is EventKind.ACCEPTED else 1,
        **fields,
    }
    return Event(
        event_id=event_id(
            message_id=message_id,
            recipient_no=0,
            claim_no=int(values.get("claim_no", 0)),
            kind=kind,
        ),
        kind=kind.value,
        occurred_ms=round(at.timestamp() * 1000),
        message_id=str(message_id),
        recipient_no=0,
        **{"claim_no": 1, **values},
    )


def some_hours(
    until: datetime, *, hours: float, messages: int, seed: int = 1, **fields: Any
) -> Iterator[Event]:
    """Yield the events of so many messages, accepted at times drawn over the hours before."""
    draw = random.Random(seed)
    for n in range(messages):
        number = seed * 10_000_000 + n
        at = until - timedelta(hours=hours * draw.random() ** 1.3)
        isp, isp_id = draw.choices(_ISPS, (45, 30, 20, 5))[0]
        about = {"isp": isp, "isp_id": isp_id, **fields}
        yield happened(EventKind.ACCEPTED, at, number, **about)
        yield from _fate(draw, at, number, until, about)


def _fate(
    draw: random.Random, at: datetime, number: int, until: datetime, about: dict[str, Any]
) -> Iterator[Event]:
    said: dict[str, Any]
    queue_ms = round(draw.lognormvariate(7, 1.1))
    first = at + timedelta(milliseconds=queue_ms)
    if draw.random() < (0.30 if about["isp_id"] == 3 else 0.04):
        reply, name = draw.choice(((_GREYLISTED, "greylisted"), (_FULL, "mailbox_full")))
        said = {"reply": reply, "reply_normal": reply, "bounce_type": "soft", "bounce_class": name}
        rule: dict[str, Any] = {
            "code": int(reply[:3]),
            "enhanced": reply[4:9],
            "rule": name.capitalize(),
        }
        yield happened(EventKind.DEFERRED, min(first, until), number, **about, **said, **rule)
        queue_ms += round(draw.uniform(60_000, 900_000))
    end = min(at + timedelta(milliseconds=queue_ms), until)
    kinds = (EventKind.DELIVERED, EventKind.BOUNCED, EventKind.EXPIRED, EventKind.STOPPED)
    kind = draw.choices(kinds, (94, 4.2, 0.8, 1))[0]
    said = {}
    if kind is EventKind.BOUNCED:
        reply, name = draw.choices(
            ((_UNKNOWN_USER, "invalid_recipient"), (_SPAM, "spam_content")), (7, 3)
        )[0]
        said = {"reply": reply, "reply_normal": reply, "bounce_class": name, "rule": name.title()}
        said |= {"code": int(reply[:3]), "enhanced": reply[4:9]}
        said["bounce_type"] = "hard" if name == "invalid_recipient" else "bounce"
    yield happened(kind, end, number, **about, **said, queue_ms=queue_ms, claim_no=2)
    if kind is EventKind.DELIVERED and draw.random() < 0.002:
        yield happened(EventKind.COMPLAINED, end, number, **about, claim_no=2)


def store(statistics: ClickhouseStatistics, events: Iterable[Event]) -> int:
    """Put events and their roll-ups into statistics; return how many."""
    found = list(events)
    minutes = sorted({one.occurred_ms // 60_000 for one in found})
    count = statistics.insert([encode_lines(found)])
    statistics.touch(minutes)
    statistics.recompute(minutes)
    return count
