"""A person changes their own password: like every change, in the audit journal.

Gives    OwnPasswordView, in place of the view that comes with Django's admin
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth.forms import PasswordChangeForm
from django.contrib.auth.mixins import LoginRequiredMixin
from django.contrib.auth.views import PasswordChangeView
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse_lazy

from control.accounts.models import User
from control.accounts.services import set_password
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
