"""`upkeep.*`: the chores that keep queue, spool and outbox clean. Beat rings for them."""

from mailcore.bells import UpkeepBell
from workers.app import app
from workers.runtime import WAIT_S, upkeep


@app.task(name="upkeep.expire", acks_late=True, ignore_result=True)
def expire(payload: str) -> None:
    """End what has outlived its lifetime, and what an unknown outcome's rule says."""
    UpkeepBell.from_json(payload)
    process = upkeep()
    process.submit(process.expire(), wait_s=WAIT_S)


@app.task(name="upkeep.unpark", acks_late=True, ignore_result=True)
def unpark(payload: str) -> None:
    """Let go the rows of recipient domains that are held no more."""
    UpkeepBell.from_json(payload)
    process = upkeep()
    process.submit(process.unpark(), wait_s=WAIT_S)


@app.task(name="upkeep.reap", acks_late=True, ignore_result=True)
def reap(payload: str) -> None:
    """Take back what dead processes of this node held."""
    UpkeepBell.from_json(payload)
    process = upkeep()
    process.submit(process.reap(), wait_s=WAIT_S)


@app.task(name="upkeep.sweep", acks_late=True, ignore_result=True)
def sweep(payload: str) -> None:
    """Delete and compact content no row points at; delete rows of side tables nobody asks for."""
    UpkeepBell.from_json(payload)
    process = upkeep()
    process.submit(process.sweep(), wait_s=WAIT_S)


@app.task(name="upkeep.measure", acks_late=True, ignore_result=True)
def measure(payload: str) -> None:
    """Note what the spool's disk has left, and forecast when it is full."""
    UpkeepBell.from_json(payload)
    process = upkeep()
    process.submit(process.measure(), wait_s=WAIT_S)


@app.task(name="upkeep.check", acks_late=True, ignore_result=True)
def check(payload: str) -> None:
    """Look whether the queue is as it must be; mend what is safe."""
    UpkeepBell.from_json(payload)
    process = upkeep()
    process.submit(process.check(), wait_s=WAIT_S)


@app.task(name="upkeep.content", acks_late=True, ignore_result=True)
def content(payload: str) -> None:
    """Read some of this node's content back."""
    UpkeepBell.from_json(payload)
    process = upkeep()
    process.submit(process.check_content(), wait_s=WAIT_S)
