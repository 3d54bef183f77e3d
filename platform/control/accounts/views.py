"""A person sets their own password: like every change, in the audit journal.

Gives    OwnPasswordView, in place of the view that comes with Django's admin; SetPasswordView and
         PasswordIsSetView, where the link of a mail leads
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth.forms import PasswordChangeForm
from django.contrib.auth.mixins import LoginRequiredMixin
from django.contrib.auth.views import (
    INTERNAL_RESET_SESSION_TOKEN,
    PasswordChangeView,
    PasswordResetConfirmView,
)
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import redirect
from django.urls import reverse_lazy
from django.utils.translation import gettext_lazy as _
from django.views.generic import TemplateView

from control.access import Actor
from control.accounts.models import User
from control.accounts.services import set_password, set_password_by_link
from control.panel import actor_of


class OwnPasswordForm(PasswordChangeForm):
    """Django's form; what it saves is audited."""

    request: HttpRequest

    def save(self, commit: bool = True) -> User:
        """Store the password through the service."""
        password = self.cleaned_data["new_password1"]
        set_password(self.user, password, actor=actor_of(self.request))
        return self.user


class OwnPasswordView(LoginRequiredMixin, PasswordChangeView):
    """For administrators: account users have a site of their own."""

    form_class = OwnPasswordForm
    template_name = "registration/password_change_form.html"
    success_url = reverse_lazy("admin:password_change_done")

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Lead others to the login."""
        if not admin.site.has_permission(request):
            return redirect("admin:login")
        return super().dispatch(request, *args, **kwargs)

    def get_form(self, form_class: Any = None) -> Any:
        """Tell the form who asks."""
        form: Any = super().get_form(form_class)
        form.request = self.request
        return form

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add what every page of the panel shows."""
        return {**super().get_context_data(**kwargs), **admin.site.each_context(self.request)}


class SetPasswordView(PasswordResetConfirmView):
    """Opened by a link that works once, for a time. Django keeps its token in the session and leads
    on to an address without it, so that no page links to it and no log has it."""

    template_name = "accounts/set_password.html"
    success_url = reverse_lazy("password_is_set")

    def get_user(self, uidb64: str) -> User | None:
        """Return whose link it is; nobody who is not active."""
        user = super().get_user(uidb64)
        return user if isinstance(user, User) and user.is_active else None

    def form_valid(self, form: Any) -> HttpResponse:
        """Store the password through the service, audited as the person's own doing. Of two who
        send the form of one link at once, one is told that it was used."""
        actor = Actor.of_user(form.user, ip=self.request.META.get("REMOTE_ADDR", ""))
        token = self.request.session.pop(INTERNAL_RESET_SESSION_TOKEN)
        if set_password_by_link(form.user, form.cleaned_data["new_password1"], token, actor=actor):
            return HttpResponseRedirect(str(self.success_url))
        self.validlink = False
        return self.render_to_response(self.get_context_data())

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add what every page of the panel shows; who is logged in here is of no matter."""
        shown = {**admin.site.each_context(self.request), **super().get_context_data(**kwargs)}
        return {**shown, "title": _("Set your password"), "login": self.user}


class PasswordIsSetView(TemplateView):
    """Says so, and leads to the login."""

    template_name = "accounts/set_password.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add what every page of the panel shows."""
        shown = {**admin.site.each_context(self.request), **super().get_context_data(**kwargs)}
        return {**shown, "title": _("Your password is set"), "is_done": True}
