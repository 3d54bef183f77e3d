"""What OpenDKIM says of the signatures of a message.

Takes    Debian's opendkim; the public keys, by their names in DNS
Gives    Verdict, verdicts()
Raises   MissingService
Follows  opendkim(8) -t, opendkim.conf(5) TestPublicKeys; RFC 8601 for the field it answers in

No milter and no DNS: the program reads one message from a file and ends.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.services.base import environment, require

_RESULT = re.compile(r"\bdkim=(\w+)")
_TAG = re.compile(r"\bheader\.([ds]|a)=([\w.-]+)")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One signature: `result` is `pass` or why not, `algorithm` as in its `a=`."""

    result: str
    algorithm: str
    domain: str
    selector: str


def verdicts(content: bytes, keys: Mapping[str, str], directory: Path) -> list[Verdict]:
    """Return a verdict for each signature, from the top; `keys` are TXT values by name."""
    program = require("opendkim", "opendkim")
    names, config, message = (directory / name for name in ("keys", "opendkim.conf", "message"))
    names.write_text("".join(f"{name.rstrip('.')} {value}\n" for name, value in keys.items()))
    config.write_text(f"Mode v\nTestPublicKeys {names}\nSyslog no\n")
    message.write_bytes(content)
    # Twice verbose: it then prints the field that it would add.
    argv = [program, "-x", str(config), "-vv", "-t", str(message)]
    done = subprocess.run(
        argv, env=environment(), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    found = []
    for clause in done.stdout.split(";"):
        if result := _RESULT.search(clause):
            tags = dict(_TAG.findall(clause))
            found.append(Verdict(result[1], tags["a"], tags["d"], tags["s"]))
    return found
