"""A job for people: its progress as a bar, its arguments and its result as tables.

Gives    bar, table
Takes    counts; JSON of any shape
Raises   nothing: what has no words of its own is shown by its name
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

NOTHING = "–"
_WORDS: Mapping[str, StrOrPromise] = {
    "examined": _("looked at"),
    "matched": _("meant by the filter"),
    "changed": _("changed"),
    "with_workers": _("left alone: with a worker"),
    "too_late": _("left alone: lifetime over"),
    "by_state": _("by state"),
    "by_isp": _("by ISP"),
    "sample": _("some of them"),
    "undo_until": _("can be undone until"),
    "accepted_before": _("accepted before"),
    "author": _("started by"),
    "reason": _("reason"),
    "filter": _("which rows"),
    "dry_run": _("dry run"),
    "job_id": _("job"),
    "isp_id": _("ISP ID"),
    "rows": _("rows"),
}


def bar(done: int, total: int | None, *, is_over: bool) -> SafeString:
    """Return how far a job is: a bar with its share where the whole is known."""
    if total is None:
        return format_html("{}", f"{done:,}")
    counts = f"{done:,} / {total:,}"
    if not total:
        return format_html("{}", counts if is_over else NOTHING)
    share = 100 * min(done, total) // total
    return format_html(
        '<progress value="{}" max="100" title="{}">{} %</progress> {} % <small>({})</small>',
        share,
        counts,
        share,
        share,
        counts,
    )


def table(value: Any) -> SafeString:
    """Return JSON as people read it: objects and lists of objects as tables."""
    if isinstance(value, Mapping):
        if not value:
            return format_html("{}", NOTHING)
        rows = ((_word(name), table(each)) for name, each in value.items())
        body = format_html_join("", "<tr><th>{}</th><td>{}</td></tr>", rows)
        return format_html("<table>{}</table>", body)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _list(value)
    if isinstance(value, bool):
        return format_html("{}", _("yes") if value else _("no"))
    if isinstance(value, int):
        return format_html("{}", f"{value:,}")
    return format_html("{}", NOTHING if value in (None, "") else value)


def _list(values: Sequence[Any]) -> SafeString:
    if not values:
        return format_html("{}", NOTHING)
    if not all(isinstance(each, Mapping) for each in values):
        return format_html_join(", ", "{}", ((each,) for each in values))
    names = list(dict.fromkeys(name for each in values for name in each))
    head = format_html_join("", "<th>{}</th>", ((_word(name),) for name in names))
    cells = (
        (format_html_join("", "<td>{}</td>", ((table(each.get(name)),) for name in names)),)
        for each in values
    )
    return format_html(
        "<table><tr>{}</tr>{}</table>", head, format_html_join("", "<tr>{}</tr>", cells)
    )


def _word(name: str) -> StrOrPromise:
    return _WORDS.get(name, name.replace("_", " "))
