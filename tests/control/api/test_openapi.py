"""The schema that is checked in is the one the API has, and it is valid OpenAPI."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.validation import validate_schema

from mailcore.submission.offer import FIELDS
from tests.control.api.conftest import body_of

CHECKED_IN = Path(__file__).resolve().parents[3] / "docs" / "openapi.json"
COMMAND = "manage.py spectacular --format openapi-json --validate --file docs/openapi.json"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    generated = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    plain: dict[str, Any] = json.loads(json.dumps(generated))
    return plain


def test_the_checked_in_schema_is_current(schema: dict[str, Any]) -> None:
    assert json.loads(CHECKED_IN.read_text(encoding="utf-8")) == schema, f"run {COMMAND}"


def test_the_schema_is_valid_and_names_every_operation(schema: dict[str, Any]) -> None:
    validate_schema(schema)  # type: ignore[no-untyped-call]
    operations = {
        f"{method} {path}" for path, methods in schema["paths"].items() for method in methods
    }
    assert operations == {
        "get /api/v2/",
        "post /api/v2/messages",
        "get /api/v2/messages/{message_id}",
        "get /api/v2/holds",
        "post /api/v2/holds",
        "get /api/v2/holds/{hold_id}",
        "post /api/v2/holds/{hold_id}/release",
        "get /api/v2/queue",
        "post /api/v2/queue/purge",
        "post /api/v2/queue/expire",
        "post /api/v2/queue/retry",
        "get /api/v2/jobs",
        "get /api/v2/jobs/{job_id}",
        "post /api/v2/jobs/{job_id}/stop",
        "post /api/v2/jobs/{job_id}/undo",
    }


def test_the_schema_knows_every_field_the_code_takes(schema: dict[str, Any]) -> None:
    content = schema["paths"]["/api/v2/messages"]["post"]["requestBody"]["content"]
    parts, raw, many = content["application/json"]["schema"]["oneOf"]
    assert set(parts["properties"]) | set(raw["properties"]) == FIELDS
    assert many["properties"]["messages"]["items"]["oneOf"] == [parts, raw]


def test_the_schema_is_served(schema: dict[str, Any]) -> None:
    response = Client().get("/api/v2/schema")
    assert response.status_code == 200
    assert body_of(response) == schema
