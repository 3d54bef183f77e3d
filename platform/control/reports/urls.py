"""Where the reports are, below /panel/reports/."""

from django.urls import path

from control.reports import check_views, spool_views, tls_views, views

app_name = "reports"
urlpatterns = [
    path("", views.DashboardView.as_view(), name="dashboard"),
    path("check", check_views.CheckView.as_view(), name="check"),
    path("fragment", views.FragmentView.as_view(), name="fragment"),
    path("replies.csv", views.RepliesCsvView.as_view(), name="replies"),
    path("spool", spool_views.SpoolView.as_view(), name="spool"),
    path("tls", tls_views.TlsView.as_view(), name="tls"),
    path("tls.json", tls_views.TlsReportView.as_view(), name="tls-report"),
    path("undeliveries.csv", views.UndeliveriesCsvView.as_view(), name="undeliveries"),
]
