"""Long answers in pages: `{"results": […], "next": …}`.

Gives    Query: the parameters of a GET, checked; page
Raises   ApiError: 400 for a parameter that is unknown or malformed

`next` is the address of the next page, or null: whoever pages follows it and builds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, TypeVar

from django.http import HttpRequest, QueryDict

from control.api.problems import ApiError

MOST = 500
USUAL = 100
PAGING = ("limit", "cursor")
MOST_CURSOR = 1 << 62

Item = TypeVar("Item")


class Query:
    """The query of a request. A parameter that nobody knows is refused: it is a typing error."""

    def __init__(self, request: HttpRequest, *known: str) -> None:
        self.path = request.path
        self.given: QueryDict = request.GET
        for name in self.given:
            if name not in (*known, *PAGING):
                shown = ", ".join(sorted((*known, *PAGING)))
                raise bad_parameter(name[:80], f"there is no such parameter; there are {shown}")

    def text(self, name: str) -> str:
        """Return a parameter, "" without it."""
        return str(self.given.get(name, "")).strip()

    def flag(self, name: str) -> bool:
        """Return whether a parameter is true."""
        text = self.text(name)
        if text not in ("", "true", "false"):
            raise bad_parameter(name, "must be true or false")
        return text == "true"

    @property
    def limit(self) -> int:
        """How many results a page has."""
        return self._number("limit", USUAL, 1, MOST)

    @property
    def before(self) -> int:
        """The cursor of lists that are sorted by falling ID."""
        return self._number("cursor", MOST_CURSOR, 1, MOST_CURSOR)

    def next_page(self, cursor: str) -> str:
        """Return the address of the page behind a cursor."""
        wanted = self.given.copy()
        wanted["cursor"] = cursor
        return f"{self.path}?{wanted.urlencode(safe=',')}"

    def _number(self, name: str, usual: int, least: int, most: int) -> int:
        text = self.text(name)
        if not text:
            return usual
        is_number = text.isascii() and text.isdecimal() and len(text) < 20
        if not is_number or not least <= int(text) <= most:
            raise bad_parameter(name, f"must be a number from {least} to {most}")
        return int(text)


def page(
    query: Query,
    found: Sequence[Item],
    *,
    show: Callable[[Item], dict[str, Any]],
    cursor: Callable[[Item], str],
) -> dict[str, Any]:
    """Return a page of what was found; it was asked for one more than the page takes."""
    shown = found[: query.limit]
    is_more = len(found) > query.limit
    return {
        "results": [show(one) for one in shown],
        "next": query.next_page(cursor(shown[-1])) if is_more else None,
    }


def bad_parameter(name: str, detail: str) -> ApiError:
    """Return the error of a parameter, which stands in no body a pointer could lead into."""
    return ApiError(HTTPStatus.BAD_REQUEST, "bad_parameter", f"{name}: {detail}")
