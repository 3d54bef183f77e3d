"""Where the API's requests go. The routes of an app are its own: `control.<app>.api.urls`."""

from django.urls import URLPattern, URLResolver, include, path, re_path

from control.api.views import NotFoundView, RootView, SchemaView

urlpatterns: list[URLPattern | URLResolver] = [
    re_path(r"^v2/?$", RootView.as_view(), name="api-root"),
    path("v2/schema", SchemaView.as_view(), name="api-schema"),
    path("v2/", include("control.submission.api.urls")),
    path("v2/", include("control.queue.api.urls")),
    re_path(r"", NotFoundView.as_view()),
]
