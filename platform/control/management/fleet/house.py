"""What a private installation keeps in its var/ directory.

Gives    House: environment(), write_environment(), password(), claim(), release()
Takes    the var directory and the mode
Raises   FleetError when the directory belongs to an installation of the other mode, cannot be
         written, or is in use

`var/secrets.env` (mode 0600) holds the key ring; losing it loses every stored secret.
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


class FleetError(Exception):
    """The fleet cannot start; the text says why and what to do."""


class House:
    """One var directory."""

    def __init__(self, var_dir: Path, mode: str) -> None:
        self.var_dir = var_dir.absolute()
        self.mode = mode
        self._lock_fd = -1
        try:
            self.var_dir.mkdir(parents=True, exist_ok=True)
            mark = self.var_dir / "mode"
            if mark.exists() and (found := mark.read_text().strip()) != mode:
                raise FleetError(f"{self.var_dir} belongs to an installation in {found} mode")
            mark.write_text(f"{mode}\n")
            self._secrets = self._read_secrets()
        except OSError as exc:
            raise FleetError(f"{exc.filename}: {exc.strerror}") from exc

    def claim(self) -> None:
        """Be the one fleet of this directory until `release`, or until this process ends."""
        path = self.var_dir / "run" / "fleet.lock"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise FleetError(
                f"a fleet runs in {self.var_dir} already{self._where()}; stop it first with Ctrl-C"
            ) from None
        self._lock_fd = fd

    def release(self) -> None:
        """Let another fleet have the directory."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _where(self) -> str:
        try:
            lines = (self.var_dir / ENV_FILE).read_text(encoding="utf-8").splitlines()
        except OSError:
            return ""
        urls = [line.partition("=")[2] for line in lines if line.startswith("PUBLIC_URL=")]
        return f", its panel is {urls[0]}/panel/" if urls else ""

    def password(self, name: str) -> str:
        """Return a generated password of this installation, the same each time."""
        if name not in self._secrets:
            self._secrets[name] = secrets.token_urlsafe(18)
            self._write_private(self.var_dir / "secrets.env", self._secrets)
        return self._secrets[name]

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of our processes."""
        return {
            **os.environ,
            "MODE": self.mode,
            "VAR_DIR": str(self.var_dir),
            "SECRET_KEYS": self._secrets["SECRET_KEYS"],
            "PYTHONPATH": os.pathsep.join((str(TOP), str(TOP / "platform"))),
            "PYTHONUNBUFFERED": "1",
            **extra,
        }

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
        if path.exists():
            pairs = (line.partition("=") for line in path.read_text().splitlines() if "=" in line)
            return {name: value for name, _, value in pairs}
        made = {"SECRET_KEYS": f"1:{base64.b64encode(secrets.token_bytes(32)).decode()}"}
        self._write_private(path, made)
        return made

    @staticmethod
    def _write_private(path: Path, pairs: Mapping[str, str]) -> None:
        text = "".join(f"{name}={value}\n" for name, value in pairs.items())
        new = path.with_suffix(".new")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
        new.replace(path)
