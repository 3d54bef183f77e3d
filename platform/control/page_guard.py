"""What a browser may do with our pages.

Gives    PageGuard, a middleware: a Content-Security-Policy on every page
Follows  CSP Level 3. Scripts and styles come from our own files alone, nothing is framed, forms
         lead nowhere else: text that got into a page by mistake stays text
"""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)


class PageGuard:
    """Adds the header."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer, guarded."""
        response = self._get_response(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response
