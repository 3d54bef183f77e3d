"""Pages of the queue: holds are placed and released, lanes purged, expired and retried."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from control.access import NOBODY, Actor, Verb, can
from control.admin_base import PolicyAdmin, VersionedForm
from control.holdable import Holdable
from control.panel import EstimatingPaginator, ReadOnlyAdmin, actor_of
from control.queue import services
from control.queue.lane_verbs import VERBS, filter_of_lane
from control.queue.models import IN_FORCE, Campaign, Hold, Incarnation, Lane, OutboxRow, Row
from control.queue.reasons import MOST_REASON
from control.queue.targets import with_names
from mailcore.errors import PostfleetError

FOREVER = 9999
# Each lane becomes a job.
MOST_LANES = 50


class QueueAdmin(ReadOnlyAdmin):
    """Base: tables that may hold millions of rows."""

    paginator = EstimatingPaginator


# --- holds ----------------------------------------------------------------------------------------


class StateFilter(admin.SimpleListFilter):
    """What became of a hold."""

    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        """Return the states."""
        return list(STATES.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Keep the holds in the state."""
        if self.value() == "in_force":
            return queryset.filter(IN_FORCE)
        if self.value() == "released":
            return queryset.exclude(released_at=None)
        if self.value() == "ended":
            return queryset.filter(Q(released_at=None) & ~IN_FORCE)
        return queryset


STATES = {"in_force": _("in force"), "released": _("released"), "ended": _("ended")}


class HoldForm(VersionedForm):
    """Asks what is held, why, until when."""

    targets = forms.CharField(
        label=_("Target"),
        required=False,
        widget=forms.TextInput(attrs={"class": "vTextField"}),
        help_text=_(
            "Name or number of the node, pool, source, sender, account, campaign or ISP, or the "
            "domain; several numbers with commas. Empty for everything."
        ),
    )
    reason = forms.CharField(
        label=_("Reason"),
        max_length=MOST_REASON,
        widget=forms.TextInput(attrs={"class": "vTextField"}),
        help_text=_("One line, for those who wonder later. Shown with every message it holds."),
    )

    class Meta:
        model = Hold
        fields = ("scope", "reason", "ends_at")
        help_texts: ClassVar = {"ends_at": _("In UTC. Empty: until it is released.")}

    # Given by the page, which knows who asks.
    actor: ClassVar[Actor] = NOBODY

    def clean(self) -> dict[str, Any] | None:
        """Look the targets up: each is a hold of its own."""
        cleaned = super().clean() or {}
        text = str(cleaned.get("targets") or "").strip()
        parts = [part.strip() for part in text.split(",")]
        self.aims = parts if all(part.isdecimal() for part in parts) else [text]
        if not self.errors:
            # An error takes its field out of what is cleaned, which the next target needs too.
            self._try(dict(cleaned))
        return cleaned

    def _try(self, cleaned: dict[str, Any]) -> None:
        told: set[tuple[str, str]] = set()
        for aim in self.aims:
            try:
                services.check_hold(
                    self.actor,
                    scope=cleaned["scope"],
                    target=aim,
                    reason=cleaned["reason"],
                    ends_at=cleaned["ends_at"],
                )
            except services.HoldRefused as exc:
                for problem in exc.problems:
                    field = problem.pointer[1:]
                    said = ("targets" if field == "target" else field, problem.detail)
                    if said not in told:
                        self.add_error(*said)
                    told.add(said)
            except services.HoldDenied as exc:
                self.add_error(None, str(exc))


@admin.register(Hold)
class HoldAdmin(PolicyAdmin):
    """Mail that must not be sent for now. A hold is not edited: release it, place another."""

    form = HoldForm
    list_display = ("id", "what", "reason", "shown_state", "ends_at", "author", "placed_at")
    list_display_links = ("id", "what")
    list_filter = (StateFilter, "scope")
    search_fields = ("reason", "author", "target")
    actions = ("release",)
    readonly = ("what", "reason", "shown_state", "author", "placed_at", "ends_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return with_names(super().get_queryset(request))

    @admin.display(description=_("what is held"))
    def what(self, hold: Hold) -> str:
        return hold.words

    @admin.display(description=_("state"))
    def shown_state(self, hold: Hold) -> Promise | str:
        return STATES[hold.state]

    # --- a look ----------------------------------------------------------------------------------

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A hold that was placed stands as it was placed."""
        return False

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return ("scope", "targets", "reason", "ends_at")
        over = ("released_at", "released_by") if obj.released_at else ()
        return (*self.readonly, *over)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return () if obj is None else (*self.readonly, "released_at", "released_by")

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        obj = kwargs.get("obj")
        context |= {"show_save_and_add_another": False, "show_save_and_continue": False}
        context["can_release"] = bool(
            obj is not None and obj.in_force and self.has_release_permission(request)
        )
        return super().render_change_form(request, context, *args, **kwargs)

    # --- place -----------------------------------------------------------------------------------

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        known = ("scope", "targets")
        return {name: request.GET[name] for name in known if name in request.GET}

    def get_form(
        self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any
    ) -> Any:
        form: Any = super().get_form(request, obj, change=change, **kwargs)
        return type(form)(form.__name__, (form,), {"actor": actor_of(request)})

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Place a hold for each target; the services do it, and the audit."""
        for aim in form.aims:
            placed = services.place_hold(
                actor_of(request),
                scope=obj.scope,
                target=aim,
                reason=obj.reason,
                ends_at=obj.ends_at,
            )
        obj.pk = placed.pk

    def response_add(self, request: HttpRequest, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Say what holds now, and go where one sees it."""
        self.message_user(request, _("Held. Workers obey within two seconds."), messages.SUCCESS)
        return HttpResponseRedirect(f"{reverse('admin:queue_hold_changelist')}?state=in_force")

    # --- release ---------------------------------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.release_view)
        return [
            path("<int:hold_id>/release/", view, name="queue_hold_release"),
            *super().get_urls(),
        ]

    def has_release_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return can(actor_of(request), Verb.CHANGE, Hold)

    @admin.action(description=_("Release selected holds"), permissions=["release"])
    def release(self, request: HttpRequest, queryset: QuerySet[Hold]) -> None:
        self._release(request, list(queryset))

    def release_view(self, request: HttpRequest, hold_id: int) -> HttpResponse:
        """The button on a hold's page."""
        if not self.has_release_permission(request):
            raise PermissionDenied
        hold = self.get_queryset(request).filter(pk=hold_id).first()
        if hold is None:
            raise Http404
        if request.method == "POST":
            self._release(request, [hold])
        return HttpResponseRedirect(reverse("admin:queue_hold_change", args=[hold_id]))

    def _release(self, request: HttpRequest, chosen: list[Hold]) -> None:
        actor = actor_of(request)
        released = [services.release_hold(actor, hold) for hold in chosen if hold.in_force]
        if released:
            text = _("Released: %d. Workers go on within two seconds.") % len(released)
            self.message_user(request, text, messages.SUCCESS)
        if over := len(chosen) - len(released):
            text = _("No longer in force, left as they were: %d.") % over
            self.message_user(request, text, messages.WARNING)


# --- lanes ----------------------------------------------------------------------------------------


@admin.register(Lane)
class LaneAdmin(QueueAdmin):
    list_display = (
        "id",
        "site",
        "sender_id",
        "account_id",
        "mail_class",
        "waiting",
        "leased",
        "unknown",
        "due",
    )
    list_display_links = ("id", "site")
    list_filter = ("mail_class", "tls_need")
    search_fields = ("site",)
    exclude = ("next_due_at",)
    readonly_fields = ("due",)
    actions = ("retry", "expire", "purge")

    @admin.display(description=_("next due at"), ordering="next_due_at")
    def due(self, lane: Lane) -> str:
        """A lane with nothing to do is due in all eternity."""
        if lane.next_due_at.year >= FOREVER:
            return "–"
        return lane.next_due_at.isoformat(sep=" ", timespec="seconds")

    def has_verb_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever may hold mail may end it."""
        return can(actor_of(request), Verb.ADD, Hold)

    @admin.action(description=_("Purge what waits there…"), permissions=["verb"])
    def purge(self, request: HttpRequest, queryset: QuerySet[Lane]) -> HttpResponse | None:
        return self._confirmed(request, queryset, "purge")

    @admin.action(description=_("Expire what waits there…"), permissions=["verb"])
    def expire(self, request: HttpRequest, queryset: QuerySet[Lane]) -> HttpResponse | None:
        return self._confirmed(request, queryset, "expire")

    @admin.action(description=_("Retry what waits there now…"), permissions=["verb"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Lane]) -> HttpResponse | None:
        return self._confirmed(request, queryset, "retry")

    def _confirmed(
        self, request: HttpRequest, queryset: QuerySet[Lane], name: str
    ) -> HttpResponse | None:
        """Ask on a page of its own; with a yes, start a job for each lane."""
        chosen = list(queryset.order_by("pk")[: MOST_LANES + 1])
        if len(chosen) > MOST_LANES:
            self.message_user(request, _("Choose at most %d lanes.") % MOST_LANES, messages.ERROR)
            return None
        meant = {lane: filter_of_lane(lane) for lane in chosen}
        verb, reason, error = VERBS[name], str(request.POST.get("reason", "")), ""
        if request.POST.get("confirmed") == "yes":
            try:
                started = [
                    verb.start(actor_of(request), wanted, reason=reason)
                    for wanted in meant.values()
                ]
            except PostfleetError as exc:
                error = str(exc)
            else:
                self.message_user(request, _("Jobs started: %d.") % len(started), messages.SUCCESS)
                return HttpResponseRedirect(reverse("admin:jobs_job_changelist"))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": verb.title,
            "about": verb.about,
            "button": verb.button,
            "needs_reason": verb.needs_reason,
            "lanes": [{"lane": lane, "words": wanted.words()} for lane, wanted in meant.items()],
            "total": sum(lane.waiting for lane in meant),
            "action": name,
            "reason": reason,
            "most_reason": MOST_REASON,
            "error": error,
        }
        return TemplateResponse(request, "queue/confirm.html", context)


# --- the rest is looked at ------------------------------------------------------------------------


@admin.register(Campaign)
class CampaignAdmin(Holdable, QueueAdmin):
    hold_scope = "campaign"
    list_display = ("id", "label", "account_id", "created_at")
    list_display_links = ("id", "label")
    search_fields = ("label",)
    actions = ("hold",)


@admin.register(Row)
class RowAdmin(QueueAdmin):
    list_display = ("id", "recipient", "state", "reason", "attempt", "due_at", "last_reply")
    list_display_links = ("id", "recipient")
    list_filter = ("state",)
    search_fields = ("message_id__exact",)
    search_help_text = _("By message ID.")


@admin.register(Incarnation)
class IncarnationAdmin(QueueAdmin):
    list_display = ("id", "node", "process", "started_at", "heartbeat_at", "ended_at")
    list_display_links = ("id", "process")
    search_fields = ("node", "process")


@admin.register(OutboxRow)
class OutboxRowAdmin(QueueAdmin):
    list_display = ("id", "created_at", "event_count")
