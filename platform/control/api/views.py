"""The API's own pages: what this is, its schema, and nothing else there.

Gives    RootView, SchemaView, NotFoundView
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularJSONAPIView
from rest_framework.permissions import AllowAny

from control.api.base import ApiView
from control.api.problems import respond

VERSION = "2"
ROOT_SCHEMA = {
    "type": "object",
    "required": ["product", "version", "mode"],
    "properties": {
        "product": {"type": "string", "enum": ["postfleet"]},
        "version": {"type": "string", "description": "Version of this API."},
        "mode": {
            "type": "string",
            "enum": ["lab", "live"],
            "description": "In mode lab nothing leaves the machine.",
        },
        "schema": {"type": "string", "format": "uri-reference"},
    },
}


class RootView(ApiView):
    """What this is."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @extend_schema(
        operation_id="root",
        summary="Product, API version and mode",
        tags=["about"],
        auth=[],
        responses={(200, "application/json"): ROOT_SCHEMA},
    )
    def get(self, request: HttpRequest) -> HttpResponse:
        """Say which product and which mode a program talks to."""
        configured = settings.POSTFLEET
        mode = "lab" if configured is None else configured.mode
        return respond(
            {
                "product": "postfleet",
                "version": VERSION,
                "mode": mode,
                "schema": f"{request.path.rstrip('/')}/schema",
            }
        )


class SchemaView(ApiView, SpectacularJSONAPIView):
    """The OpenAPI schema."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    renderer_classes = SpectacularJSONAPIView.renderer_classes


class NotFoundView(ApiView):
    """What lies nowhere."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    schema = None

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Answer any method alike."""
        self.args, self.kwargs, self.headers = args, kwargs, {}
        self.request = self.initialize_request(request, *args, **kwargs)
        return self.handle_exception(Http404())
