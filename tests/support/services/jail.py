"""A directory that a daemon takes for the whole machine: its package, its libraries, its users.

Takes    a package, downloaded and unpacked by make test (never installed); root, for chroot(8)
Gives    make_jail(): a Jail with its top; Jail.argv(), run(), letters(); Smarthost
Raises   MissingService: not unpacked, not root, or a library is not on this machine
Follows  chroot(8), ldd(1)

Some mail servers know their places and users by names compiled in. In a jail these are theirs
alone, so that nothing of the system is read, made or changed, and two versions do not meet.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.services.base import MissingService, account, environment, home, write

PACKAGES = Path(__file__).resolve().parents[3] / "var" / "cache" / "packages"
# Where mail ends up in each jail: one Maildir, of a user with this number in every Debian.
MAILDIR = "/var/mail/box"
MAIL_ID = 8
_ROOT = account("root")
_NULL = os.makedev(1, 3)
# chroot(1) itself failed, as it may in a container.
_NOT_CHANGED = 125
_LIBRARY = re.compile(r"(\S+)(?: => (\S+))? \(0x|(\S+) => not found")


@dataclass(frozen=True)
class Smarthost:
    """A listener that a server may send its mail on to, in three ways.

    `open_port` takes it from this machine without a login, `port` wants STARTTLS and a login,
    `tls_port` TLS at once and a login.
    """

    open_port: int
    port: int
    tls_port: int
    user: str
    password: str
    certificate: Path
    host: str


# By the domain of the recipient.
OPEN_DOMAIN, LOGIN_DOMAIN, TLS_DOMAIN = "open.relay.test", "login.relay.test", "tls.relay.test"


@dataclass(frozen=True)
class Jail:
    """A daemon's machine."""

    top: Path

    def argv(self, *command: str) -> list[str | Path]:
        """Return what runs a command in here."""
        return ["chroot", self.top, *command]

    def run(self, *command: str) -> str:
        """Run a command in here, and return what it says."""
        said = subprocess.run(
            self.argv(*command), env=environment(), capture_output=True, text=True, check=False
        )
        if said.returncode == _NOT_CHANGED:
            raise MissingService(said.stderr.strip())
        return said.stdout + said.stderr

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write a file of configuration."""
        write(self.top / path.lstrip("/"), text, _ROOT, mode=mode)

    def directory(self, path: str, *, owner: int = 0, mode: int = 0o755) -> Path:
        """Make a directory and those above it."""
        made = self.top / path.lstrip("/")
        made.mkdir(parents=True, exist_ok=True)
        made.chmod(mode)
        os.chown(made, owner, owner)
        return made

    @property
    def maildir(self) -> Path:
        """Where mail ends up."""
        return self.top / MAILDIR.lstrip("/")


def make_jail(name: str, package: str, programs: Sequence[str], users: Mapping[str, int]) -> Jail:
    """Make the jail of a daemon with the package and what its programs need of the system."""
    unpacked = PACKAGES / package
    if not unpacked.is_dir():
        raise MissingService(f"{package} is not unpacked (make test does so where apt-get is)")
    if os.geteuid() != 0:
        raise MissingService(f"{package}: only root can give it a directory for a machine")
    needed = {
        library
        for program in programs
        for library in _libraries(_outside(unpacked, program), package)
    }
    top = home(name, _ROOT)
    # Its processes run as several users, each of which has to pass through.
    top.chmod(0o755)
    jail = Jail(top / "root")
    shutil.copytree(unpacked, jail.top, symlinks=True)
    for path in needed | {Path(p) for p in programs if not (unpacked / p.lstrip("/")).exists()}:
        copy = jail.top / str(path).lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    jail.directory("/tmp", mode=0o1777)
    jail.directory("/dev")
    null = jail.top / "dev" / "null"
    try:
        os.mknod(null, 0o20666, _NULL)
        null.chmod(0o666)
        null.read_bytes()
    except OSError as exc:
        raise MissingService(f"{package}: no /dev/null can be made for it: {exc}") from exc
    known = {"root": 0, "mail": MAIL_ID, "nobody": 65534, **users}
    jail.directory("/etc")
    rows = (f"{user}:x:{number}:{number}::/:/bin/sh\n" for user, number in known.items())
    jail.write("/etc/passwd", "".join(rows))
    jail.write("/etc/group", "".join(f"{user}:x:{number}:\n" for user, number in known.items()))
    jail.write("/etc/hosts", "127.0.0.1 localhost\n")
    jail.write("/etc/services", "smtp 25/tcp\nsmtps 465/tcp\n")
    jail.write("/etc/resolv.conf", "nameserver 127.0.0.1\n")
    jail.directory("/var/mail", owner=MAIL_ID)
    return jail


def _outside(unpacked: Path, program: str) -> Path:
    inside = unpacked / program.lstrip("/")
    return inside if inside.exists() else Path(program)


def _libraries(program: Path, package: str) -> list[Path]:
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    found = []
    for bare, path, missing in _LIBRARY.findall(said):
        if missing:
            raise MissingService(
                f"{package} needs {missing} (make test as root installs it where apt-get is)"
            )
        where = path or bare
        if where.startswith("/"):
            found.append(Path(where))
    return found
