"""The app's name for Django."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class QueueConfig(AppConfig):
    name = "control.queue"
    label = "queue"
    verbose_name = _("Queue")
    default_auto_field = "django.db.models.AutoField"

    def ready(self) -> None:
        """Say who works on the queue's jobs and who undoes them, once all models are there."""
        from control.jobs.undo import Undo, register_undo
        from control.queue import jobs, work

        work.register_all()
        register_undo(jobs.Kind.PURGE.value, Undo(jobs.start_undo, jobs.why_not_undone))
