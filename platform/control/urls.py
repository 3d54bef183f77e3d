"""Where requests go: health, API, panel."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from control import health
from control.accounts.views import OwnPasswordView

urlpatterns = [
    path("health", health.health, name="health"),
    path("readiness", health.readiness, name="readiness"),
    path("api/", include("control.api.urls")),
    path("panel/password_change/", OwnPasswordView.as_view()),
    path("panel/", admin.site.urls),
    path("", RedirectView.as_view(pattern_name="admin:index"), name="home"),
]
