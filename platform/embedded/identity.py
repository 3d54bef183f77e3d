"""As whom PostgreSQL runs: it refuses uid 0.

Takes    the system's word on who we are, the directory of its programs
Gives    Identity: the programs to call, what to put before them, where its data may lie
Raises   StartError when we are root and neither way works
Follows  user_namespaces(7)

An ordinary user runs it as it is. Root runs it in a user namespace where root's uid is called 1000,
so the files stay root's and a closed home stays closed. Where namespaces are refused, the programs
are copied to a place the user `nobody` can read, and the data goes there too if `nobody` cannot
reach the run directory.
"""

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from embedded.errors import StartError

NAMESPACE = ("unshare", "-U", "--map-user=1000", "--")
SYSTEM_HOME = Path("/var/lib/postfleet")
UNPRIVILEGED = "nobody"


@dataclass(frozen=True, slots=True)
class Identity:
    bin: Path
    prefix: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None
    system_home: Path = SYSTEM_HOME

    def data_dir(self, wanted: Path) -> Path:
        """Return `wanted`, or a directory of the system home if this user cannot reach it, or if
        the data went there when it was made."""
        digest = hashlib.sha256(os.fsencode(wanted.resolve())).hexdigest()[:16]
        outside = self.system_home / digest / wanted.name
        if self.uid is None:
            return outside if outside.exists() and not wanted.exists() else wanted
        return wanted if can_others_reach(wanted.parent) else outside

    def adopt(self, data: Path, wanted: Path) -> None:
        """Take over data that was made under another identity of the same machine."""
        if data != wanted and wanted.exists():
            data.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            shutil.move(wanted, data)
        if os.geteuid() != 0 or not data.exists():
            return
        uid, gid = self.uid or 0, self.gid or 0
        if data.stat().st_uid != uid:
            for path in (data, *data.rglob("*")):
                os.chown(path, uid, gid, follow_symlinks=False)

    def give(self, *paths: Path) -> None:
        """Make this user the owner."""
        for path in paths:
            if self.uid is not None and self.gid is not None:
                os.chown(path, self.uid, self.gid)


def choose_identity(
    bin_dir: Path, *, allow_namespace: bool = True, system_home: Path = SYSTEM_HOME
) -> Identity:
    """Return how PostgreSQL is to be run by this process."""
    if os.geteuid() != 0:
        return Identity(bin_dir, system_home=system_home)
    if allow_namespace and has_namespaces():
        return Identity(bin_dir, NAMESPACE, system_home=system_home)
    try:
        user = pwd.getpwnam(UNPRIVILEGED)
    except KeyError as exc:
        raise StartError(
            "postgres",
            f"it cannot run as root, user namespaces are refused and there is no user "
            f"{UNPRIVILEGED}; run as an ordinary user, or set DATABASE_URL",
        ) from exc
    copy = copy_programs(bin_dir, system_home)
    return Identity(copy, uid=user.pw_uid, gid=user.pw_gid, system_home=system_home)


def has_namespaces() -> bool:
    try:
        done = subprocess.run([*NAMESPACE, "true"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def can_others_reach(directory: Path) -> bool:
    """Return whether a stranger may pass through every directory on the way."""
    resolved = directory.resolve()
    return all(os.stat(d).st_mode & stat.S_IXOTH for d in (resolved, *resolved.parents))


def copy_programs(bin_dir: Path, system_home: Path) -> Path:
    """Copy the programs and the libraries beside them to where any user can read them."""
    package = bin_dir.parents[1]
    libraries = package.with_name("pgserver.libs")
    made_from = f"{package.resolve()}:{(bin_dir / 'postgres').stat().st_mtime_ns}"
    target = system_home / f"programs-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}"
    copied_bin = target / package.name / bin_dir.parent.name / bin_dir.name
    if copied_bin.exists():
        return copied_bin
    system_home.mkdir(mode=0o755, parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    for part in ("bin", "lib", "share"):
        source = bin_dir.parent / part
        shutil.copytree(source, draft / package.name / bin_dir.parent.name / part, symlinks=True)
    if libraries.is_dir():
        shutil.copytree(libraries, draft / libraries.name, symlinks=True)
    for path in (draft, *draft.rglob("*")):
        if not path.is_symlink():
            os.chmod(path, os.stat(path).st_mode | (0o055 if path.is_dir() else 0o044))
    for path in (draft / package.name / bin_dir.parent.name / "bin").iterdir():
        os.chmod(path, 0o755)  # noqa: S103 - programs of a public wheel, for any user to run
    try:
        os.rename(draft, target)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)  # another process was quicker
    return copied_bin
