"""Read a file of variables, as systemd's EnvironmentFile= reads it.

Gives    read_env_file(), joined()
Takes    a file of lines NAME=value; # and ; begin a comment; a value may stand in quotes
Raises   FleetError naming file and line, never the value: it may be a password
Follows  systemd.exec(5), without its continuation lines
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from control.management.fleet.house import FleetError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def read_env_file(path: Path) -> dict[str, str]:
    """Return the variables of a file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as exc:
        raise FleetError(f"{path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise FleetError(f"{path} is not text in UTF-8") from exc
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text[0] in "#;":
            continue
        name, equals, value = text.partition("=")
        if not equals or not _NAME.fullmatch(name.strip()):
            raise FleetError(f"{path}, line {number}: it is not NAME=value")
        found[name.strip()] = _unquoted(value.strip(), path, number)
    return found


def joined(environ: Mapping[str, str], path: Path | None) -> dict[str, str]:
    """Return the process's environment, with what only the file says added."""
    own = {name: value for name, value in environ.items() if value}
    return {**(read_env_file(path) if path is not None else {}), **own}


def _unquoted(value: str, path: Path, number: int) -> str:
    if value[:1] not in ("'", '"'):
        return value
    if len(value) < 2 or value[-1] != value[0]:
        raise FleetError(f"{path}, line {number}: its quote does not end")
    return value[1:-1]
