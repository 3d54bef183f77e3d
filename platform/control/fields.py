"""Form and model fields that several apps share.

Gives    SecondsField: seconds in the database, minutes (hours, days) at the panel;
         ChoiceArrayField; LinesField: a list, one item per line; checks for names and domains
Raises   ValidationError naming what is wrong
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import Any

from django import forms
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from mailcore.address import parse_domain
from mailcore.errors import AddressError

SLUG = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
HEADER_NAME = re.compile(r"[!-9;-~]{1,76}\Z")  # RFC 5322 §3.6.8
SELECTOR = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?\Z", re.IGNORECASE)


class Unit(Enum):
    """What people count a duration in."""

    SECONDS = 1
    MINUTES = 60
    HOURS = 3600
    DAYS = 86400


class _DurationFormField(forms.FloatField):
    """A number of `unit`s for a model field that holds seconds."""

    def __init__(self, *, unit: Unit, **kwargs: Any) -> None:
        self.unit = unit
        kwargs.setdefault("min_value", 0)
        super().__init__(**kwargs)

    def prepare_value(self, value: Any) -> Any:
        """Show seconds as units; what the user typed comes back as text and stays as it is."""
        if isinstance(value, int | float):
            return float(f"{value / self.unit.value:.6g}")
        return value

    def clean(self, value: Any) -> float | None:
        """Return seconds."""
        number = super().clean(value)
        return None if number is None else round(number * self.unit.value, 3)

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Compare in units: the initial value is in seconds, the data is not."""
        return super().has_changed(self.prepare_value(initial), data)


class SecondsField(models.FloatField):  # type: ignore[type-arg]
    """Float seconds. `unit` is only what the panel shows and asks for."""

    def __init__(self, *args: Any, unit: Unit = Unit.SECONDS, **kwargs: Any) -> None:
        self.unit = unit
        kwargs.setdefault("validators", [MinValueValidator(0)])
        super().__init__(*args, **kwargs)

    def formfield(self, **kwargs: Any) -> Any:
        """Return a field that asks for units."""
        return super().formfield(form_class=_DurationFormField, unit=self.unit, **kwargs)

    def deconstruct(self) -> Any:
        """Leave out what does not touch the column."""
        name, path, args, kwargs = super().deconstruct()
        kwargs.pop("validators", None)
        return name, path, args, kwargs


class ChoiceArrayField(ArrayField):  # type: ignore[type-arg]
    """A set of choices, kept as an array and shown as check boxes."""

    def formfield(self, **kwargs: Any) -> Any:
        """Return check boxes."""
        defaults: dict[str, Any] = {
            "form_class": forms.MultipleChoiceField,
            "choices": self.base_field.choices,
            "widget": forms.CheckboxSelectMultiple,
            **kwargs,
        }
        # ArrayField's own formfield would insist on its text widget.
        return super(ArrayField, self).formfield(**defaults)


class _LinesFormField(forms.CharField):
    """A list, one item per line."""

    widget = forms.Textarea(attrs={"rows": 4, "cols": 60})

    def prepare_value(self, value: Any) -> Any:
        """Show a list as lines."""
        return "\n".join(value) if isinstance(value, list | tuple) else value

    def clean(self, value: Any) -> Any:
        """Return the items; empty lines do not count."""
        text = super().clean(value) or ""
        return [line.strip() for line in text.splitlines() if line.strip()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Compare what both show."""
        return bool(super().has_changed(self.prepare_value(initial), data))


class LinesField(ArrayField):  # type: ignore[type-arg]
    """A short list of text, one item per line at the panel."""

    def formfield(self, **kwargs: Any) -> Any:
        """Return a text area."""
        kwargs.pop("widget", None)
        return super(ArrayField, self).formfield(form_class=_LinesFormField, **kwargs)


def check_slug(value: str) -> None:
    """Refuse what cannot stand in a queue's name or a host name's label."""
    if not SLUG.match(value):
        raise ValidationError(
            _("Use up to 63 lower-case letters, digits and hyphens; begin and end without hyphen.")
        )


def check_header_name(value: str) -> None:
    """Refuse what is no header field's name (RFC 5322 §3.6.8)."""
    if not HEADER_NAME.match(value):
        raise ValidationError(_("A header field's name has no spaces, colons or other letters."))


def check_selector(value: str) -> None:
    """Refuse what is no DKIM selector (RFC 6376 §3.1)."""
    if not SELECTOR.match(value) or ".." in value:
        raise ValidationError(_("A selector consists of letters, digits, dots and hyphens."))


def check_one_line(value: str) -> None:
    """Refuse line ends, which would begin another header field."""
    if "\r" in value or "\n" in value or "\x00" in value:
        raise ValidationError(_("A value with a line end is not allowed here."))


def clean_domain(value: str) -> str:
    """Return a mail domain as it is stored: A-labels, lower case."""
    try:
        return parse_domain(value)
    except AddressError as exc:
        raise ValidationError(str(exc)) from exc


def check_domain(value: str) -> None:
    """Refuse what is no mail domain."""
    clean_domain(value)


def clean_each(values: list[str], clean: Callable[[str], str]) -> list[str]:
    """Return each item cleaned; the error names the item."""
    cleaned = []
    for value in values:
        try:
            cleaned.append(clean(value))
        except ValidationError as exc:
            raise ValidationError(f"{value!r}: {exc.messages[0]}") from exc
    return cleaned
