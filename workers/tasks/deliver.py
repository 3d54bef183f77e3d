"""`deliver.drain`: these paths have work."""

from mailcore.bells import DrainBell
from workers.app import app
from workers.runtime import WAIT_S, delivery


@app.task(name="deliver.drain", acks_late=True, ignore_result=True)
def drain(payload: str) -> None:
    """Make the bell's paths active; the drain outlives this task (design.md section 4)."""
    process = delivery()
    process.submit(process.dispatcher.ring(DrainBell.from_json(payload)), wait_s=WAIT_S)
