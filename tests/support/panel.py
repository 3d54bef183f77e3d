"""A browser for the panel: cookies, CSRF, forms read from the page that shows them.

Gives    Panel: log_in(), get(), form(), send(), links()
Raises   AssertionError with the page's complaints when a form comes back
"""

import http.cookiejar
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit


@dataclass(frozen=True, slots=True)
class Page:
    """What a browser shows: the address after redirects, and the text."""

    url: str
    status: int
    text: str


class _Reader(HTMLParser):
    """Collects links, complaints, and the values a browser would send of a form."""

    def __init__(self, form_id: str = "") -> None:
        super().__init__()
        self.links: list[str] = []
        self.complaints: list[str] = []
        self.values: dict[str, list[str]] = {}
        self._form_id = form_id
        self._in_form = False
        self._in_errors = False
        self._select = ""
        self._textarea = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif tag == "ul" and "errorlist" in given.get("class", ""):
            self._in_errors = True
        elif tag == "form":
            self._in_form = given.get("id", "") == self._form_id
        elif self._in_form:
            self._field(tag, given)

    def _field(self, tag: str, given: Mapping[str, str]) -> None:
        name = given.get("name", "")
        if tag == "input" and name and given.get("type") not in ("submit", "file", "image"):
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
        elif self._in_errors and data.strip():
            self.complaints.append(data.strip())

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._textarea = ""
        elif tag == "select":
            self._select = ""
        elif tag == "form":
            self._in_form = False
        elif tag == "ul":
            self._in_errors = False


class Panel:
    """One browser session; `url` is the panel's first page."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self._cookies)
        )

    def get(self, path: str = "") -> Page:
        """Open a page, by its path below the panel's first page or from the host's root."""
        return self._open(urllib.request.Request(urljoin(self.url, path)))  # noqa: S310 (http)

    def log_in(self, username: str, password: str) -> None:
        """Log in through the form."""
        page = self.send("login/", "login-form", username=username, password=password)
        assert not page.url.endswith("login/"), self.complaints(page)

    def form(self, path: str, form_id: str) -> dict[str, list[str]]:
        """Return what the form at a path would send as it stands."""
        page = self.get(path)
        assert page.status == 200, (path, page.status)
        reader = _Reader(form_id)
        reader.feed(page.text)
        assert reader.values, f"{path} has no form {form_id}"
        return reader.values

    def send(self, path: str, form_id: str, **changes: str) -> Page:
        """Open a form, change some fields, send it; return the page that follows."""
        values: dict[str, Sequence[str]] = {**self.form(path, form_id)}
        values |= {name: [value] for name, value in changes.items()}
        url = urljoin(self.url, path)
        body = urllib.parse.urlencode(values, doseq=True).encode()
        return self._open(urllib.request.Request(url, body, {"Referer": url}))  # noqa: S310 (http)

    def save(self, path: str, model: str, **changes: str) -> Page:
        """Change or add a row through its page; its complaints are the test's."""
        page = self.send(path, f"{model}_form", **changes)
        assert page.status == 200, (path, page.status)
        assert not self.complaints(page), self.complaints(page)
        assert urlsplit(page.url).path != urlsplit(urljoin(self.url, path)).path, path
        return page

    @staticmethod
    def complaints(page: Page) -> list[str]:
        """Return what a form that came back says is wrong."""
        reader = _Reader()
        reader.feed(page.text)
        return reader.complaints

    def links(self, page: Page) -> set[str]:
        """Return the pages of the panel that a page leads to."""
        reader = _Reader()
        reader.feed(page.text)
        found = {urljoin(page.url, link).partition("#")[0] for link in reader.links}
        return {link for link in found if link.startswith(self.url)}

    def _open(self, request: urllib.request.Request) -> Page:
        try:
            with self._opener.open(request, timeout=30) as answer:
                return Page(answer.url, answer.status, answer.read().decode())
        except urllib.error.HTTPError as exc:
            with exc:
                return Page(request.full_url, exc.code, exc.read().decode())
