"""Where requests go: health, API, panel."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from control import health
from control.accounts.views import OwnPasswordView, PasswordIsSetView, SetPasswordView
from control.api.views import NotFoundView
from control.metrics import MetricsView
from control.notify.views import LostPasswordView

urlpatterns = [
    path("health", health.health, name="health"),
    path("readiness", health.readiness, name="readiness"),
    path("metrics", MetricsView.as_view(), name="metrics"),
    path("api", NotFoundView.as_view()),
    path("api/", include("control.api.urls")),
    path("panel/password_change/", OwnPasswordView.as_view()),
    # The name is Django's: its login page shows the link if there is one.
    path("panel/lost_password/", LostPasswordView.as_view(), name="admin_password_reset"),
    path("panel/set_password/", PasswordIsSetView.as_view(), name="password_is_set"),
    path("panel/set_password/<uidb64>/<token>/", SetPasswordView.as_view(), name="set_password"),
    path("panel/reports/", include("control.reports.urls")),
    path("panel/", admin.site.urls),
    path("", RedirectView.as_view(pattern_name="admin:index"), name="home"),
]

handler400 = "control.error_pages.bad_request"
handler403 = "control.error_pages.forbidden"
handler404 = "control.error_pages.not_found"
handler500 = "control.error_pages.server_error"
