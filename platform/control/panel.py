"""The operators' site, and the base of its pages.

Gives    PanelSite: mode, policy, nodes, alerts on every page; PanelAdmin: `control.access` decides;
         ReadOnlyAdmin: a look and nothing else; actor_of(request)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib import admin
from django.contrib.admin.widgets import AutocompleteSelect
from django.core.paginator import Paginator
from django.db import connection, models
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.module_loading import import_string
from django.utils.translation import gettext_lazy as _

from control.access import NOBODY, Actor, Verb, can, scope

# Generic in the stubs only.
if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin


def actor_of(request: HttpRequest) -> Actor:
    """Return who asks; nobody before they have logged in."""
    user = request.user
    if not user.is_authenticated:
        return NOBODY
    return Actor.of_user(user, ip=request.META.get("REMOTE_ADDR", ""))


class PanelSite(admin.AdminSite):
    """The panel of administrators; account users have a site of their own."""

    site_header = _("Postfleet")
    site_title = _("Postfleet")
    index_title = _("Control plane")
    enable_nav_sidebar = True
    site_url = None  # there is nothing before the panel

    def has_permission(self, request: HttpRequest) -> bool:
        """Let active administrators in, and nobody else."""
        return actor_of(request).is_admin

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        """Put the reports, which are no models, on top of the menu."""
        apps = super().get_app_list(request, app_label)
        if app_label is not None or not self.has_permission(request):
            return apps
        pages = (
            ("Dashboard", _("Dashboard"), "dashboard"),
            ("TLS", _("TLS"), "tls"),
            ("Spool", _("Spool"), "spool"),
        )
        shown = [
            {
                "name": name,
                "object_name": key,
                "admin_url": reverse(f"reports:{page}"),
                "add_url": None,
                "view_only": True,
                "perms": {"view": True},
            }
            for key, name, page in pages
        ]
        url = reverse("reports:dashboard")
        return [
            {
                "name": _("Reports"),
                "app_label": "reports",
                "app_url": url,
                "has_module_perms": True,
                "models": shown,
            },
            *apps,
        ]

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """Add what every page shows: mode, policy in force, nodes, open alerts, holds."""
        context = super().each_context(request)
        configured = settings.POSTFLEET
        context["mode"] = "lab" if configured is None or configured.is_lab else "live"
        if self.has_permission(request):
            fleet_state: Callable[[], Any] = import_string(settings.POLICY_STATE)
            context["fleet"] = fleet_state()
            open_alerts: Callable[[], Any] = import_string(settings.ALERT_STATE)
            context["alerts"] = open_alerts()
            held_now: Callable[[], Any] = import_string(settings.HOLD_STATE)
            context["held"] = held_now()
        return context


class ForgivingAutocomplete(AutocompleteSelect):
    """Shows a form again whose choice is no number; Django's own ends in a ValueError."""

    def optgroups(self, name: str, value: Sequence[str], attrs: Any = None) -> Any:
        """Return the chosen rows; none for what cannot be a key."""
        return super().optgroups(name, [one for one in value if str(one).isdecimal()], attrs)


class PanelAdmin(ModelAdmin):
    """Base of every page: rows are scoped, verbs asked of `control.access`."""

    list_per_page = 50
    show_full_result_count = False
    list_max_show_all = 500

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        """Return the rows that the actor may see."""
        return scope(actor_of(request), super().get_queryset(request))

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Choose rows of long lists by typing."""
        if db_field.name in self.get_autocomplete_fields(request) and "widget" not in kwargs:
            kwargs["widget"] = ForgivingAutocomplete(
                db_field, self.admin_site, using=kwargs.get("using")
            )
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, Verb.VIEW, obj)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self._may(request, Verb.ADD, None)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, Verb.CHANGE, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        if obj is not None and getattr(obj, "is_system", False):
            return False
        return self._may(request, Verb.DELETE, obj)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self._may(request, Verb.VIEW, None)

    def _may(self, request: HttpRequest, verb: Verb, obj: Any) -> bool:
        return can(actor_of(request), verb, self.model if obj is None else obj)

    # The audit journal is the history; Django's own log would be a second truth.

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        return None

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        return None

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        return None

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: Any = None
    ) -> HttpResponse:
        """Lead to the audit journal of this row."""
        query = f"object_type={self.model._meta.label_lower}&object_id={object_id}"
        return HttpResponseRedirect(f"{reverse('admin:audit_auditentry_changelist')}?{query}")


class ReadOnlyAdmin(PanelAdmin):
    """A page to look at. Whatever the model's rule says, nothing is written through it."""

    actions: Any = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class EstimatingPaginator(Paginator):  # type: ignore[type-arg]
    """Counts a big table by the planner's estimate: COUNT(*) over millions takes seconds."""

    EXACT_BELOW = 10_000

    @cached_property
    def count(self) -> int:
        """Return the exact number of a small or filtered set, the estimate of a big table."""
        rows: Any = self.object_list
        if getattr(rows, "query", None) is not None and not rows.query.where:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT reltuples::bigint FROM pg_class WHERE oid = %s::regclass",
                    (rows.model._meta.db_table,),
                )
                estimate = int(cursor.fetchone()[0])
            if estimate > self.EXACT_BELOW:
                return estimate
        return int(rows.order_by()[: self.EXACT_BELOW * 10].count())
