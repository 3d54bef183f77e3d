"""Parts of the OpenAPI schema that every operation shares.

Gives    PROBLEM, responses_with_problems; BearerScheme and name_problems (found by drf-spectacular)
"""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema

PROBLEM_TYPE = "application/problem+json"
PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "A problem document (RFC 9457).",
    "required": ["type", "title", "status", "detail", "errors"],
    "properties": {
        "type": {"type": "string", "description": "urn:postfleet:problem:<code>"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "The first error's detail."},
        "errors": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["pointer", "code", "detail"],
                "properties": {
                    "pointer": {
                        "type": "string",
                        "description": "JSON pointer (RFC 6901) into the request.",
                    },
                    "code": {"type": "string", "description": "A stable word for programs."},
                    "detail": {"type": "string", "description": "A sentence for people."},
                    "header": {
                        "type": "string",
                        "description": "The request header that is wrong, if one is.",
                    },
                },
            },
        },
    },
}


def responses_with_problems(good: dict[Any, Any], *statuses: int) -> dict[Any, Any]:
    """Return an operation's answers: the good ones, and a problem for each of these statuses."""
    return {**good, **{(status, PROBLEM_TYPE): PROBLEM for status in statuses}}


def name_problems(result: dict[str, Any], **_given: Any) -> dict[str, Any]:
    """Write the problem document down once, and refer to it everywhere else."""
    result["components"].setdefault("schemas", {})["Problem"] = PROBLEM
    for path in result["paths"].values():
        for operation in path.values():
            for answer in operation["responses"].values():
                content = answer.get("content", {})
                if PROBLEM_TYPE in content:
                    content[PROBLEM_TYPE]["schema"] = {"$ref": "#/components/schemas/Problem"}
    return result


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """`Authorization: Bearer <token>` in the schema."""

    target_class = "control.api.authentication.BearerAuthentication"
    name = "bearer"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:
        """Return the scheme."""
        return {"type": "http", "scheme": "bearer", "description": "An API token (pf_…)."}
