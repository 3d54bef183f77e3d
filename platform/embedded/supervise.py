"""Keep a set of processes running, and leave none behind.

Takes    processes by name (`add`): argv, environment, a readiness probe, how to stop
Gives    `start` (all up and ready, or StartError), restarts with back-off and a line saying so,
         `stop` in reverse order, `keep_down` for some, `pids`, `status`, one log file per process
Raises   StartError from `start`, with the last lines of the log
Follows  nothing outside; each process runs under `embedded/guard.py`, which ends it when this
         process is gone, `kill -9` included

Whoever ends by itself is started again, with exit code 0 too: nobody here asked it to.

Thread-safe. The watcher is a daemon thread; it never installs signal handlers. A program that
wants an orderly end at Ctrl-C or SIGTERM uses `embedded.signals`.
"""

import contextlib
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from embedded.child import Child, ChildState, ChildStatus, Run, Slot
from embedded.errors import StartError
from embedded.procs import ProcessId, tail

GUARD = Path(__file__).with_name("guard.py")
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
STEADY_AFTER_S = 60.0
PROBE_EVERY_S = 0.03
# A handler of a signal may set an event, and must not notify a condition.
LOOK_IF_ASKED_S = 0.2

log = logging.getLogger("embedded")


class Supervisor:
    """Processes that live as long as this one, and no longer."""

    def __init__(
        self,
        log_dir: Path,
        *,
        say: Callable[[str], None] | None = None,
        on_start: Callable[[str, ProcessId], None] | None = None,
        stop_in_order: bool = True,
        first_backoff_s: float = FIRST_BACKOFF_S,
        asked: threading.Event | None = None,
    ) -> None:
        self._log_dir = log_dir
        self._say_to = say or log.warning
        self._on_start = on_start
        self._stop_in_order = stop_in_order
        self._first_backoff_s = first_backoff_s
        # Set by whoever wants an end: `start` waits no longer then.
        self._asked = asked or threading.Event()
        self._slots: dict[str, Slot] = {}
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._watcher: threading.Thread | None = None
        self._waker: socket.socket | None = None
        self._closing = False

    def add(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        ready: Callable[[], bool] | None = None,
        ready_timeout_s: float = 30.0,
        stop_signal: signal.Signals = signal.SIGTERM,
        stop_timeout_s: float = 10.0,
        cwd: Path | None = None,
    ) -> None:
        """Register a process; `start` runs it. May be followed by another `start` later."""
        self.add_child(
            Child(
                name,
                tuple(argv),
                env,
                cwd=cwd,
                ready=ready,
                ready_timeout_s=ready_timeout_s,
                stop_signal=stop_signal,
                stop_timeout_s=stop_timeout_s,
            )
        )

    def add_child(self, child: Child) -> None:
        """Register a process, or replace one that is not running."""
        with self._lock:
            slot = self._slots.get(child.name)
            if slot is not None and slot.run is not None:
                raise ValueError(f"a process named {child.name} is running already")
            self._slots[child.name] = Slot(child, self._log_dir / f"{child.name}.log")

    def start(self, *names: str, is_awaited: bool = True) -> None:
        """Start the named processes, or all, where they are not running; wait until each is ready.

        Raises StartError for the first that is not; those that came up keep running until `stop`.
        One that is not awaited comes up by itself, and is started again if it does not.
        """
        self._log_dir.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._closing = False
            wanted = [self._slots[name] for name in names] if names else self._slots.values()
            for slot in wanted:
                slot.is_kept_down = False
                slot.is_awaited = is_awaited
            fresh = [slot for slot in wanted if slot.state in _STARTABLE]
            self._run_watcher()
            begun = [(slot, self._launch(slot)) for slot in fresh]
        for slot, run in begun if is_awaited else ():
            self._await_ready(slot, run)

    def stop(self) -> None:
        """Stop every process, the last added first, and return when all are gone."""
        with self._lock:
            self._closing = True
            slots = list(reversed(self._slots.values()))
            self._wake()
        if not self._stop_in_order:
            for slot in slots:
                self._hang_up(slot)
        for slot in slots:
            self._hang_up(slot)
            self._await_end(slot)
        watcher = self._watcher
        if watcher is not None and watcher is not threading.current_thread():
            watcher.join(5)

    def keep_down(self, name: str) -> None:
        """Stop one process, return when it is gone, and leave it so until `start` names it."""
        with self._lock:
            slot = self._slots[name]
            slot.is_kept_down = True
            self._hang_up(slot)
        self._await_end(slot)

    def pids(self) -> dict[str, int]:
        """Name to pid of every process that runs now."""
        with self._lock:
            runs = {name: slot.run for name, slot in self._slots.items()}
            return {name: run.pid for name, run in runs.items() if run and run.pid is not None}

    def status(self) -> dict[str, ChildStatus]:
        with self._lock:
            return {name: _status(slot) for name, slot in self._slots.items()}

    def _launch(self, slot: Slot) -> Run:
        """Start the guard of one process. The lock is held."""
        child = slot.child
        ours, theirs = socket.socketpair()
        with theirs:
            guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), child.name, str(theirs.fileno())],
                env=dict(child.env),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        ours.sendall(child.guard_spec(slot.log).encode() + b"\n")
        ours.setblocking(False)
        slot.run = run = Run(guard, ours, time.monotonic())
        slot.state = ChildState.STARTING
        slot.ended.clear()
        self._wake()
        if child.ready is not None:
            # A thread for each: a server that takes the line and is slow to answer holds up nobody.
            look = threading.Thread(target=self._look_until_ready, args=(slot, run), daemon=True)
            look.start()
        return run

    def _await_ready(self, slot: Slot, run: Run) -> None:
        child = slot.child
        deadline = time.monotonic() + child.ready_timeout_s
        with self._changed:
            while slot.state is ChildState.STARTING and slot.run is run:
                left = deadline - time.monotonic()
                if left <= 0:
                    reason = f"not ready within {child.ready_timeout_s:g} s{run.probe_fault}"
                    raise StartError(child.name, reason, tail(slot.log))
                if self._asked.is_set():
                    raise StartError(child.name, "it was to end before it was ready", "")
                self._changed.wait(min(left, LOOK_IF_ASKED_S))
            if slot.state is not ChildState.RUNNING or slot.run is not run:
                raise StartError(child.name, f"it {run.how_it_ended()}", tail(slot.log))

    def _hang_up(self, slot: Slot) -> None:
        with self._lock, contextlib.suppress(OSError):
            if slot.run is None:
                slot.state = ChildState.STOPPED
            else:
                slot.run.control.shutdown(socket.SHUT_WR)

    def _await_end(self, slot: Slot) -> None:
        run = slot.run
        if run is None:
            return
        if not slot.ended.wait(slot.child.stop_timeout_s + 10):
            # The guard itself does not answer: the kernel ends its service with it.
            with contextlib.suppress(ProcessLookupError):
                run.guard.kill()
            slot.ended.wait(5)

    def _run_watcher(self) -> None:
        if self._watcher is None or not self._watcher.is_alive():
            wake, self._waker = socket.socketpair()
            self._watcher = threading.Thread(
                target=self._watch, args=(wake, self._waker), name="supervisor", daemon=True
            )
            self._watcher.start()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            if self._waker is not None:
                self._waker.send(b".", socket.MSG_DONTWAIT)

    def _watch(self, wake: socket.socket, waker: socket.socket) -> None:
        """Follow every guard until `stop` has seen the last one end."""
        with wake, waker:
            while True:
                with self._lock:
                    runs = {s.run.control: s for s in self._slots.values() if s.run is not None}
                    if self._closing and not runs:
                        self._watcher = None
                        return
                    patience = self._patience()
                heard = _readable([wake, *runs], patience)
                with self._lock:
                    for slot in [runs[c] for c in runs if c in heard]:
                        self._listen(slot)
                    if wake in heard:
                        wake.recv(4096)
                    self._relaunch_due()

    def _patience(self) -> float | None:
        waiting = [s.restart_at for s in self._slots.values() if s.state is ChildState.WAITING]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else None

    def _listen(self, slot: Slot) -> None:
        """Read what the guard says; its silence is the end of this run. The lock is held."""
        run = slot.run
        if run is None:
            return
        try:
            data = run.control.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        run.received += data
        *lines, run.received = run.received.split(b"\n")
        for line in lines:
            self._hear(slot, run, json.loads(line))
        if not data:
            self._end(slot, run)

    def _hear(self, slot: Slot, run: Run, line: Mapping[str, object]) -> None:
        match line:
            case {"event": "started", "pid": int(pid)}:
                run.pid = pid
                if slot.child.ready is None:
                    self._note_ready(slot)
                identity = ProcessId.of(pid)
                if self._on_start is None or identity is None:
                    return
                try:
                    self._on_start(slot.child.name, identity)
                except OSError as exc:  # a full disk must not end the watch
                    self._say(f"{slot.child.name}: its record cannot be written: {exc}")
            case {"event": "ended", "code": int(code)}:
                run.code = code
            case {"event": "failed", "reason": str(reason)}:
                run.reason = reason

    def _end(self, slot: Slot, run: Run) -> None:
        """A run is over: say so and plan the next, unless we are stopping. The lock is held."""
        run.control.close()
        run.guard.wait()
        if run.pid is not None and run.code is None:
            # The guard was killed. Its service died with it; this ends what that one had started.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(run.pid, signal.SIGKILL)
        was_up = slot.state is ChildState.RUNNING
        slot.run = None
        slot.ended.set()
        is_wanted = not (self._closing or slot.is_kept_down)
        if not is_wanted or not (was_up or _comes_back(slot)):
            slot.state = ChildState.STOPPED
        else:
            self._plan_restart(slot, run)
        self._changed.notify_all()

    def _plan_restart(self, slot: Slot, run: Run) -> None:
        lived_s = time.monotonic() - run.began_at
        slot.failures = 0 if lived_s > STEADY_AFTER_S else slot.failures
        delay_s = min(LONGEST_BACKOFF_S, self._first_backoff_s * 2**slot.failures)
        slot.failures += 1
        slot.restarts += 1
        slot.restart_at = time.monotonic() + delay_s
        slot.state = ChildState.WAITING
        self._say(
            f"{slot.child.name} {run.how_it_ended()} after {lived_s:.0f} s; "
            f"starting it again in {delay_s:g} s (log: {slot.log})"
        )

    def _relaunch_due(self) -> None:
        if self._closing:
            return
        now = time.monotonic()
        for slot in self._slots.values():
            if slot.state is ChildState.WAITING and slot.restart_at <= now:
                self._launch(slot)

    def _look_until_ready(self, slot: Slot, run: Run) -> None:
        """Ask one that comes up whether it is ready; without the lock, for it may take a while."""
        while True:
            is_ready = run.pid is not None and _is_ready(slot.child, run)
            with self._changed:
                if slot.run is not run or slot.state is not ChildState.STARTING:
                    return
                if is_ready:
                    self._note_ready(slot)
                    return
                if _comes_back(slot) and not run.is_given_up:
                    self._give_up_if_late(slot, run)
                self._changed.wait(PROBE_EVERY_S)

    def _note_ready(self, slot: Slot) -> None:
        """Tell who waits for it. The lock is held."""
        slot.state = ChildState.RUNNING
        if slot.restarts:
            self._say(f"{slot.child.name} is running again")
        self._changed.notify_all()

    def _give_up_if_late(self, slot: Slot, run: Run) -> None:
        """End a process that does not get ready, for nobody waits; it is started once more then."""
        limit_s = slot.child.ready_timeout_s
        if time.monotonic() - run.began_at > limit_s:
            run.is_given_up = True
            self._say(f"{slot.child.name} is not ready after {limit_s:g} s{run.probe_fault}")
            self._hang_up(slot)

    def _say(self, line: str) -> None:
        # Whoever listens may have gone (`make run | head`); the watch goes on.
        with contextlib.suppress(OSError, ValueError):
            self._say_to(line)


_STARTABLE = (ChildState.IDLE, ChildState.STOPPED)


def _status(slot: Slot) -> ChildStatus:
    run = slot.run
    up_s = None if run is None else time.monotonic() - run.began_at
    pid = run.pid if run is not None else None
    return ChildStatus(slot.child.name, slot.state, pid, slot.restarts, slot.log, up_s)


def _comes_back(slot: Slot) -> bool:
    """Whether one that does not come up is started again: nobody waits to be told."""
    return bool(slot.restarts) or not slot.is_awaited


def _readable(sockets: Sequence[socket.socket], timeout_s: float | None) -> set[object]:
    with selectors.DefaultSelector() as selector:
        for each in sockets:
            selector.register(each, selectors.EVENT_READ)
        return {key.fileobj for key, _ in selector.select(timeout_s)}


def _is_ready(child: Child, run: Run) -> bool:
    try:
        return child.ready is None or child.ready()
    except Exception as exc:  # the probe is the caller's; a fault in it must not end the watch
        run.probe_fault = f" ({type(exc).__name__}: {exc})"
        return False
