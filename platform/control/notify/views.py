"""Somebody lost their password: the page tells the same whoever asks.

Gives    LostPasswordView
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpResponse
from django.utils.translation import gettext_lazy as _
from django.views.generic import FormView

from control.notify import services


class LostPasswordForm(forms.Form):
    """Whose password it is."""

    name = forms.CharField(
        label=_("Login or email address"),
        max_length=254,
        widget=forms.TextInput(attrs={"autofocus": True, "autocomplete": "username"}),
    )


class LostPasswordView(FormView):  # type: ignore[type-arg]
    """Has a link sent, and does not say whether there is anybody to send it to."""

    form_class = LostPasswordForm
    template_name = "notify/lost_password.html"

    def form_valid(self, form: LostPasswordForm) -> HttpResponse:
        """Note that somebody asks."""
        services.ask_for_password(form.cleaned_data["name"].strip())
        return self.render_to_response(self.get_context_data(form=form, is_asked=True))

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add what every page of the panel shows."""
        shown = {**admin.site.each_context(self.request), **super().get_context_data(**kwargs)}
        return {
            **shown,
            "title": _("Lost password"),
            "is_set_up": not services.no_links_because(),
        }
