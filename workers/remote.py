"""What Flower and `celery control` may not ask of a worker.

Gives    on import: answers of our own to `pool_grow` and `pool_shrink`
Raises   nothing: a refusal is an answer, which Flower shows

A pool of threads cannot change its size while it runs: Celery would answer with an AttributeError.
How many threads a worker has follows from its kind, how many workers a node has from
`manage.py fleet up --processes`, and how many connections they open from policy.
"""

from __future__ import annotations

from typing import Any

from celery.worker.control import Panel, control_command

_CELERYS = {name: Panel.data[name] for name in ("pool_grow", "pool_shrink")}
WHY = (
    "the number of threads is fixed: run more delivery processes instead"
    " (manage.py fleet up --processes)"
)


@control_command(name="pool_grow", args=[("n", int)], signature="[N=1]")
def pool_grow(state: Any, n: int = 1, **_: Any) -> Any:
    """Grow a pool of processes; refuse for one of threads."""
    return _changed("pool_grow", state, n)


@control_command(name="pool_shrink", args=[("n", int)], signature="[N=1]")
def pool_shrink(state: Any, n: int = 1, **_: Any) -> Any:
    """Shrink a pool of processes; refuse for one of threads."""
    return _changed("pool_shrink", state, n)


def _changed(command: str, state: Any, n: int) -> Any:
    if not hasattr(state.consumer.pool, "grow"):
        return {"error": WHY}
    return _CELERYS[command](state, n)
