"""Pages of what can be held: a button on each row's page, and an action for several.

Gives    Holdable, a base of admin pages; the page of holds itself is control.queue.admin
Follows  style.md rule 8. Both lead to the form that asks for reason and end
"""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import urlencode

from django.apps import apps
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from control.access import Verb, can
from control.panel import PanelAdmin, actor_of


def place_url(scope: str, targets: str) -> str:
    """Return where a hold on these targets is placed."""
    query = urlencode({"scope": scope, "targets": targets})
    return f"{reverse('admin:queue_hold_add')}?{query}"


class Holdable(PanelAdmin):
    """Base of such a page; `hold_scope` is the scope of holds on its rows."""

    hold_scope: ClassVar[str] = ""

    def has_hold_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether the actor may place holds at all."""
        return can(actor_of(request), Verb.ADD, apps.get_model("queue", "Hold"))

    @admin.action(
        description=_("Hold the mail of selected %(verbose_name_plural)s"), permissions=["hold"]
    )
    def hold(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponseRedirect:
        """Ask why, and until when."""
        keys = ",".join(str(key) for key in queryset.order_by("pk").values_list("pk", flat=True))
        return HttpResponseRedirect(place_url(self.hold_scope, keys))

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Add the button, and the holds on this row; `held` is on every page (control.panel)."""
        obj = kwargs.get("obj")
        # The catch-all's mail is that of no ISP: services.check_hold says so too.
        is_all_others = getattr(obj, "is_catch_all", False)
        if obj is not None and not is_all_others and self.has_hold_permission(request, obj):
            context["hold_url"] = place_url(self.hold_scope, str(obj.pk))
            context["holds_here"] = context["held"].on(self.hold_scope, obj)
        return super().render_change_form(request, context, *args, **kwargs)
