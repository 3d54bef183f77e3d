"""Whoever must change their password does that first.

Gives    MustChangePassword, a middleware for the panel
"""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from control.accounts.models import User


class MustChangePassword:
    """Leads every page of the panel to the form, but for the form, its script and the way out."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer, or lead to the form."""
        if request.path.startswith(reverse("admin:index")):
            form = reverse("admin:password_change")
            open_to_all = {form, reverse("admin:logout"), reverse("admin:jsi18n")}
            user = request.user
            must = isinstance(user, User) and user.must_change_password
            if must and request.path not in open_to_all:
                return HttpResponseRedirect(form)
        return self._get_response(request)
