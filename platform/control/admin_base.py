"""The base of every page that changes rows: audited, compiled, published, or not at all.

Gives    PolicyAdmin, PolicyInline, ComputedInline helpers
Follows  style.md rule 8: the whole request (form, inlines, bulk, delete) is one policy_change;
         PolicyRefused and StaleVersion roll it back and come back as errors of the form
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db import models, router
from django.db.models.deletion import Collector
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext_lazy as _

from control.access import Verb, can
from control.audit.changes import Change, StaleVersion, policy_change
from control.panel import PanelAdmin, actor_of
from mailcore.errors import PolicyRefused

Refusal = PolicyRefused | StaleVersion | ValidationError
REFUSALS = (PolicyRefused, StaleVersion, ValidationError)
VERSION_FIELD = "expected_version"
BOOKKEEPING = ("version", "created_at", "created_by", "updated_at", "updated_by")

if TYPE_CHECKING:
    ModelForm = forms.ModelForm[Any]
    TabularInline = admin.TabularInline[Any, Any]
else:
    ModelForm = forms.ModelForm
    TabularInline = admin.TabularInline


def explain(refusal: Refusal) -> str:
    """Return a refusal in words for people: which row, which field, why."""
    if isinstance(refusal, PolicyRefused):
        return str(
            _("Not saved, because the policy would be refused: %(row)s, %(field)s: %(reason)s.")
            % {"row": refusal.row, "field": refusal.field, "reason": refusal.reason}
        )
    if isinstance(refusal, StaleVersion):
        return str(
            _(
                "Not saved: this was changed meanwhile by %(who)s. Open it again to see the "
                "change, then repeat yours."
            )
            % {"who": refusal.changed_by}
        )
    return " ".join(refusal.messages)


def is_versioned(row: Any) -> bool:
    """Whether this is a stored row whose changes are counted."""
    return row is not None and row.pk is not None and hasattr(row, "version")


class VersionedForm(ModelForm):
    """A form that knows which version of the row it shows, and why it was refused."""

    refusal: ClassVar[Refusal | None] = None

    expected_version = forms.IntegerField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Not there on a new row, nor where the reader may not write.
        if VERSION_FIELD in self.fields and is_versioned(self.instance):
            self.fields[VERSION_FIELD].initial = self.instance.version
            self.fields[VERSION_FIELD].required = True

    def clean(self) -> dict[str, Any] | None:
        """Add the refusal of the attempt that was rolled back."""
        cleaned = super().clean()
        if self.refusal is not None:
            self.add_error(self._refused_field(), explain(self.refusal))
        return cleaned

    def _refused_field(self) -> str | None:
        if not isinstance(self.refusal, PolicyRefused):
            return None
        row = f"{self._meta.model._meta.verbose_name} {self.instance.pk}"
        is_this = self.refusal.row.lower() == row.lower()
        return self.refusal.field if is_this and self.refusal.field in self.fields else None


class PolicyInline(TabularInline):
    """Parts of a row, edited with it."""

    extra = 0
    show_change_link = False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return can(actor_of(request), Verb.VIEW, self.model)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return can(actor_of(request), Verb.ADD, self.model)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return can(actor_of(request), Verb.CHANGE, self.model)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return can(actor_of(request), Verb.DELETE, self.model)


class PolicyAdmin(PanelAdmin):
    """Base of every page that changes rows."""

    form = VersionedForm
    save_on_top = False
    actions: Any = ("delete_selected",)

    # --- one change per request -------------------------------------------------------------------

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """Save form and inlines as one change; a refused one comes back as a form with errors."""
        if request.method != "POST":
            return super().changeform_view(request, object_id, form_url, extra_context)
        try:
            return self._in_change(
                request,
                lambda: super(PolicyAdmin, self).changeform_view(
                    request, object_id, form_url, extra_context
                ),
            )
        except REFUSALS as exc:
            # Once more, for the form: its clean() now knows the refusal, so nothing is saved.
            request.refusal = exc  # type: ignore[attr-defined]
            return super().changeform_view(request, object_id, form_url, extra_context)

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> Any:
        """Delete as one change; a refused one leads back with the reason."""
        if request.method != "POST":
            return super().delete_view(request, object_id, extra_context)
        return self._or_message(
            request,
            lambda: super(PolicyAdmin, self).delete_view(request, object_id, extra_context),
        )

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> Any:
        """Run a bulk action as one change."""
        if request.method != "POST":
            return super().changelist_view(request, extra_context)
        return self._or_message(
            request, lambda: super(PolicyAdmin, self).changelist_view(request, extra_context)
        )

    def _in_change(self, request: HttpRequest, work: Any) -> Any:
        """Run the view inside a policy_change; what it says is said once all is committed."""
        said: list[tuple[Any, int]] = []
        request.said = said  # type: ignore[attr-defined]
        try:
            with policy_change(actor_of(request)) as change:
                request.change = change  # type: ignore[attr-defined]
                answer = work()
                # A page that was not redirected is rendered later, outside the change.
        finally:
            del request.said  # type: ignore[attr-defined]
        for message, level in said:
            messages.add_message(request, level, message)
        if change.revision is not None and isinstance(answer, HttpResponseRedirect):
            text = _("Policy revision %d is stored.") % change.revision
            messages.add_message(request, messages.INFO, text)
        return answer

    def _or_message(self, request: HttpRequest, work: Any) -> HttpResponse:
        try:
            answer: HttpResponse = self._in_change(request, work)
        except REFUSALS as exc:
            messages.add_message(request, messages.ERROR, explain(exc))
            answer = HttpResponseRedirect(request.get_full_path())
            if "delete" in request.path.rsplit("/", 2)[-2:]:
                answer = HttpResponseRedirect("../change/")
        return answer

    def message_user(
        self,
        request: HttpRequest,
        message: Any,
        level: int | str = messages.INFO,
        extra_tags: str = "",
        fail_silently: bool = False,
    ) -> None:
        """Keep what is said until the change is committed: a refused one has not happened."""
        said: list[tuple[Any, int]] | None = getattr(request, "said", None)
        number = level if isinstance(level, int) else messages.DEFAULT_LEVELS[level.upper()]
        if said is None:
            messages.add_message(request, number, message, extra_tags, fail_silently)
        else:
            said.append((message, number))

    # --- every row is noted before it is touched --------------------------------------------------

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Store a row, noted in the change."""
        noted = change_of(request)
        # Once more with what the form made of the row: it may have become somebody else's.
        if not can(actor_of(request), Verb.CHANGE if change else Verb.ADD, obj):
            raise ValidationError(_("Your account may not save this."))
        if change:
            noted.touch(obj, expected_version=form.cleaned_data.get("expected_version"))
            self.update_row(request, obj, form)
        else:
            self.create_row(request, obj, form)
            noted.created(obj)

    def create_row(self, request: HttpRequest, obj: Any, form: Any) -> None:
        """Store a new row; pages whose rows have a service override this."""
        obj.save(force_insert=True)

    def update_row(self, request: HttpRequest, obj: Any, form: Any) -> None:
        """Store a changed row, leaving alone what other writers own (version, times, secrets)."""
        edited = {field.name for field in obj._meta.concrete_fields} & set(form.fields)
        if edited:
            obj.save(update_fields=sorted(edited))

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        """Store inline rows, noted; their parent's version rises with them."""
        noted = change_of(request)
        if change and formset.has_changed():
            noted.bump(form.instance)
        formset.save(commit=False)
        for row in formset.deleted_objects:
            self._touch_tree(noted, row)
            row.delete()
        for row, _fields in formset.changed_objects:
            noted.touch(row)
            row.save()
        for row in formset.new_objects:
            row.save(force_insert=True)
            noted.created(row)
        formset.save_m2m()

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Delete a row and what goes with it, noted."""
        self._touch_tree(change_of(request), obj)
        self.remove_row(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> None:
        """Delete rows in bulk; system records refuse all of it, by name."""
        kept = [str(row) for row in queryset if getattr(row, "is_system", False)]
        if kept:
            raise ValidationError(
                _("Nothing was deleted: %s came with the product and can only be edited.")
                % ", ".join(kept)
            )
        for row in queryset:
            self.delete_model(request, row)

    def remove_row(self, request: HttpRequest, obj: Any) -> None:
        """Delete one row; pages whose rows are kept or have a service override this."""
        obj.delete()

    def _touch_tree(self, noted: Change, obj: Any) -> None:
        collector = Collector(using=router.db_for_write(type(obj)), origin=obj)
        collector.collect([obj])
        for model, rows in collector.data.items():
            if not model._meta.auto_created:
                for row in rows:
                    noted.touch(row)
        for fast in collector.fast_deletes:
            for row in fast:
                if not row._meta.auto_created:
                    noted.touch(row)

    # --- forms ------------------------------------------------------------------------------------

    def get_form(
        self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any
    ) -> Any:
        """Return the form, told why the attempt before this one was refused."""
        form = super().get_form(request, obj, change=change, **kwargs)
        refusal = getattr(request, "refusal", None)
        if refusal is None:
            return form
        kind: Any = type(form)
        return kind(form.__name__, (form,), {"refusal": refusal})

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Carry the version shown in a hidden field, on forms that change a versioned row."""
        sets = []
        for title, options in super().get_fieldsets(request, obj):
            shown = [name for name in options["fields"] if name != VERSION_FIELD]
            sets.append((title, {**options, "fields": shown}))
        if is_versioned(obj) and self.has_change_permission(request, obj):
            sets.append((None, {"fields": (VERSION_FIELD,), "classes": ("version-shown",)}))
        return sets

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Show, at the end, who made and changed a row."""
        fields = tuple(super().get_readonly_fields(request, obj))
        return fields + tuple(
            name for name in BOOKKEEPING if obj is not None and hasattr(obj, name)
        )


def change_of(request: HttpRequest) -> Change:
    """Return the change this request is."""
    change: Change = request.change  # type: ignore[attr-defined]
    return change
