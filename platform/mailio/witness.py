"""What this node has seen of the ledger, in a file: who knows more is newer.

Gives    Witness: `read`, `note`; Seen
Takes    the path of the file, in VAR_DIR; the node's name
Raises   nothing: a file that cannot be read or written is no evidence, and the log says so

The ledger counts a node's heartbeats, and only then does the node write the count down. So a file
that knows of more than the ledger proves that the ledger has lost transactions. One that knows of
less proves nothing. All processes of a VAR_DIR share the file; whichever of them wrote last.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

_MOST_BYTES = 4096

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """How many heartbeats the ledger of an installation had counted under a name, and when, by
    the database's clock (seconds since 1970)."""

    installation: str
    name: str
    beats: int = 0
    at_s: float = 0.0


class Witness:
    """The file of one VAR_DIR."""

    def __init__(self, path: Path, *, node: str) -> None:
        self._path = Path(path)
        self._node = node
        self._has_failed = False

    def read(self, installation: str) -> Seen:
        """Return what was seen of this installation; under a new name if that is nothing."""
        try:
            with self._path.open("rb") as file:
                found = json.loads(file.read(_MOST_BYTES))
            seen = Seen(
                str(found["installation"]),
                str(found["name"]),
                int(found["beats"]),
                float(found["at_s"]),
            )
        except FileNotFoundError:
            seen = Seen("", "")
        except (OSError, ValueError, KeyError, TypeError) as exc:
            log.warning("witness not read", extra={"file": str(self._path), "reason": str(exc)})
            seen = Seen("", "")
        if seen.installation == installation:
            return seen
        fresh = Seen(installation, f"{self._node}/{secrets.token_hex(8)}")
        self.note(fresh)
        return fresh

    def note(self, seen: Seen) -> None:
        """Write down what the ledger has counted; after the ledger has, never before."""
        path = self._path.with_name(f"{self._path.name}.{os.getpid()}-{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(asdict(seen)))
            path.replace(self._path)
            self._has_failed = False
        except OSError as exc:
            path.unlink(missing_ok=True)
            if not self._has_failed:
                reason = exc.strerror or str(exc)
                log.warning("witness not written", extra={"file": str(path), "reason": reason})
            self._has_failed = True
