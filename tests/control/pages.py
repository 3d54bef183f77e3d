"""Fill a page of the panel as a browser would: read the form it shows, change fields, send it."""

from html.parser import HTMLParser
from typing import Any

from django.db import models
from django.test import Client


class _Form(HTMLParser):
    """Collects the values a browser would send."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, list[str]] = {}
        self._select = ""
        self._textarea = ""
        self._depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._depth = 1 if given.get("id", "").endswith("_form") else 0
        if not self._depth:
            return
        name = given.get("name", "")
        if tag == "input" and name and given.get("type") not in ("submit", "file"):
            is_box = given.get("type") in ("checkbox", "radio")
            if not is_box or "checked" in given:
                self.values.setdefault(name, []).append(given.get("value", "on" if is_box else ""))
        elif tag == "select":
            self._select = name
        elif tag == "option" and "selected" in given:
            self.values.setdefault(self._select, []).append(given.get("value", ""))
        elif tag == "textarea":
            self._textarea = name
            self.values.setdefault(name, []).append("")

    def handle_data(self, data: str) -> None:
        if self._textarea:
            self.values[self._textarea][-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._textarea = ""
        elif tag == "select":
            self._select = ""
        elif tag == "form":
            self._depth = 0


def page(model: type[models.Model], what: str = "") -> str:
    """Return the path of a model's list, or of `add/`, `7/change/`, `7/delete/`."""
    return f"/panel/{model._meta.app_label}/{model._meta.model_name}/{what}"


def form_of(client: Client, path: str) -> dict[str, Any]:
    """Return what the form at a path would send unchanged."""
    answer = client.get(path)
    assert answer.status_code == 200, answer.status_code
    parser = _Form()
    parser.feed(answer.content.decode())
    return dict(parser.values)


def send(client: Client, path: str, **changes: Any) -> Any:
    """Open a form, change some fields, send it."""
    return client.post(path, {**form_of(client, path), **changes})


def errors(answer: Any) -> str:
    """Return all complaints of a form that came back."""
    assert answer.status_code == 200, f"saved, not refused: {answer.status_code}"
    context = answer.context
    said = [str(context["adminform"].form.errors)]
    said += [str(part.formset.errors) for part in context["inline_admin_formsets"]]
    return "\n".join(said)
