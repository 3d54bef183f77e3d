"""Run one service, and end it when the process that wanted it is gone.

Started by `embedded.supervise` as `python -I -S guard.py NAME FD`, in a session of its own: Ctrl-C
in a terminal reaches the supervisor alone. It imports the standard library only, being run by path.

Takes    FD, the control socket; its first line is JSON: argv, cwd, log, log_bytes, stop_signal,
         stop_timeout_s, parent_pid, lock, lock_timeout_s, pid_file, uid, gid (see
         `embedded.child.Child`). NAME is for whoever lists processes
Gives    JSON lines on the control socket: {"event": "started", "pid"}, {"event": "ended", "code"},
         {"event": "failed", "reason"}; the service's output in its log, which never outgrows
         twice `log_bytes`; the service's exit code (128 + n after signal n) as its own
Raises   nothing; a fault is the line "failed" and exit code 70
Follows  prctl(2), flock(2)

The end of the control socket means stop, whether the supervisor closed it or was killed; a changed
parent means the same, should a stray copy of the socket's other end live on. The service holds the
lock file too, so the lock is free only when guard, service and its children are all gone.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LOOK_AT_PARENT_S = 1.0
FAILED = 70

_libc = ctypes.CDLL(None, use_errno=True)


class GuardError(Exception):
    """The service could not be started; the text says why."""


class Log:
    """The service's output: appended, and turned over to `<name>.1` at its bound."""

    def __init__(self, path: Path, bound_bytes: int) -> None:
        self._path = path
        self._bound = bound_bytes
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size

    def write(self, data: bytes) -> None:
        # A full disk must not end the service: the line is lost, the mail is not.
        with contextlib.suppress(OSError):
            if self._size > self._bound:
                os.replace(self._path, f"{self._path}.1")
                outgrown = self._fd
                self._open()
                os.close(outgrown)
            self._size += os.write(self._fd, data)


def take_lock(path: str, timeout_s: float) -> int:
    """Return the descriptor of the lock once it is ours; GuardError after the timeout."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        else:
            return fd
        if time.monotonic() > deadline:
            raise GuardError(f"another process still holds {path}")
        select_pause(0.05)


def select_pause(seconds: float) -> None:
    """Wait; the guard has nothing else to do before its service runs."""
    with selectors.DefaultSelector() as selector:
        selector.select(seconds)


def clear_stale_pid_file(path: Path) -> None:
    """Remove a pid file left by a crash, unless its process really works in that directory."""
    try:
        pid = int(path.read_text().split("\n", 1)[0])
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        pid = 0
    if pid > 0:
        with contextlib.suppress(OSError):
            if os.path.realpath(f"/proc/{pid}/cwd") == os.path.realpath(path.parent):
                raise GuardError(f"process {pid} still works in {path.parent}")
    path.unlink(missing_ok=True)


def die_with_guard() -> None:
    """In the child: be killed by the kernel should the guard itself be killed."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def spawn(spec: Mapping[str, Any], output_fd: int, keep_fds: list[int]) -> subprocess.Popen[bytes]:
    """Start the service in a process group of its own."""
    identity: dict[str, Any] = {}
    if spec.get("uid") is not None:
        identity = {"user": spec["uid"], "group": spec["gid"], "extra_groups": []}
    try:
        return subprocess.Popen(
            spec["argv"],
            cwd=spec.get("cwd"),
            stdin=subprocess.DEVNULL,
            stdout=output_fd,
            stderr=output_fd,
            pass_fds=keep_fds,
            process_group=0,
            preexec_fn=die_with_guard,  # one thread only, so it is safe
            **identity,
        )
    except OSError as exc:
        raise GuardError(f"cannot run {spec['argv'][0]}: {exc.strerror}") from exc


class Guard:
    """One service from start to end."""

    def __init__(self, control: socket.socket, spec: Mapping[str, Any]) -> None:
        self._spec = spec
        self._control = control
        self._control.setblocking(False)
        self._log = Log(Path(spec["log"]), spec["log_bytes"])
        self._selector = selectors.DefaultSelector()
        self._kill_at: float | None = None
        self._code: int | None = None

    def tell(self, **line: object) -> None:
        """Write one line to the supervisor; it may be gone."""
        with contextlib.suppress(OSError):
            self._control.send(json.dumps(line).encode() + b"\n")

    def run(self) -> int:
        spec = self._spec
        keep = [take_lock(spec["lock"], spec["lock_timeout_s"])] if spec.get("lock") else []
        if spec.get("pid_file"):
            clear_stale_pid_file(Path(spec["pid_file"]))
        if os.getppid() != spec["parent_pid"]:
            return FAILED
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        output_r, output_w = os.pipe()
        wake_r = self._catch_signals()
        child = spawn(spec, output_w, keep)
        os.close(output_w)
        self._pid = child.pid
        self.tell(event="started", pid=child.pid)
        os.set_blocking(output_r, False)
        for fd in (output_r, wake_r, self._control.fileno()):
            self._selector.register(fd, selectors.EVENT_READ)
        self._watch(output_r, wake_r)
        self._end_stragglers()
        self._drain(output_r)
        child.returncode = self._code
        self.tell(event="ended", code=self._code)
        code = self._code or 0
        return code if code >= 0 else 128 - code

    def _catch_signals(self) -> int:
        wake_r, wake_w = os.pipe()
        os.set_blocking(wake_r, False)
        os.set_blocking(wake_w, False)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(ignored, signal.SIG_IGN)
        return wake_r

    def _watch(self, output_r: int, wake_r: int) -> None:
        while self._code is None:
            for key, _ in self._selector.select(self._patience()):
                if key.fd == output_r:
                    if not self._drain(output_r):
                        self._selector.unregister(output_r)
                elif key.fd == wake_r:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake_r, 512)
                elif self._hung_up():
                    self._selector.unregister(self._control.fileno())
                    self._stop()
            if os.getppid() != self._spec["parent_pid"]:
                self._stop()
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._signal_group(signal.SIGKILL)
            self._reap()

    def _patience(self) -> float:
        if self._kill_at is None:
            return LOOK_AT_PARENT_S
        return min(LOOK_AT_PARENT_S, max(0.05, self._kill_at - time.monotonic()))

    def _hung_up(self) -> bool:
        try:
            return self._control.recv(512) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _stop(self) -> None:
        if self._kill_at is not None or self._code is not None:
            return
        self._kill_at = time.monotonic() + self._spec["stop_timeout_s"]
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self._pid, self._spec["stop_signal"])

    def _signal_group(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signum)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._pid:
                    self._code = os.waitstatus_to_exitcode(status)

    def _end_stragglers(self) -> None:
        """Kill what the service left behind; as subreaper all of it is ours."""
        self._signal_group(signal.SIGKILL)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            except FileNotFoundError:  # a kernel that does not list them
                return
            if not children:
                return
            for pid in children:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(int(pid), signal.SIGKILL)
            select_pause(0.02)
            self._reap()

    def _drain(self, fd: int) -> bool:
        """Copy what is there to the log; False at the end of the output."""
        for _ in range(16):  # then look at the rest of the world: some never stop talking
            try:
                data = os.read(fd, 65536)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._log.write(data)
        return True


def main(control_fd: int) -> int:
    os.umask(0o077)
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    with control.makefile("rb") as stream:
        line = stream.readline()
    if not line.endswith(b"\n"):
        return FAILED  # the supervisor was gone before it could say what to run
    guard = Guard(control, json.loads(line))
    try:
        return guard.run()
    except (GuardError, OSError) as exc:
        guard.tell(event="failed", reason=str(exc))
        return FAILED


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[2])))
