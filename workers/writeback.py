"""What workers may write into the control plane; the one module here that imports it.

Gives    set_up, run_jobs, look_for_alerts, send_system_mail
Takes    nothing: what is due stands in PostgreSQL
Raises   nothing of a job's own: a job that fails is stored as failed, with its reason
Follows  design.md section 7 (worker-control, the one that may use the ORM)

Django is imported inside the functions: a process of another kind never loads it.
"""

from __future__ import annotations

import os


def set_up() -> None:
    """Make Django ready in this process."""
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "control.settings")
    django.setup()


def run_jobs() -> int:
    """Work on jobs that people started, for a few seconds; return how many steps were done."""
    from django.db import close_old_connections

    from control.jobs import runner

    close_old_connections()
    return runner.run_due()


def look_for_alerts() -> None:
    """Look once at everything that is watched, and owe the mail that tells of it."""
    from django.db import close_old_connections

    from control.notify import alerts

    close_old_connections()
    alerts.look()


def send_system_mail() -> int:
    """Send the system mail that is due, for a few seconds; return how many messages left."""
    from django.db import close_old_connections

    from control.notify import post

    close_old_connections()
    return post.send_due()
