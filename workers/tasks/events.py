"""`events.apply` and `events.roll_up`: the outbox has news for a consumer; minutes were touched."""

from mailcore.bells import ApplyBell
from workers.app import app
from workers.runtime import consumers


@app.task(name="events.apply", acks_late=True, ignore_result=True)
def apply(payload: str) -> None:
    """Bring one consumer up to the outbox."""
    consumers().apply(ApplyBell.from_json(payload).consumer)
