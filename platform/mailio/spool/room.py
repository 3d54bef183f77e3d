"""How much of a disk intake leaves free, and whether it may write now.

Gives    floor_bytes; check_room, for who only asks
Takes    what must stay free, for mail that may wait; settings
Raises   from check_room: StoreFull below it, StoreUnavailable if the spool cannot be asked
"""

from __future__ import annotations

from collections.abc import Callable

from mailcore.ports import StoreFull, StoreUnavailable
from mailio.settings import Settings
from mailio.spool.files import space_of

# Of what must stay free, the part that priority mail may still take.
RESERVE_DIVISOR = 2


def floor_bytes(kept: int | Callable[[], int], *, is_urgent: bool) -> int:
    """Return what must stay free. Urgent mail has a reserve: it is the last to be refused."""
    wanted = kept if isinstance(kept, int) else kept()
    return wanted // RESERVE_DIVISOR if is_urgent else wanted


def check_room(settings: Settings, *, stop_bytes: int, timeout_s: float) -> None:
    """See that mail that is not urgent would find room; a server that does not tell has it."""
    if settings.has_shared_spool:
        from mailio.spool.mongo_store import room_of

        room = room_of(settings.spool_url, timeout_s=timeout_s)
    else:
        try:
            room = space_of(settings.spool_dir)
        except OSError as exc:
            raise StoreUnavailable("spool", exc.strerror or str(exc)) from exc
    if room is not None and room.free_bytes < stop_bytes:
        raise StoreFull("spool", f"only {room.free_bytes >> 20} MB of disk are left")
