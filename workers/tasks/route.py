"""`route.resolve`: rows wait in unrouted lanes."""

from mailcore.bells import RouteBell
from workers.app import app
from workers.runtime import WAIT_S, delivery


@app.task(name="route.resolve", acks_late=True, ignore_result=True)
def resolve(payload: str) -> None:
    """Find out where the waiting domains' mail goes."""
    RouteBell.from_json(payload)
    process = delivery()
    process.submit(process.route(), wait_s=WAIT_S)
