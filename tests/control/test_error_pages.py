"""What a person or a program sees when a view ends in an error that nobody caught."""

from __future__ import annotations

import json

import pytest
from django.db import InterfaceError, OperationalError
from django.http import HttpResponse
from django.test import RequestFactory

from control.error_pages import server_error

BREAKS = [
    (OperationalError("terminating connection at 192.0.2.7"), 503),
    (InterfaceError("connection already closed at 192.0.2.7"), 503),
    (KeyError("at 192.0.2.7"), 500),
]


def answer_to(error: Exception, path: str) -> HttpResponse:
    """Answer as Django does: while it handles the error."""
    try:
        raise error
    except type(error):
        return server_error(RequestFactory().get(path))


@pytest.mark.parametrize(("error", "status"), BREAKS)
def test_a_page_says_whether_to_come_back(error: Exception, status: int) -> None:
    answer = answer_to(error, "/panel/")
    assert answer.status_code == status
    text = answer.content.decode()
    assert ("The database does not answer" in text) == (status == 503)
    assert "192.0.2.7" not in text


@pytest.mark.parametrize(("error", "status"), BREAKS)
def test_a_program_gets_a_problem(error: Exception, status: int) -> None:
    answer = answer_to(error, "/api/v2/messages")
    assert answer.status_code == status
    (problem,) = json.loads(answer.content)["errors"]
    assert problem["code"] == {503: "store_unavailable", 500: "internal_error"}[status]
