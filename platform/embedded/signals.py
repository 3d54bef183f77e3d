"""An orderly end at Ctrl-C, SIGTERM or SIGHUP.

Gives    `stop_signals()`: an event that is set when one of them arrives
Raises   KeyboardInterrupt at the second Ctrl-C; ValueError outside the main thread
"""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Turn SIGINT, SIGTERM and SIGHUP into an event while the block runs; main thread only.

    A second SIGINT raises KeyboardInterrupt, so an impatient operator can still get out.
    """
    asked = threading.Event()

    def ask(signum: int, _frame: object) -> None:
        if asked.is_set() and signum == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {signum: signal.signal(signum, ask) for signum in signals}
    try:
        yield asked
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
