"""What a private installation keeps in its var/ directory.

Gives    House: environment(), write_environment(), password(), claim(), release();
         check_unused(), which refuses a directory in which a fleet runs
Takes    the var directory, the mode; for a fleet on services of its own the environment that was
         checked, else the process's
Raises   FleetError when the directory belongs to an installation of the other mode, cannot be
         written, or is in use

`var/secrets.env` (mode 0600) holds the key ring, unless the environment brought one, and drawn
passwords; losing the key ring loses every stored secret.
"""

from __future__ import annotations

import base64
import fcntl
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from control.environment import ENV_FILE
from control.environment import TOP as TOP

LOCK = Path("run") / "fleet.lock"


class FleetError(Exception):
    """The fleet cannot start; the text says why and what to do."""


def check_unused(var_dir: Path) -> None:
    """Refuse a directory whose lock a fleet holds; touch nothing."""
    try:
        fd = os.open(var_dir / LOCK, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(var_dir) from None
    finally:
        os.close(fd)


def _in_use(var_dir: Path) -> FleetError:
    try:
        lines = (var_dir / ENV_FILE).read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    urls = [line.partition("=")[2] for line in lines if line.startswith("PUBLIC_URL=")]
    where = f", its panel is {urls[0].rstrip('/')}/panel/" if urls else ""
    return FleetError(f"a fleet runs in {var_dir} already{where}; stop it first")


class House:
    """One var directory. `environ` brings the key ring; without it one is drawn and kept here."""

    def __init__(
        self, var_dir: Path, mode: str, *, environ: Mapping[str, str] | None = None
    ) -> None:
        self.var_dir = var_dir.absolute()
        self.mode = mode
        self.environ: Mapping[str, str] = os.environ if environ is None else environ
        self._is_own = environ is not None
        self._lock_fd = -1
        try:
            self.var_dir.mkdir(parents=True, exist_ok=True)
            mark = self.var_dir / "mode"
            if mark.exists() and (found := mark.read_text().strip()) != mode:
                raise FleetError(f"{self.var_dir} belongs to an installation in {found} mode")
            mark.write_text(f"{mode}\n")
            self._secrets = self._read_secrets()
            if environ is None:
                self._draw("SECRET_KEYS", f"1:{base64.b64encode(secrets.token_bytes(32)).decode()}")
                self._keys = self._secrets["SECRET_KEYS"]
            else:
                self._keys = environ["SECRET_KEYS"]
        except OSError as exc:
            raise FleetError(f"{exc.filename}: {exc.strerror}") from exc

    def claim(self) -> None:
        """Be the one fleet of this directory until `release`, or until this process ends."""
        path = self.var_dir / LOCK
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise _in_use(self.var_dir) from None
        self._lock_fd = fd

    def release(self) -> None:
        """Let another fleet have the directory."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def password(self, name: str) -> str:
        """Return a generated password of this installation, the same each time."""
        self._draw(name, secrets.token_urlsafe(18))
        return self._secrets[name]

    def _draw(self, name: str, drawn: str) -> None:
        if name not in self._secrets:
            self._secrets[name] = drawn
            self._write_private(self.var_dir / "secrets.env", self._secrets)

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of our processes."""
        return {
            **self.environ,
            "MODE": self.mode,
            "VAR_DIR": str(self.var_dir),
            "SECRET_KEYS": self._keys,
            # Ours may be those of a command that touches no row.
            "DJANGO_SETTINGS_MODULE": "control.settings",
            "PYTHONPATH": os.pathsep.join((str(TOP), str(TOP / "platform"))),
            "PYTHONUNBUFFERED": "1",
            **extra,
        }

    def flower_auth(self, user: str) -> str:
        """Return who may look at Flower, as `user:password`: whom the environment of a fleet on
        services of its own names, else one with a drawn password."""
        given = self.environ.get("FLOWER_BASIC_AUTH", "") if self._is_own else ""
        return given or f"{user}:{self.password('FLOWER_PASSWORD')}"

    def public_url(self, found: str) -> dict[str, str]:
        """Return PUBLIC_URL: what the environment says, else where the panel was found to be. In
        live mode nobody can know it but the operator."""
        given = self.environ.get("PUBLIC_URL", "") if self._is_own else ""
        if not given and self._is_own and self.mode != "lab":
            return {}
        return {"PUBLIC_URL": given or found}

    def write_environment(self, environment: Mapping[str, str]) -> None:
        """Leave what `manage.py` needs to find this installation while it runs."""
        names = [
            "MODE",
            "NODE",
            "VAR_DIR",
            "SECRET_KEYS",
            "DATABASE_URL",
            "BROKER_URL",
            "REDIS_URL",
            "CLICKHOUSE_URL",
            "SPOOL_URL",
            "SMTP_PORT",
            "DNS_RESOLVER",
            "PUBLIC_URL",
            "ALLOWED_HOSTS",
        ]
        kept = {name: environment[name] for name in names if environment.get(name)}
        path = self.var_dir / ENV_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write_private(path, kept)

    def _read_secrets(self) -> dict[str, str]:
        path = self.var_dir / "secrets.env"
        if not path.exists():
            return {}
        pairs = (line.partition("=") for line in path.read_text().splitlines() if "=" in line)
        return {name: value for name, _, value in pairs}

    @staticmethod
    def _write_private(path: Path, pairs: Mapping[str, str]) -> None:
        text = "".join(f"{name}={value}\n" for name, value in pairs.items())
        new = path.with_suffix(".new")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
        new.replace(path)
