"""The file in a spool directory that says whose it is: installation, node, sweeps seen.

Gives    read_mark, write_mark, claim
Raises   OSError for a directory that cannot be read or written; StoreUnavailable from `claim` for a
         directory of another installation

Two installations that share a directory would each take the other's segments for garbage: neither
writes to nor deletes from a directory that the other has marked.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict
from pathlib import Path

from mailcore.ports import StoreUnavailable
from mailcore.spool import SpoolMark
from mailio.spool.files import MARK, sync_directory

_MOST_BYTES = 4096


def read_mark(directory: Path) -> SpoolMark | None:
    """Return what a directory is marked with, None if nobody did; a mark that cannot be understood
    is nobody's we know."""
    try:
        with (directory / MARK).open("rb") as file:
            text = file.read(_MOST_BYTES)
    except FileNotFoundError:
        return None
    try:
        found = json.loads(text)
        return SpoolMark(str(found["installation"]), str(found["node"]), int(found["sweeps"]))
    except (ValueError, KeyError, TypeError):
        return SpoolMark("")


def write_mark(directory: Path, mark: SpoolMark) -> None:
    """Mark a directory, whatever it was marked with."""
    path = _written(directory, mark)
    try:
        path.replace(directory / MARK)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    sync_directory(directory)


def claim(directory: Path, installation: str) -> None:
    """Mark a directory that nobody has marked; refuse one that is another installation's."""
    if read_mark(directory) is None:
        path = _written(directory, SpoolMark(installation))
        try:
            os.link(path, directory / MARK)
        except FileExistsError:
            pass  # somebody was faster; who, shows below
        finally:
            path.unlink(missing_ok=True)
        sync_directory(directory)
    found = read_mark(directory)
    if found is None or found.installation != installation:
        reason = (
            f"{directory} is marked by another installation, or DATABASE_URL names another"
            " database; see docs/operate/spool.md"
        )
        raise StoreUnavailable("spool", reason)


def _written(directory: Path, mark: SpoolMark) -> Path:
    path = directory / f"{MARK}.{os.getpid()}-{threading.get_ident()}"
    try:
        with path.open("w") as file:
            json.dump(asdict(mark), file)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path
