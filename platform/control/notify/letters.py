"""The words of system mail: plain text, and the same as simple HTML.

Gives    Letter, Mail; write(letter, …) -> Mail; link, link_of; span, figure
Raises   NotSent when PUBLIC_URL is not set and a link is what the mail is for

Every mail says that a machine wrote it (RFC 3834), so that no holiday notice answers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formataddr

from django.conf import settings
from django.template.loader import render_to_string
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from control.notify.choices import Measure
from control.notify.errors import NotSent

HEADERS = {"Auto-Submitted": "auto-generated"}
# What machines elsewhere said may stand in a mail: no control character of it, which our own front
# door would refuse, and a terminal obey.
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), "�")
_CONTROLS_BUT_LINES = {code: mark for code, mark in _CONTROLS.items() if chr(code) not in "\t\n"}
DAY_S, HOUR_S, MINUTE_S = 86400, 3600, 60


@dataclass(frozen=True, slots=True)
class Letter:
    """What a mail says: what happened, its figures, where to look, what else to know."""

    subject: str
    opening: str
    figures: tuple[tuple[str, str], ...] = ()
    link: str = ""
    closing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mail:
    """A letter with its envelope."""

    sender: str
    display_name: str
    recipient: str
    subject: str
    text: str = field(repr=False)
    html: str = field(repr=False)
    message_id_header: str

    @property
    def header_from(self) -> str:
        """Return the From field."""
        return formataddr((self.display_name, self.sender))

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the fields that say who wrote it."""
        return HEADERS


def write(
    letter: Letter, *, sender: str, display_name: str, recipient: str, mark: str, language: str
) -> Mail:
    """Return the mail. `mark` names it for good: a copy sent twice has the same Message-ID."""
    shown = {"letter": letter, "language": language, "place": settings.PUBLIC_URL}
    return Mail(
        sender=sender,
        display_name=display_name,
        recipient=recipient,
        subject=" ".join(letter.subject.split()).translate(_CONTROLS),
        text=_plain(letter).translate(_CONTROLS_BUT_LINES),
        html=render_to_string("notify/mail.html", shown).translate(_CONTROLS_BUT_LINES),
        message_id_header=f"<{mark}@{sender.rpartition('@')[2]}>",
    )


def _plain(letter: Letter) -> str:
    width = max((len(name) for name, _value in letter.figures), default=0) + 1
    figures = "\n".join(f"{name + ':':<{width}} {value}" for name, value in letter.figures)
    signature = _("Postfleet at %s") % settings.PUBLIC_URL if settings.PUBLIC_URL else "Postfleet"
    parts = [letter.opening, figures, letter.link, *letter.closing, f"-- \n{signature}"]
    return "\n\n".join(part for part in parts if part) + "\n"


def link(path: str) -> str:
    """Return the address of a page that must be reached."""
    if not settings.PUBLIC_URL:
        raise NotSent(_("PUBLIC_URL is not set, so there is no link to send"))
    return f"{settings.PUBLIC_URL}{path}"


def link_of(path: str) -> str:
    """Return the address of a page that is good to have; empty if nobody said where we are."""
    return f"{settings.PUBLIC_URL}{path}" if settings.PUBLIC_URL and path else ""


def span(seconds: float) -> str:
    """Return a duration in the largest unit that fits."""
    if seconds >= DAY_S:
        days = round(seconds / DAY_S)
        return ngettext("%d day", "%d days", days) % days
    if seconds >= HOUR_S:
        hours = round(seconds / HOUR_S)
        return ngettext("%d hour", "%d hours", hours) % hours
    if seconds >= MINUTE_S:
        minutes = round(seconds / MINUTE_S)
        return ngettext("%d minute", "%d minutes", minutes) % minutes
    return ngettext("%d second", "%d seconds", round(seconds)) % round(seconds)


def figure(measure: Measure, value: float) -> str:
    """Return a value as people read it."""
    if measure is Measure.SECONDS:
        return span(value)
    if measure is Measure.PERCENT:
        return f"{value:.3g} %"
    return f"{value:,.0f}"
