"""`inbound.poll`: mailboxes of ours may have news. Beat rings for it on every node."""

from mailcore.bells import UpkeepBell
from workers.app import app
from workers.runtime import WAIT_S, upkeep


@app.task(name="inbound.poll", acks_late=True, ignore_result=True)
def poll(payload: str) -> None:
    """Read the mailboxes that are due and that no other process reads."""
    UpkeepBell.from_json(payload)
    process = upkeep()
    process.submit(process.poll(), wait_s=WAIT_S)
