"""Where requests go: health, API, panel."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from control import health

urlpatterns = [
    path("health", health.health, name="health"),
    path("readiness", health.readiness, name="readiness"),
    path("api/", include("control.api.urls")),
    path("panel/", admin.site.urls),
    path("", RedirectView.as_view(pattern_name="admin:index"), name="home"),
]
