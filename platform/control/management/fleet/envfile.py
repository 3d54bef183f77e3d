"""Read a file of variables, as systemd's EnvironmentFile= reads it.

Gives    read_env_file(), joined()
Takes    a file of lines NAME=value; # and ; begin a comment; a value may stand in quotes; a
         backslash makes the next character an ordinary one, but not between single quotes
Raises   FleetError naming file and line, never the value: it may be a password
Follows  systemd.exec(5); where it would join lines, or the pieces of a value, this refuses
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from control.management.fleet.house import FleetError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LINE_END = re.compile(r"\r\n|\n|\r")
_SINGLE = re.compile(r"'([^']*)'")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"')


def read_env_file(path: Path) -> dict[str, str]:
    """Return the variables of a file."""
    try:
        lines = _LINE_END.split(path.read_text(encoding="utf-8-sig"))
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
    given = read_env_file(path) if path is not None else {}
    return {**{name: value for name, value in given.items() if value}, **own}


def _unquoted(value: str, path: Path, number: int) -> str:
    where = f"{path}, line {number}"
    if value[:1] not in ("'", '"'):
        if re.search(r"(?<!\\)(\\\\)*\\$", value):
            raise FleetError(f"{where}: it ends in a backslash; a value stands on one line")
        return re.sub(r"\\(.)", r"\1", value)
    found = (_SINGLE if value[0] == "'" else _DOUBLE).match(value)
    if found is None:
        raise FleetError(f"{where}: its quote does not end")
    if found.end() < len(value):
        raise FleetError(f"{where}: something stands behind its closing quote")
    return found[1] if value[0] == "'" else re.sub(r'\\(["\\`$])', r"\1", found[1])
