"""The environment of the control plane: the process's own, then what a running stack left.

Gives    Environment, read_environment()
Takes    os.environ; the file `<VAR_DIR>/run/env` (KEY=VALUE lines) that `make run` writes
Raises   ImproperlyConfigured naming the variable that is wrong

So `manage.py reset_password` finds the stack that `make run` started, with nothing to export.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from mailio.settings import Settings, SettingsError, load
from mailio.vault import derive_key

TOP = Path(__file__).resolve().parents[2]
ENV_FILE = Path("run") / "env"


@dataclass(frozen=True, slots=True)
class Environment:
    """What the project's settings are made of. `settings` is None when no database is named:
    then only commands that need none work."""

    settings: Settings | None
    variables: Mapping[str, str]

    @property
    def is_lab(self) -> bool:
        """Whether this process serves the lab; a process without stores serves nothing."""
        return self.settings is not None and self.settings.is_lab

    @property
    def serves_https(self) -> bool:
        """Whether people reach us over HTTPS; PUBLIC_URL=http://… says they do not."""
        return not self.is_lab and not self.variables.get("PUBLIC_URL", "").startswith("http://")

    def hosts(self) -> list[str]:
        """Names under which requests are taken: ALLOWED_HOSTS, else this host alone."""
        listed = [name.strip() for name in self.variables.get("ALLOWED_HOSTS", "").split(",")]
        return [name for name in listed if name] or ["localhost", "127.0.0.1", "[::1]"]

    def django_keys(self) -> list[str]:
        """Signing keys for sessions and forms, newest first, derived from SECRET_KEYS."""
        if self.settings is None:
            return [secrets.token_urlsafe(64)]
        ring = self.settings.secret_keys
        return [derive_key(ring[one], purpose="django").hex() for one in sorted(ring)[::-1]]


def _left_by_stack(var_dir: Path) -> dict[str, str]:
    try:
        text = (var_dir / ENV_FILE).read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def read_environment(environ: Mapping[str, str] | None = None) -> Environment:
    """Return the environment in force; the process's own variables win over the stack's."""
    own = dict(os.environ if environ is None else environ)
    # Where `make run` keeps its data, beside the code, for either mode.
    var_dir = own.get("VAR_DIR") or TOP / "var" / (own.get("MODE") or "lab")
    left = _left_by_stack(Path(var_dir))
    variables = {**left, **{name: value for name, value in own.items() if value}}
    if not variables.get("DATABASE_URL"):
        return Environment(None, variables)
    try:
        return Environment(load(variables), variables)
    except SettingsError as exc:
        raise ImproperlyConfigured(str(exc)) from exc
