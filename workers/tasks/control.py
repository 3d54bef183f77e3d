"""`control.*`: work of the control plane that takes longer than a page. Beat rings for it."""

from mailcore.bells import UpkeepBell
from workers import writeback
from workers.app import app


@app.task(name="control.jobs", acks_late=True, ignore_result=True)
def jobs(payload: str) -> None:
    """Work on the jobs that people started; what is not done in this turn goes on in the next."""
    UpkeepBell.from_json(payload)
    writeback.run_jobs()


@app.task(name="control.alerts", acks_late=True, ignore_result=True)
def alerts(payload: str) -> None:
    """Look at what is watched, and raise or clear alerts."""
    UpkeepBell.from_json(payload)
    writeback.look_for_alerts()


@app.task(name="control.mail", acks_late=True, ignore_result=True)
def mail(payload: str) -> None:
    """Send welcomes, links for lost passwords, and what tells of alerts."""
    UpkeepBell.from_json(payload)
    writeback.send_system_mail()
