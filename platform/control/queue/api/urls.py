"""Routes of the queue, below /api/v2/."""

from django.urls import URLPattern, path

from control.queue.api.holds import HoldReleaseView, HoldsView, HoldView
from control.queue.api.jobs import JobStopView, JobsView, JobUndoView, JobView
from control.queue.api.queue import ExpireView, FiguresView, PurgeView, RetryView

urlpatterns: list[URLPattern] = [
    path("holds", HoldsView.as_view(), name="holds"),
    path("holds/<int:hold_id>", HoldView.as_view(), name="hold"),
    path("holds/<int:hold_id>/release", HoldReleaseView.as_view(), name="hold-release"),
    path("queue", FiguresView.as_view(), name="queue"),
    path("queue/purge", PurgeView.as_view(), name="queue-purge"),
    path("queue/expire", ExpireView.as_view(), name="queue-expire"),
    path("queue/retry", RetryView.as_view(), name="queue-retry"),
    path("jobs", JobsView.as_view(), name="jobs"),
    path("jobs/<int:job_id>", JobView.as_view(), name="job"),
    path("jobs/<int:job_id>/stop", JobStopView.as_view(), name="job-stop"),
    path("jobs/<int:job_id>/undo", JobUndoView.as_view(), name="job-undo"),
]
